"""Synthetic tasks with a known truth: any size, the same bits however they are cut into blocks."""

from daskmlr.synthetic.draw import TaskGroup
from daskmlr.synthetic.oracle import oracle_assign, oracle_coefficients, truth_sums_from_block
from daskmlr.synthetic.tasks import simulate, simulate_arrays
from daskmlr.synthetic.truth import (
    MixtureTruth,
    TruthParameters,
    load_truth,
    make_truth,
    truth_path,
)

__all__ = [
    "MixtureTruth",
    "TaskGroup",
    "TruthParameters",
    "load_truth",
    "make_truth",
    "oracle_assign",
    "oracle_coefficients",
    "simulate",
    "simulate_arrays",
    "truth_path",
    "truth_sums_from_block",
]
