"""The comparison with what a user would pick instead, in small."""

import numpy as np
import pytest

from daskmlr import simulate
from tests.benchmarks import versus


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("versus") / "tasks.daskmlr",
        n_components=versus.K,
        n_features=12,
        noise=0.3,
        task_groups=[(4000, versus.TASK_ROWS)],
        random_state=0,
    )


def test_plain_numpy_reaches_the_same_likelihood(tasks):
    line = versus.beside_numpy(tasks, 1)
    gap = float(line.remark.rsplit("likelihood ", 1)[1].split()[0])
    assert abs(gap) < 1e-5


def test_estimates_span_the_subspace_worse(tasks):
    lines = versus.beside_estimates(tasks, 1)
    assert [line.what.split()[0] for line in lines] == ["dask.array", "IncrementalPCA"]
    assert all(line.theirs > 0 and line.ours > 0 for line in lines)


def test_own_ridge_is_that_of_each_task():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2 * versus.TASK_ROWS, 3)), rng.normal(size=2 * versus.TASK_ROWS)
    for i, found in enumerate(versus.own_ridge(X, y)):
        rows = slice(i * versus.TASK_ROWS, (i + 1) * versus.TASK_ROWS)
        inner = X[rows].T @ X[rows] + versus.RIDGE * np.eye(3)
        np.testing.assert_allclose(found, np.linalg.solve(inner, X[rows].T @ y[rows]))


def test_a_miss_is_marked():
    assert "0.50 **missed**" in str(versus.Line("x", 1.0, 2.0, 0.8, ""))
    assert "missed" not in str(versus.Line("x", 2.0, 2.0, 0.8, ""))
