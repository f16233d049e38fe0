"""Standard errors, confidence intervals and predictive intervals, through store and estimator."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import NotFittedError

from daskmlr import ComponentWarning, InputError, MixedLinearRegression, create_tasks, open_tasks
from daskmlr.errors import FeatureMismatchError, InformationError, PlanError
from daskmlr.graph.execute import Runner
from daskmlr.kernels.metrics import match_components
from daskmlr.synthetic import load_truth, make_truth, simulate_arrays
from daskmlr.uncertainty import Parameters
from tests.benchmarks import coverage

NAMES = [field.name for field in fields(Parameters)]


@pytest.fixture(scope="module")
def model(easy_tasks):
    return MixedLinearRegression(3, random_state=0).fit(easy_tasks, client="sync").model_


@pytest.fixture(scope="module")
def uncertainty(model, easy_tasks):
    return model.uncertainty(easy_tasks, client="sync")


@pytest.fixture(scope="module")
def new_tasks():
    """Tasks of overlapping components, the truth, and the tasks of the rows."""
    truth = make_truth(
        n_components=3, n_features=2, noise=[0.5, 0.8, 1.2], coef_scale=1.0, random_state=3
    )
    drawn = simulate_arrays(truth=truth, task_groups=[(6000, 5)], random_state=1, dtype="float64")
    return truth, *drawn


@pytest.fixture(scope="module")
def estimator(new_tasks):
    _, X, y, groups, _ = new_tasks
    return MixedLinearRegression(3, random_state=0, tol=1e-8).fit(
        X, y, groups=groups, client="sync"
    )


@pytest.mark.parametrize("kind", ["sandwich", "observed"])
def test_the_truth_is_within_a_few_standard_errors(easy_tasks, model, uncertainty, kind):
    truth, _ = load_truth(easy_tasks.path)
    match = match_components(model.coef, truth.coef)
    z = [
        (getattr(model, name)[match] - getattr(truth, name)).ravel()
        / getattr(uncertainty.standard_errors(kind), name)[match].ravel()
        for name in NAMES
    ]
    z = np.concatenate(z)
    assert np.abs(z).max() < 4
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5


def test_estimates_and_shapes_are_the_models(model, uncertainty, easy_tasks):
    assert uncertainty.n_tasks == easy_tasks.n_tasks
    assert uncertainty.shortfall < 0.25
    for values in (uncertainty.estimate, uncertainty.standard_errors(), *uncertainty.intervals()):
        for name in NAMES:
            assert getattr(values, name).shape == getattr(model, name).shape
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(uncertainty.estimate, name), getattr(model, name), rtol=1e-9
        )


def test_any_scheduler_gives_the_same_bits(model, uncertainty, easy_tasks, process_client):
    for client in ("threads", process_client):
        again = model.uncertainty(easy_tasks, client=client)
        for kind in ("sandwich", "observed"):
            np.testing.assert_array_equal(again.covariance(kind), uncertainty.covariance(kind))


def test_covariance_holds_the_squared_errors_and_weights_sum_to_one(uncertainty):
    for kind in ("sandwich", "observed"):
        covariance, errors = uncertainty.covariance(kind), uncertainty.standard_errors(kind)
        own = np.column_stack([errors.intercept, errors.coef, errors.noise_variance]).ravel()
        np.testing.assert_allclose(
            np.diag(covariance), np.append(own, errors.weights) ** 2, rtol=1e-9
        )
        np.testing.assert_allclose(covariance[-3:].sum(axis=0), 0, atol=1e-12)
        assert np.linalg.eigvalsh(covariance)[0] > -1e-12


def test_intervals_are_wider_for_a_higher_level_and_stay_where_they_can_be(uncertainty):
    at, error = uncertainty.estimate, uncertainty.standard_errors()
    low, high = uncertainty.intervals(0.9)
    z = norm.ppf(0.95)
    np.testing.assert_allclose(low.coef, at.coef - z * error.coef)
    np.testing.assert_allclose(high.intercept, at.intercept + z * error.intercept)
    wider = uncertainty.intervals(1 - 1e-12)
    for name in NAMES:
        assert (getattr(wider[0], name) < getattr(low, name)).all()
        assert (getattr(low, name) < getattr(at, name)).all()
        assert (getattr(at, name) < getattr(high, name)).all()
        assert (getattr(high, name) < getattr(wider[1], name)).all()
    assert (wider[0].noise_variance > 0).all()
    assert (wider[0].weights > 0).all()
    assert (wider[1].weights < 1).all()


def test_one_component_has_least_squares_errors_and_all_the_weight():
    X, y, groups, _ = simulate_arrays(
        n_components=1, n_features=3, task_groups=[(400, (1, 9))], random_state=0, dtype="float64"
    )
    found = MixedLinearRegression(1, random_state=0).fit(X, y, groups=groups, client="sync")
    uncertainty = found.uncertainty(X, y, groups=groups, client="sync")
    A = np.column_stack([np.ones(len(X)), X])
    expected = np.sqrt(np.diag(np.linalg.inv(A.T @ A)) * found.noise_variance_[0])
    errors = uncertainty.standard_errors("observed")
    np.testing.assert_allclose(errors.intercept, expected[:1], rtol=1e-6)
    np.testing.assert_allclose(errors.coef[0], expected[1:], rtol=1e-6)
    low, high = uncertainty.intervals()
    assert (low.weights[0], high.weights[0], errors.weights[0]) == (1, 1, 0)


def test_arrays_and_a_store_of_them_agree(estimator, new_tasks, tmp_path):
    _, X, y, groups, _ = new_tasks
    with create_tasks(tmp_path / "t", feature_names=["x0", "x1"]) as writer:
        writer.write(X, y, np.bincount(groups))
    of_arrays = estimator.uncertainty(X, y, groups=groups, client="sync")
    of_store = estimator.uncertainty(tmp_path / "t", client="sync")
    np.testing.assert_allclose(of_arrays.covariance(), of_store.covariance(), rtol=1e-6, atol=1e-12)


def test_predictive_intervals_hold_their_share_of_new_targets(estimator, new_tasks):
    truth, *_ = new_tasks
    X, y, groups, _ = simulate_arrays(
        truth=truth, task_groups=[(4000, 6)], random_state=2, dtype="float64"
    )
    known = np.arange(len(y)) % 6 < 2
    support = (X[known], y[known], groups[known])
    for level in (0.5, 0.95):
        low, high = estimator.predict_interval(
            X[~known], support=support, groups=groups[~known], level=level
        )
        within = (low <= y[~known]) & (y[~known] <= high)
        assert within.mean() == pytest.approx(level, abs=0.015)


def test_predictive_intervals_cut_equal_tails_of_the_mixture(model):
    rng = np.random.default_rng(0)
    X_s, X = rng.normal(5, 1, (1, 4)), rng.normal(5, 1, (7, 4))
    y_s = X_s @ model.coef[0] + model.intercept[0] + 0.5
    shares = model.predictive(X, support=(X_s, y_s)).shares[0]
    means, deviations = X @ model.coef.T + model.intercept, np.sqrt(model.noise_variance)
    bounds = model.predict_interval(X, support=(X_s, y_s), level=0.8)
    for bound, below in zip(bounds, (0.1, 0.9), strict=True):
        found = norm.cdf(bound[:, None], means, deviations) @ shares
        np.testing.assert_allclose(found, below, atol=1e-9)


def test_the_benchmark_prints_its_tables(capsys):
    coverage.main(["--replications", "2", "--cases", "0"])
    shown = capsys.readouterr().out
    assert "| homoscedastic, overlapping | all coefficients |" in shown
    assert "| 2 of 2 | 0 |" in shown
    assert "calibration error 0.0" in shown


class TestDoubts:
    """What cannot be trusted is said, with the numbers."""

    def test_a_model_that_is_not_at_the_maximum(self, model, uncertainty, easy_tasks):
        error = uncertainty.standard_errors("observed").coef[0, 1]
        coef = model.coef.copy()
        coef[0, 1] += 3 * error
        moved = replace(model, coef=coef)
        with pytest.warns(ComponentWarning, match=r"is [23]\.?\d* standard errors .* these 3,100"):
            assert moved.uncertainty(easy_tasks, client="sync").shortfall > 2

    def test_fewer_tasks_than_parameters(self, tmp_path):
        X, y, groups, _ = simulate_arrays(
            n_components=1, n_features=9, task_groups=[(6, 60)], random_state=0, dtype="float64"
        )
        few = MixedLinearRegression(1, random_state=0).fit(X, y, groups=groups, client="sync")
        with pytest.warns(ComponentWarning, match=r"fewer tasks than the 11 .* 0 \(6\.0\)"):
            few.uncertainty(X, y, groups=groups, client="sync")

    def test_duplicate_components(self, model, easy_tasks):
        pick = [0, 1, 1]
        double = replace(
            model,
            coef=model.coef[pick],
            intercept=model.intercept[pick],
            noise_variance=model.noise_variance[pick],
            weights=model.weights[[0, 1, 1]] / [1, 2, 2],
        )
        with pytest.raises(InformationError, match=r"components 1 \(.*, 2 \("):
            double.uncertainty(easy_tasks, client="sync")

    def test_memory_that_does_not_suffice(self, model, easy_tasks, monkeypatch):
        monkeypatch.setattr("daskmlr.graph.execute.memory_limit", lambda: 20_000)
        with pytest.raises(PlanError, match=r"covariance of 20 parameters, k \(d \+ 3\) - 1"):
            model.uncertainty(easy_tasks, client="sync")
        monkeypatch.setattr("daskmlr.graph.execute.memory_limit", lambda: 1 << 20)
        with pytest.raises(PlanError, match="stage 'uncertainty of 20 parameters' needs"):
            model.uncertainty(easy_tasks, client="sync")

    def test_no_memory_limit_refuses_nothing(self, model, easy_tasks, monkeypatch):
        monkeypatch.setattr(Runner, "worker_resources", lambda self: (1, 0))
        monkeypatch.setattr("daskmlr.graph.execute.memory_limit", lambda: 0)
        model.uncertainty(easy_tasks, client="sync")

    def test_other_features(self, model, tmp_path):
        with create_tasks(tmp_path / "t", feature_names=["a", "b", "c", "d"]) as writer:
            writer.write(np.ones((3, 4)), np.ones(3), [3])
        with pytest.raises(FeatureMismatchError, match="lacks"):
            model.uncertainty(open_tasks(tmp_path / "t"))

    @pytest.mark.parametrize("level", [0, 1, 95, -0.5, np.nan])
    def test_a_level_that_is_no_probability(self, model, uncertainty, level):
        with pytest.raises(InputError, match=f"between 0 and 1, .* got {level}"):
            uncertainty.intervals(level)
        with pytest.raises(InputError, match=f"got {level}"):
            model.predict_interval(np.ones((1, 4)), level=level)

    def test_an_estimator_that_was_not_fitted(self):
        with pytest.raises(NotFittedError):
            MixedLinearRegression(2).uncertainty("nowhere")
        with pytest.raises(NotFittedError):
            MixedLinearRegression(2).predict_interval([[1.0]])

    def test_another_kind(self, uncertainty):
        with pytest.raises(InputError, match="got 'bootstrap'"):
            uncertainty.standard_errors("bootstrap")
