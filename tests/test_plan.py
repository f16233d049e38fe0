"""The arithmetic of passes."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr import plan
from daskmlr.errors import PlanError


@dataclass(frozen=True)
class Shape:
    n_blocks: int
    block_rows: int = 1000
    n_features: int = 9
    itemsize: int = 4
    blocks_ahead: int = 0

    @property
    def n_rows(self):
        return self.n_blocks * self.block_rows


@given(n_blocks=st.integers(1, 3_000_000), block_rows=st.integers(1, 2_000_000))
def test_runs_cover_every_block_once_and_stay_few(n_blocks, block_rows):
    runs = plan.runs(Shape(n_blocks, block_rows))
    assert runs[0][0] == 0
    assert runs[-1][1] == n_blocks
    assert all(a[1] == b[0] for a, b in itertools.pairwise(runs))
    assert all(start < stop for start, stop in runs)
    assert len(runs) <= max(plan.MAX_RUNS, 1)


def test_a_small_store_spreads_over_workers_and_a_large_one_stays_coarse():
    assert len(plan.runs(Shape(32))) == 32
    large = Shape(100_000, block_rows=400_000)  # 16 MB blocks
    assert len(plan.runs(large)) <= plan.MAX_RUNS
    start, stop = plan.runs(large)[0]
    assert (stop - start) * plan.block_bytes(large) >= plan.RUN_BYTES / 2


def test_graph_tasks_are_the_leaves_and_the_tree():
    assert plan.plan_pass(Shape(1), 0).n_graph_tasks == 1
    assert plan.plan_pass(Shape(32), 0).n_graph_tasks == 32 + 8 + 2 + 1


def test_a_pass_that_cannot_fit_is_refused_with_the_arithmetic():
    costly = plan.plan_pass(Shape(10), sum_bytes=100 * plan.MIB)
    plan.check_memory(costly, stage="refine", n_threads=2, limit=0)
    plan.check_memory(costly, stage="refine", n_threads=2, limit=costly.peak_bytes(2))
    with pytest.raises(PlanError, match=r"'refine' needs 1720 MiB .* limit is 500 MiB"):
        plan.check_memory(costly, stage="refine", n_threads=2, limit=500 * plan.MIB)


def test_an_inversion_that_cannot_fit_is_refused_with_the_arithmetic():
    need = plan.INVERSION_MATRICES * 8 * 2000**2
    plan.check_inversion(2000, limit=0)
    plan.check_inversion(2000, limit=need)
    with pytest.raises(PlanError, match=r"2,000 parameters, .* needs 305 MiB .* is 200 MiB"):
        plan.check_inversion(2000, limit=200 * plan.MIB)
