"""What may go wrong on a Dask cluster: the right result, or one clear error."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import cloudpickle
import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, get_worker

from daskmlr import (
    map_tasks,
    plan,
    reduce_tasks,
)
from daskmlr.errors import (
    ClusterWarning,
    DamagedStoreError,
    InputError,
    NoSpaceError,
    ReadError,
    SchedulerError,
    WorkerError,
)
from daskmlr.graph import faults, watch
from daskmlr.graph.execute import connect

# worker processes cannot import a test module: what is defined here travels whole
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SKIP = {"daskmlr.skip-damaged": True}


def row_sums(block):
    return np.append(block.X.sum(axis=0), [block.n_rows, block.n_tasks])


def add(left, right):
    return left + right


@contextmanager
def processes(n_workers=2, **options):
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            **options,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(n_workers, timeout=30)
        yield client


@pytest.fixture(scope="module")
def two_workers():
    with processes() as client:
        yield client


@pytest.fixture(scope="module")
def expected(easy_tasks):
    return reduce_tasks(easy_tasks, row_sums, add, client="sync")


@contextmanager
def failing_reads(client, error, times, *, only=None):
    """Let the first reads of block 3 fail in every worker, or in the one of address `only`."""

    def patch():
        from daskmlr.storage.tasks import TaskStore

        TaskStore.whole_read_block, left = TaskStore.read_block, [times]

        def read_block(self, index, buffers=None):
            if index == 3 and left[0]:
                left[0] -= 1
                raise error
            return self.whole_read_block(index, buffers)

        TaskStore.read_block = read_block

    def restore():
        from daskmlr.storage.tasks import TaskStore

        TaskStore.read_block = TaskStore.whole_read_block

    client.run(patch, workers=only and [only])
    try:
        yield
    finally:
        client.run(restore, workers=only and [only])


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (OSError(5, "Input/output error"), 2),
        (TimeoutError("slow"), 3),
        (DamagedStoreError("torn"), 1),
    ],
)
def test_a_read_that_fails_and_then_works_is_none_of_the_users_business(
    easy_tasks, expected, two_workers, error, times
):
    with failing_reads(two_workers, error, times):
        total = reduce_tasks(easy_tasks, row_sums, add, client=two_workers)
    np.testing.assert_array_equal(total, expected)


def test_what_one_worker_cannot_read_another_does(easy_tasks, expected, two_workers):
    bad = next(iter(two_workers.scheduler_info()["workers"]))

    def elsewhere(block):
        if get_worker().address == bad:
            raise ReadError(f"the store cannot be read on {bad}")
        return row_sums(block)

    with pytest.warns(ClusterWarning, match=r"cannot be read on tcp.* Trying on 1 other workers"):
        total = reduce_tasks(easy_tasks, elsewhere, add, client=two_workers)
    np.testing.assert_array_equal(total, expected)


def test_what_no_worker_can_read_is_an_error_that_names_one(easy_tasks, two_workers):
    with (
        failing_reads(two_workers, OSError(5, "Input/output error"), -1),
        pytest.warns(ClusterWarning, match="Trying on 1 other"),
        pytest.raises(ReadError, match=r"cannot be read on worker \d \(tcp:.*OSError.*Input/outp"),
    ):
        reduce_tasks(easy_tasks, row_sums, add, client=two_workers)


def test_permissions_do_not_come_by_waiting():
    calls = []

    def read():
        calls.append(1)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ReadError, match="PermissionError"):
        faults.patiently(read)
    assert len(calls) == 1


def test_an_error_of_the_data_ends_the_run_at_once(easy_tasks, two_workers, tmp_path):
    def refuse(block):
        with (tmp_path / str(block.first_task)).open("a") as file:
            file.write("x")
        time.sleep(0.3)
        raise InputError(f"task {block.first_task} is odd")

    with pytest.raises(InputError, match=r"^task \d+ is odd$") as caught:
        reduce_tasks(easy_tasks, refuse, add, client=two_workers)
    calls = [file.read_text() for file in tmp_path.iterdir()]
    assert set(calls) == {"x"}
    assert len(calls) < easy_tasks.n_blocks
    # the traceback is of this process alone
    assert "leaf.py" not in str(caught.getrepr())


class StrangeError(Exception):
    def __init__(self, one, two):
        super().__init__(one)

    def __reduce__(self):
        return StrangeError, ("one",)  # cannot be unpickled


@pytest.mark.parametrize("kind", [ZeroDivisionError, StrangeError])
def test_errors_of_others_come_as_one_cause(easy_tasks, two_workers, kind):
    def fail(block):
        raise kind("by", "zero")

    said = rf"^pass 'mine' failed: {kind.__name__}: .*by.* \(in fail, line \d+ of .*\) on work"
    with pytest.raises(WorkerError, match=said) as caught:
        reduce_tasks(easy_tasks, fail, add, client=two_workers, name="mine")
    assert len(str(caught.value)) < 500


def test_in_this_process_the_cause_is_kept(easy_tasks):
    def fail(block):
        raise ZeroDivisionError("by zero")

    with pytest.raises(WorkerError, match=r"^pass 'mine' failed: ZeroDiv") as caught:
        reduce_tasks(easy_tasks, fail, add, client="sync", name="mine")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_killed_worker_changes_no_bit(easy_tasks, expected, tmp_path):
    def die_once(block):
        if block.first_task > 1000 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return row_sums(block)

    with processes() as client:
        total = reduce_tasks(easy_tasks, die_once, add, client=client)
    assert (tmp_path / "died").exists()
    np.testing.assert_array_equal(total, expected)


def test_workers_lost_one_after_another_are_a_clear_error(easy_tasks):
    def die(block):
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        processes(1, memory_limit="600MB") as client,
        connect(client) as runner,
    ):
        runner.planned["deadly"] = 123 << 20
        said = (
            r"pass 'deadly' lost 1 workers.* planned to take 123.00 MiB.* of 1 threads.* 572.20 MiB"
        )
        with pytest.raises(WorkerError, match=said):
            reduce_tasks(easy_tasks, die, add, client=runner, name="deadly")


@contextmanager
def scheduler_process(folder):
    """A scheduler of its own, and its address."""
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-dashboard", "--scheduler-file", str(file)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            if file.exists() and file.read_text().endswith("}"):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield process, json.loads(file.read_text())["address"]
    finally:
        process.kill()
        process.wait()


def test_a_lost_scheduler_is_an_error_at_once_and_no_workers_a_warning(
    easy_tasks, tmp_path, monkeypatch
):
    monkeypatch.setattr(watch, "NO_WORKERS_AFTER", 0.5)
    said = r"tcp://\S+ was lost during pass 'sum'.*--resume"
    with scheduler_process(tmp_path) as (process, address), connect(address) as runner:
        threading.Timer(3, process.kill).start()
        with pytest.raises(SchedulerError, match=said), pytest.warns(ClusterWarning) as warned:
            reduce_tasks(easy_tasks, row_sums, add, client=runner, name="sum")
    assert re.search(
        r"pass 'sum' has not moved for .*: 0 of \d+ graph tasks are done. .*has no workers",
        str(warned[0].message),
    )


def test_a_pass_that_does_not_move_says_who_is_at_work(easy_tasks, expected, two_workers):
    def slow(block):
        time.sleep(3 if block.first_task == 0 else 0)
        return row_sums(block)

    with (
        dask.config.set({"daskmlr.stalled-after": "1s"}),
        pytest.warns(ClusterWarning) as warned,
    ):
        total = reduce_tasks(easy_tasks, slow, add, client=two_workers, name="slow")
    np.testing.assert_array_equal(total, expected)
    n_runs = len(plan.runs(easy_tasks))
    said = str(warned[0].message)
    assert "pass 'slow' has not moved for 1." in said
    assert re.search(rf": \d of {n_runs} graph tasks are done", said)
    assert re.search(r"\d \(tcp://.*\) running, \d of its \d graph tasks.*memory .*last seen", said)


def test_what_straggles_goes_to_an_idle_worker(easy_tasks, expected, tmp_path, two_workers):
    def slow_once(block):
        if block.first_task == 0 and not (tmp_path / "slow").exists():
            (tmp_path / "slow").touch()
            for _ in range(400):
                if (tmp_path / "over").exists():
                    break
                time.sleep(0.1)
        return row_sums(block)

    start = time.monotonic()
    total = reduce_tasks(easy_tasks, slow_once, add, client=two_workers)
    assert time.monotonic() - start < 20
    (tmp_path / "over").touch()
    np.testing.assert_array_equal(total, expected)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk: run as root"
)
def test_a_full_disk_is_named_with_the_worker(easy_tasks, two_workers, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounts a small disk: allow it (CAP_SYS_ADMIN)")
    try:
        with pytest.raises(NoSpaceError, match=r"no space left.*found on worker \d \(tcp"):
            map_tasks(
                easy_tasks,
                lambda block: {"noise": np.random.default_rng(0).random((block.n_tasks, 40))},
                small / "rows.parquet",
                client=two_workers,
            )
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
