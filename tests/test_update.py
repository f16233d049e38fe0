"""New tasks into a fitted model: near a refit, the old tasks unread, nothing counted twice."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from daskmlr import (
    ComponentWarning,
    InputError,
    MixedLinearRegression,
    Model,
    append_tasks,
    create_tasks,
    open_tasks,
)
from daskmlr.errors import FeatureMismatchError
from daskmlr.kernels import regression
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.regression import expected_log_likelihood, sums_from_block
from daskmlr.synthetic import make_truth, simulate_arrays
from tests.benchmarks.update import compare
from tests.kernels.drawing import plain_frame, planted

NAMES = ["a", "b", "c"]
TRUTH = make_truth(n_components=2, n_features=3, noise=0.3, random_state=0)


def write(path, start, stop, *, append=False, names=NAMES):
    X, y, groups, _ = simulate_arrays(
        truth=TRUTH, task_groups=[(1200, 4)], random_state=0, dtype="float64"
    )
    some = (groups >= start) & (groups < stop)
    writing = append_tasks(path) if append else create_tasks(path, feature_names=names)
    with writing as writer:
        writer.write(X[some], y[some], np.full(stop - start, 4), np.arange(start, stop))
    return open_tasks(path)


@pytest.fixture
def fitted(tmp_path) -> MixedLinearRegression:
    return MixedLinearRegression(2, random_state=0).fit(write(tmp_path / "t", 0, 1000))


def test_an_update_is_near_a_refit(tmp_path):
    difference = compare(0.3, 200, 0, tmp_path, n_old=2000)
    assert difference.moved > 0.3  # standard errors; or the comparison would say nothing
    assert difference.update < 0.05
    assert abs(difference.likelihood) < 1e-5


def test_appended_tasks_are_absorbed_without_reading_the_old_blocks(fitted, tmp_path):
    n_blocks = open_tasks(tmp_path / "t").n_blocks
    write(tmp_path / "t", 1000, 1200, append=True)
    for old in range(n_blocks):
        shutil.rmtree(tmp_path / "t" / "x" / "c" / str(old))  # the targets tell which tasks are new
    fitted.partial_fit(tmp_path / "t")
    assert fitted.model_.n_tasks == 1200
    assert fitted.model_.n_rows == 4800
    assert fitted.model_.mass.sum() == pytest.approx(1200)
    assert fitted.diagnostics_["updates"] == [{"n_tasks": 200}]


def test_a_store_of_new_tasks_and_arrays_count_whole(fitted, tmp_path):
    fitted.partial_fit(write(tmp_path / "new", 1000, 1100))
    X, y, groups, _ = simulate_arrays(
        truth=TRUTH, task_groups=[(100, 4)], random_state=9, dtype="float64"
    )
    fitted.partial_fit(X, y, groups=groups)
    assert fitted.model_.n_tasks == 1200
    again = write(tmp_path / "t", 1100, 1200, append=True)
    assert fitted.partial_fit(again).model_.n_tasks == 1300


def test_the_tasks_kept_for_pictures_stay_those_of_the_fit(fitted, tmp_path):
    before = fitted.model_
    after = fitted.partial_fit(write(tmp_path / "t", 1000, 1200, append=True)).model_
    for name in ("heavy_coef", "heavy_centres", "heavy_labels", "heavy_sizes"):
        assert getattr(after, name) is getattr(before, name)
    assert [entry["tasks"] for entry in after.data] == [1000, 200]


def test_the_diagnosis_is_of_old_and_new_tasks_together(fitted, tmp_path):
    updated = fitted.partial_fit(write(tmp_path / "t", 1000, 1200, append=True)).model_
    refit = MixedLinearRegression(2, random_state=0).fit(tmp_path / "t").model_
    found, wanted = updated.diagnostics, refit.diagnostics
    assert sum(found["examples_per_component"]) == pytest.approx(4800)
    for name in ("examples_per_component", "label_entropy", "merging_loss"):
        assert found[name] == pytest.approx(wanted[name], rel=0.03), name
    for name in ("bic", "icl", "bic_of_one", "component_price"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-3), name


def test_warnings_are_those_of_the_last_update(tmp_path):
    with pytest.warns(ComponentWarning, match="are one too many"):
        fitted = MixedLinearRegression(3, random_state=0).fit(write(tmp_path / "t", 0, 1000))
    with pytest.warns(ComponentWarning, match="are one too many"):
        fitted.partial_fit(write(tmp_path / "t", 1000, 1200, append=True))
    assert ["are one too many" in note for note in fitted.model_.notes].count(True) == 1


def test_an_updated_model_is_saved_and_updated_again(fitted, tmp_path):
    fitted.partial_fit(write(tmp_path / "t", 1000, 1100, append=True))
    fitted.model_.save(tmp_path / "model")
    fitted.model_ = Model.load(tmp_path / "model")
    fitted.partial_fit(write(tmp_path / "t", 1100, 1200, append=True))
    assert fitted.model_.n_tasks == 1200
    assert [update["n_tasks"] for update in fitted.diagnostics_["updates"]] == [100, 100]


def test_a_first_partial_fit_is_a_fit(fitted, tmp_path):
    first = MixedLinearRegression(2, random_state=0).partial_fit(tmp_path / "t")
    np.testing.assert_array_equal(first.coef_, fitted.coef_)


def test_tasks_seen_before_are_refused(fitted, tmp_path):
    with pytest.raises(InputError, match="no new tasks: the model has seen all 1,000"):
        fitted.partial_fit(tmp_path / "t")
    new = write(tmp_path / "new", 1000, 1200)
    fitted.partial_fit(new)
    with pytest.raises(InputError, match="has seen all 200"):
        fitted.partial_fit(new)


def test_other_features_are_refused(fitted, tmp_path):
    other = write(tmp_path / "new", 1000, 1200, names=["a", "b", "z"])
    with pytest.raises(FeatureMismatchError, match="'z'"):
        fitted.partial_fit(other)


def test_a_model_of_some_tasks_of_its_store_is_refused(tmp_path):
    tasks = write(tmp_path / "t", 0, 1000)
    split = MixedLinearRegression(2, sample_split=True, random_state=0).fit(tasks)
    with pytest.raises(InputError, match=r"fitted on 3\d\d of the 1000 tasks"):
        split.partial_fit(write(tmp_path / "t", 1000, 1200, append=True))


def test_a_new_regression_among_the_new_tasks_is_said(fitted):
    rng = np.random.default_rng(3)
    X, groups = rng.normal(size=(1600, 3)), np.repeat(np.arange(400), 4)
    apart = rng.normal(size=(2, 3))
    y = (X * apart[groups % 2]).sum(axis=1) + 0.3 * rng.normal(size=1600)
    with pytest.warns(ComponentWarning, match="holds more than one regression"):
        fitted.partial_fit(X, y, groups=groups)


def test_the_expected_log_likelihood_and_the_entropy_are_the_likelihood(monkeypatch):
    monkeypatch.setattr(regression, "NEGLIGIBLE", 0.0)
    problem = planted(0, [3, 5] * 40, 3, 2, noise=1.0)
    mixture = Mixture(problem.coef, problem.noise_variance, problem.weights)
    sums = sums_from_block(problem.block, plain_frame(2), mixture, assign="soft")
    entropy = sums.log_likelihood - expected_log_likelihood(sums, mixture)
    from daskmlr.kernels.assignment import block_log_likelihood, posterior

    shares, _ = posterior(block_log_likelihood(problem.block, plain_frame(2), mixture))
    assert entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-9)
    moved = Mixture(mixture.coef + 0.1, mixture.noise_variance * 1.1, mixture.weights)
    at_moved = sums_from_block(problem.block, plain_frame(2), moved, assign="soft").log_likelihood
    assert expected_log_likelihood(sums, moved) + entropy < at_moved
