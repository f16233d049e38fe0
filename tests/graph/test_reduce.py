"""Sums over all tasks: the same as a loop, on every scheduler; errors come through."""

import os
import platform
import resource
import sys
import threading
import time
import types

import cloudpickle
import dask
import numpy as np
import pytest

from daskmlr import InputError, plan, reduce_tasks
from daskmlr.graph import leaf, reduce
from daskmlr.graph.execute import connect

# worker processes cannot import a test module: what is defined here travels whole
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def row_sums(block, power=1):
    return np.append((block.X**power).sum(axis=0), block.n_tasks)


def add(left, right):
    return left + right


def by_loop(tasks, power=1):
    return sum(row_sums(tasks.read_block(i), power) for i in range(tasks.n_blocks))


@pytest.mark.parametrize("client", ["sync", "threads", None])
def test_sum_equals_a_loop(easy_tasks, client):
    assert easy_tasks.n_blocks > plan.SPLIT_EVERY
    total = reduce_tasks(easy_tasks, row_sums, add, args=(2,), client=client)
    np.testing.assert_allclose(total, by_loop(easy_tasks, 2), rtol=1e-13)


def test_processes_give_the_same_bits(easy_tasks, process_client):
    here = reduce_tasks(easy_tasks, row_sums, add, client="sync")
    there = reduce_tasks(easy_tasks, row_sums, add, client=process_client)
    np.testing.assert_array_equal(here, there)


def test_lambdas_travel_to_processes(easy_tasks, process_client):
    offset = 10
    total = reduce_tasks(
        easy_tasks,
        lambda block: block.n_tasks * offset,
        lambda left, right: left + right,
        client=process_client,
    )
    assert total == 10 * easy_tasks.n_tasks


@pytest.mark.parametrize("client", ["sync", "threads"])
def test_sums_in_place_are_those_of_combine(easy_tasks, client, monkeypatch):
    monkeypatch.setattr(plan, "MIN_RUNS", 2)  # runs of several blocks

    def add_rows(block, power, *, onto):
        onto = np.zeros(block.n_features + 1) if onto is None else onto
        onto += row_sums(block, power)
        return onto

    total = reduce_tasks(easy_tasks, add_rows, add, args=(2,), in_place=True, client=client)
    np.testing.assert_array_equal(
        total, reduce_tasks(easy_tasks, row_sums, add, args=(2,), client=client)
    )


def test_combine_sees_blocks_in_order(easy_tasks):
    firsts = reduce_tasks(easy_tasks, lambda block: [block.first_task], add, client="threads")
    assert firsts == easy_tasks.block_tasks[:-1].tolist()


def test_configured_scheduler_is_used(easy_tasks):
    with dask.config.set(scheduler="sync"), connect(None) as runner:
        assert runner.worker_resources()[0] == 1
        assert reduce_tasks(easy_tasks, lambda b: b.n_rows, add, client=runner) == easy_tasks.n_rows


def test_progress_counts_the_runs(easy_tasks, process_client):
    for client in ("sync", process_client):
        seen = []
        with connect(client, progress=seen.append) as runner:
            for _ in range(2):
                reduce_tasks(easy_tasks, row_sums, add, client=runner, name="count")
        n_runs = len(plan.runs(easy_tasks))
        for number in (1, 2):
            steps = [step for step in seen if step.number == number]
            assert {(step.stage, step.total) for step in steps} == {("count", n_runs)}
            assert (steps[0].done, steps[-1].done) == (0, n_runs)
            assert [step.done for step in steps] == sorted(step.done for step in steps)
            assert steps[-1].n_bytes == easy_tasks.n_blocks * plan.block_bytes(easy_tasks)
            assert steps[-1].bytes_per_second * steps[-1].seconds == pytest.approx(
                steps[-1].n_bytes
            )


def test_leaves_spread_over_the_workers(easy_tasks, process_client):
    def whose(_):
        time.sleep(0.02)
        return {os.getpid(): 1}

    counts = reduce_tasks(easy_tasks, whose, _add_counts, client=process_client)
    assert len(counts) == 2
    assert min(counts.values()) >= easy_tasks.n_blocks // 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of glibc")
def test_workers_use_freed_memory_again(easy_tasks, process_client):
    def new_pages(_):
        np.ones(1 << 17)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(1 << 17)
        return [resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]

    faults = reduce_tasks(easy_tasks, new_pages, add, client=process_client)
    # a MiB is 256 pages: taken from the system each time, the twenty would be 5,120
    assert np.median(faults) < 1000


def _add_counts(left, right):
    return {pid: left.get(pid, 0) + right.get(pid, 0) for pid in left.keys() | right.keys()}


@pytest.mark.parametrize("client", ["sync", "threads", None])
def test_an_error_in_a_block_comes_through(easy_tasks, client):
    def fail(block):
        if block.first_task > 1000:
            raise InputError(f"task {block.first_task} is odd")
        return 0

    with pytest.raises(InputError, match=r"task \d+ is odd"):
        reduce_tasks(easy_tasks, fail, add, client=client)


def test_a_name_that_is_no_scheduler_is_refused(easy_tasks):
    with pytest.raises(InputError, match="got 'treads'"):
        reduce_tasks(easy_tasks, row_sums, add, client="treads")


def test_the_graph_is_small_whatever_it_carries(easy_tasks):
    """Parameters travel once, not with every graph task."""
    big = np.zeros(50_000)
    shared = leaf.pack(easy_tasks, row_sums, add, (big,), False, ())
    graph = reduce._reduction(shared, plan.runs(easy_tasks), "sum", most=1)[0]
    size = len(cloudpickle.dumps(dict(graph.dask)))
    assert size < big.nbytes + 100_000


def test_blas_is_held_to_one_thread_and_given_back():
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        with leaf.one_blas_thread():
            with leaf.one_blas_thread():
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {2}


def test_what_a_worker_cannot_import_is_an_error_and_no_hang(easy_tasks, process_client):
    module = types.ModuleType("only_here")
    exec("def count(block):\n    return block.n_rows", module.__dict__)
    sys.modules["only_here"] = module
    try:
        with pytest.raises(InputError, match=r"cannot import .*only_here.* install it on the work"):
            reduce_tasks(easy_tasks, module.count, add, client=process_client)
    finally:
        del sys.modules["only_here"]


def test_what_cannot_travel_is_refused(easy_tasks):
    lock = threading.Lock()
    with pytest.raises(InputError, match="must be picklable"):
        reduce_tasks(easy_tasks, lambda block: lock, add)


def test_a_sum_of_later_blocks_is_added_to_the_one_before(easy_tasks):
    assert easy_tasks.n_blocks > 3
    later = reduce_tasks(easy_tasks, row_sums, add, first_block=2, client="sync")
    earlier = add(row_sums(easy_tasks.read_block(0)), row_sums(easy_tasks.read_block(1)))
    np.testing.assert_allclose(add(earlier, later), reduce_tasks(easy_tasks, row_sums, add))
