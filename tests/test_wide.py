"""Fits of many features, that form no matrix of features by features."""

import numpy as np
import pytest

from daskmlr import InputError, MixedLinearRegression, Model, plan, simulate
from daskmlr.errors import PlanError, StructureWarning
from daskmlr.fitting import fit_tasks
from daskmlr.graph.execute import connect
from daskmlr.stages import FitOptions
from daskmlr.synthetic import load_truth


@pytest.fixture
def wide(monkeypatch):
    """Two features are many here."""
    monkeypatch.setattr(plan, "WIDE_FEATURES", 2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Correlated covariates away from zero, with intercepts."""
    return simulate(
        tmp_path_factory.mktemp("wide") / "tasks",
        n_components=3,
        n_features=40,
        noise=0.5,
        intercept_scale=1.0,
        mean=3.0,
        correlation=0.5,
        task_groups=[(1500, 8), (60, 30)],
        random_state=1,
        block_bytes=1 << 18,
    )


@pytest.fixture(scope="module")
def dense(tasks):
    return MixedLinearRegression(3, random_state=0).fit(tasks, client="sync").model_


def test_a_wide_fit_is_the_dense_one(tasks, dense, wide):
    model = MixedLinearRegression(3, random_state=0).fit(tasks, client="sync").model_
    assert model.is_wide
    assert not dense.is_wide
    assert model.gram.shape[1] < 40
    assert model.log_likelihood == pytest.approx(dense.log_likelihood, abs=0.1)
    spread = np.abs(dense.coef).max()
    np.testing.assert_allclose(model.coef, dense.coef, atol=5e-4 * spread)
    np.testing.assert_allclose(model.intercept, dense.intercept, atol=2e-3 * spread)
    np.testing.assert_allclose(model.noise_variance, dense.noise_variance, rtol=1e-3)
    leading = slice(3)
    np.testing.assert_allclose(model.eigenvalues[leading], dense.eigenvalues[leading], rtol=0.02)
    assert model.noise_edge == pytest.approx(dense.noise_edge, rel=0.15)
    assert model.diagnostics["bic"] == pytest.approx(dense.diagnostics["bic"], abs=1)
    stages = {entry["stage"] for entry in model.history}
    assert {"moments", "project", "cluster", "refine", "widen", "diagnose"} <= stages


def test_a_wide_model_is_saved_and_used_like_any(tasks, dense, wide, tmp_path):
    model = MixedLinearRegression(3, random_state=0).fit(tasks, client="sync").model_
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    np.testing.assert_array_equal(again.subspace, model.subspace)
    labels, expected = (m.assign(tasks, client="sync")["label"] for m in (again, dense))
    assert np.mean(labels == expected) > 0.999
    x = np.random.default_rng(0).normal(3, 1, (5, 40))
    np.testing.assert_allclose(again.predict(x), dense.predict(x), atol=5e-3)
    assert (again.feature_scale > 0).all()


def test_a_wide_model_takes_new_tasks_in_its_subspace(tasks, wide, tmp_path):
    truth, _ = load_truth(tasks.path)
    more = simulate(
        tmp_path / "more", truth=truth, task_groups=[(800, 8)], random_state=9,
    )  # fmt: skip
    estimator = MixedLinearRegression(3, random_state=0).fit(tasks, client="sync")
    before = estimator.model_
    after = estimator.partial_fit(more, client="sync").model_
    assert after.n_tasks == 1560 + 800
    np.testing.assert_array_equal(after.subspace, before.subspace)
    error = [
        np.linalg.norm(model.coef[:, None] - truth.coef, axis=2).min(axis=0).max()
        for model in (before, after)
    ]
    assert error[1] < 1.05 * error[0]


def test_with_few_examples_the_components_stay_in_the_subspace(wide, tmp_path):
    """Fewer than twice as many examples of a component as features; it is told."""
    few = simulate(
        tmp_path / "few", n_components=2, n_features=60, noise=0.02,
        task_groups=[(20, 10)], random_state=0,
    )  # fmt: skip
    with pytest.warns(StructureWarning, match=r"no structure.* 200 examples may be too few for"):
        model = MixedLinearRegression(2, random_state=0).fit(few, client="sync").model_
    assert "widen" not in {entry["stage"] for entry in model.history}
    assert np.linalg.matrix_rank(model.coef) == 2


@pytest.mark.parametrize("options", [{"sample_split": True}, {"robust": 0.05}, {"pairs": "split"}])
def test_options_of_a_fit_hold_for_a_wide_one(tasks, wide, options):
    truth, _ = load_truth(tasks.path)
    model = MixedLinearRegression(3, random_state=0, **options).fit(tasks, client="sync").model_
    distance = np.linalg.norm(model.coef[:, None] - truth.coef, axis=2)
    assert distance.min(axis=0).max() < 0.25


def test_the_number_of_components_is_found(tasks, wide):
    model = MixedLinearRegression("auto", random_state=0).fit(tasks, client="sync").model_
    assert model.n_components == 3


def test_the_same_bits_on_processes(tasks, wide, process_client):
    """The plan is made here: what was patched need not be so on the workers."""
    here, there = (
        MixedLinearRegression(3, random_state=0).fit(tasks, client=client).model_
        for client in ("sync", process_client)
    )
    np.testing.assert_array_equal(here.coef, there.coef)
    np.testing.assert_array_equal(here.gram, there.gram)


def test_a_constant_feature_is_named(wide, tmp_path):
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((400, 5)), np.repeat(np.arange(100), 4)
    X[:, 3] = 2.0
    y = np.where(groups % 2, 1.0, -1.0) * X[:, 0]
    with pytest.raises(InputError, match=r"1 of 5 features never vary: 'x3'"):
        MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)


def test_collinear_features_share_their_coefficient(wide):
    """Thin products cannot name them; the fit takes the least coefficients there are."""
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((4000, 5)), np.repeat(np.arange(500), 8)
    X[:, 4] = X[:, 0]
    y = np.where(groups % 2, 1.0, -1.0) * (X[:, 0] + X[:, 1]) + 0.1 * rng.standard_normal(4000)
    model = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups).model_
    assert np.isfinite(model.coef).all()
    np.testing.assert_allclose(np.abs(model.coef[:, [0, 4]].sum(axis=1)), 1, atol=0.02)


def test_a_wide_fit_that_cannot_fit_is_refused(tasks, wide):
    class Small:
        own_memory = 1 << 20

        def worker_resources(self):
            return 1, 1 << 20

    with connect("sync"), pytest.raises(PlanError, match="MiB"):
        fit_tasks(tasks, FitOptions(3), Small())
