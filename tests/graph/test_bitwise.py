"""A fit is the same to the last bit wherever it runs, and to rounding however it is cut."""

from __future__ import annotations

import pytest

from daskmlr import plan
from tests.benchmarks.bitwise import TOLERANCE, different, fit, largest_gap, make_store, processes

KIB = 1 << 10
SMALL = {"task_groups": [(2000, (1, 20)), (100, 40)], "n_features": 6}


@pytest.fixture(scope="session")
def small_tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("bitwise") / "tasks.daskmlr"
    return make_store(path, dtype="float64", block_bytes=32 * KIB, **SMALL)


@pytest.fixture(scope="session")
def reference(small_tasks):
    return fit(small_tasks, "sync")


def test_the_store_is_cut_finely_enough_for_two_levels_of_sums(small_tasks):
    assert len(plan.runs(small_tasks)) > 2 * plan.SPLIT_EVERY


def test_threads_give_the_bits_of_the_synchronous_scheduler(small_tasks, reference):
    assert different(reference, fit(small_tasks, "threads")) == []


@pytest.mark.parametrize("n_workers", [1, 3])
def test_any_number_of_worker_processes_gives_the_same_bits(small_tasks, reference, n_workers):
    with processes(n_workers) as client:
        assert different(reference, fit(small_tasks, client)) == []


@pytest.mark.parametrize("block_bytes", [64 * KIB, 512 * KIB])
def test_the_size_of_blocks_changes_only_rounding(tmp_path, reference, block_bytes, small_tasks):
    tasks = make_store(tmp_path / "t.daskmlr", dtype="float64", block_bytes=block_bytes, **SMALL)
    assert tasks.n_blocks < small_tasks.n_blocks
    assert largest_gap(reference, fit(tasks, "sync")) < TOLERANCE


def test_other_data_are_told_apart(tmp_path, reference):
    tasks = make_store(
        tmp_path / "t.daskmlr", dtype="float64", block_bytes=32 * KIB, **SMALL | {"random_state": 4}
    )
    other = fit(tasks, "sync")
    assert "coef" in different(reference, other)
    assert largest_gap(reference, other) > TOLERANCE
