"""Small versions of the measurements in docs/accuracy.md: planted truth is recovered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks import projection, ragged
from tests.benchmarks.accuracy import (
    MAX_ACCURACY_LOSS,
    MAX_ERROR_RATIO,
    Case,
    Score,
    TruthStarted,
    run_case,
    verdict,
)

SMALL = {
    "confident labels": Case(4, 16, 0.7, (4000, 8), (200, 16)),
    "doubtful labels": Case(4, 16, 1.0, (6000, 4), (200, 16)),
    "many components": Case(12, 48, 0.5, (8000, 8), (400, 20)),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_fit_ends_where_one_started_at_the_truth_does(tmp_path, name):
    score, notes = run_case(SMALL[name], 0, tmp_path)
    assert score.converged
    assert notes == []
    assert 0.3 < score.oracle_accuracy < 0.995  # or the comparison would say nothing
    assert score.reached
    assert score.accuracy_loss < MAX_ACCURACY_LOSS
    assert score.error_ratio < MAX_ERROR_RATIO
    assert score.accuracy > score.oracle_accuracy - 0.02
    assert score.oracle_ratio < 1.6


@pytest.mark.parametrize("dtype", ragged.DTYPES)
def test_an_awkward_table_is_fitted_as_well_as_a_clean_one(tmp_path, dtype):
    scores = {}
    for table in ragged.TABLES:
        scores[table], notes = ragged.run_table(table, dtype, 0, tmp_path, n_tasks=2000)
        assert notes == []
    for table in ragged.TABLES:
        # of 2000 tasks, a few dozen of one example fall to either side by chance
        assert scores[table].accuracy > scores[table].oracle_accuracy - 0.01, table
        assert scores[table].oracle_ratio < scores["clean"].oracle_ratio + 0.05, table


def test_projection_halves_the_size_that_heavy_tasks_need():
    accuracies, errors = projection.measure(0.1, 0, (32, 64), ["average"])
    assert errors["all"] < errors["split"] < 0.25
    assert accuracies["average", "projected", 32] > 0.8
    assert accuracies["average", "not projected", 32] == 0
    assert accuracies["average", "not projected", 64] > 0.7


def test_a_miss_is_called_one():
    best = TruthStarted(-1.0, accuracy=0.9, error=0.1)
    score = Score(-1.0, 0.9, 0.1, best, 0.91, 0.1, passes=3, seconds=1.0, converged=True, warned=0)
    assert verdict("A", [score]).endswith("met")
    assert verdict("A", [replace(score, accuracy=0.89)]).endswith("MISSED")
    assert verdict("A", [replace(score, error=0.11)]).endswith("MISSED")
    assert verdict("A", [replace(score, log_likelihood=-1.0001)]).endswith("MISSED")
