"""The estimator: planted truth, scikit-learn's contract, warnings, what it refuses."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score

from daskmlr import (
    ComponentWarning,
    InputError,
    MixedLinearRegression,
    StructureWarning,
    create_tasks,
    load_truth,
    odd_tasks,
    open_tasks,
    simulate,
)
from daskmlr.diagnostics import Diagnosis
from daskmlr.errors import FeatureMismatchError
from daskmlr.kernels.metrics import coefficient_error, label_accuracy, match_components
from daskmlr.kernels.outliers import ASSIGNED
from daskmlr.selection import _with_evidence
from daskmlr.synthetic import simulate_arrays


@pytest.fixture(scope="module")
def fitted(easy_tasks):
    return MixedLinearRegression(3, random_state=0).fit(easy_tasks)


@pytest.fixture(scope="module")
def arrays():
    return simulate_arrays(
        n_components=2,
        n_features=3,
        noise=0.2,
        task_groups=[(300, (1, 9))],
        random_state=1,
        dtype="float64",
    )


def full_coef(estimator):
    return np.column_stack([estimator.coef_, estimator.intercept_])


def test_planted_truth_is_found(easy_tasks, fitted):
    truth, labels = load_truth(easy_tasks.path)
    match = match_components(fitted.coef_, truth.coef)
    assert coefficient_error(fitted.coef_, truth.coef).max() < 0.05
    np.testing.assert_allclose(fitted.intercept_[match], truth.intercept, atol=0.15)
    np.testing.assert_allclose(fitted.noise_variance_[match], truth.noise_variance, rtol=0.05)
    np.testing.assert_allclose(fitted.weights_[match], truth.weights, atol=0.03)
    assigned = fitted.assign(easy_tasks)
    accuracy = label_accuracy(assigned["label"], labels, n_components=3, match=match)
    assert accuracy > 0.93
    assert fitted.converged_
    assert list(fitted.weights_) == sorted(fitted.weights_, reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        {"pairs": "split"},
        {"pairs": 3},
        {"assignment": "hard"},
        {"n_heavy": 100},
        {"sample_split": True},
    ],
)
def test_every_way_finds_it(easy_tasks, options):
    estimator = MixedLinearRegression(3, random_state=0, **options).fit(easy_tasks)
    truth, _ = load_truth(easy_tasks.path)
    assert coefficient_error(estimator.coef_, truth.coef).max() < 0.06


def test_the_papers_linkage_finds_well_separated_heavy_tasks(tmp_path):
    tasks = simulate(
        tmp_path / "t.daskmlr",
        n_components=3,
        n_features=6,
        orthonormal=True,
        noise=0.1,
        task_groups=[(3000, 6), (60, 600)],
        random_state=5,
    )
    estimator = MixedLinearRegression(
        3, pairs="split", clustering="linkage", n_heavy=60, n_batches=3, assignment="hard"
    ).fit(tasks)
    truth, _ = load_truth(tasks.path)
    assert coefficient_error(estimator.coef_, truth.coef).max() < 0.05


def test_more_components_than_features(tmp_path):
    tasks = simulate(
        tmp_path / "t.daskmlr",
        n_components=6,
        n_features=2,
        noise=0.1,
        task_groups=[(4000, 8)],
        random_state=3,
    )
    estimator = MixedLinearRegression(6, random_state=0).fit(tasks)
    truth, _ = load_truth(tasks.path)
    assert coefficient_error(estimator.coef_, truth.coef).max() < 0.05
    assert estimator.subspace_.shape == (3, 3)


@pytest.mark.parametrize("size", [2, 200], ids=["all-light", "all-heavy"])
def test_tasks_of_one_kind_only(tmp_path, size):
    tasks = simulate(
        tmp_path / "t.daskmlr",
        n_components=2,
        n_features=3,
        noise=0.1,
        task_groups=[(20_000 // size, size)],
        random_state=4,
    )
    estimator = MixedLinearRegression(2, random_state=0).fit(tasks)
    truth, _ = load_truth(tasks.path)
    assert coefficient_error(estimator.coef_, truth.coef).max() < 0.05


def test_one_component_is_pooled_least_squares(easy_tasks):
    with pytest.warns(ComponentWarning, match="component 0 holds more than one regression"):
        estimator = MixedLinearRegression(1, random_state=0).fit(easy_tasks)
    blocks = [easy_tasks.read_block(i) for i in range(easy_tasks.n_blocks)]
    X = np.concatenate([b.X for b in blocks])
    y = np.concatenate([b.y for b in blocks])
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)[0]
    np.testing.assert_allclose(full_coef(estimator)[0], expected, rtol=1e-9)


def test_arrays_in_any_order_give_what_a_store_gives(arrays, tmp_path):
    X, y, groups, labels = arrays
    shuffled = np.argsort(np.random.default_rng(0).permutation(len(y)) + groups * 0)
    names = np.array([f"u{g:04d}" for g in groups])
    by_store = MixedLinearRegression(2, random_state=0)
    with create_tasks(tmp_path / "t.daskmlr", feature_names=["x0", "x1", "x2"]) as writer:
        order = np.argsort(groups, kind="stable")
        writer.write(X[order], y[order], np.bincount(groups), np.unique(names))
    by_store.fit(open_tasks(tmp_path / "t.daskmlr"))
    by_arrays = MixedLinearRegression(2, random_state=0)
    by_arrays.fit(X[shuffled], y[shuffled], groups=names[shuffled])
    np.testing.assert_allclose(full_coef(by_arrays), full_coef(by_store), rtol=1e-7)
    assert by_arrays.task_ids_.tolist() == np.unique(names).tolist()
    assert label_accuracy(by_arrays.labels_, labels, n_components=2) > 0.9


def test_arrays_are_assigned_as_a_store_is(arrays, tmp_path):
    X, y, groups, _ = arrays
    frame, shop = pd.DataFrame(X, columns=["a", "b", "c"]), pd.Series(groups, name="shop")
    estimator = MixedLinearRegression(2, random_state=0).fit(frame, y, groups=shop)
    order = np.argsort(groups, kind="stable")
    with create_tasks(tmp_path / "t", feature_names=["a", "b", "c"], task_name="shop") as writer:
        writer.write(X[order], y[order], np.bincount(groups), np.unique(groups))
    of_store = estimator.assign(tmp_path / "t")
    of_frame = estimator.assign(frame[::-1], y[::-1], groups=shop[::-1])
    assert list(of_frame) == list(of_store) == ["shop", *ASSIGNED]
    for name, values in of_store.items():
        np.testing.assert_allclose(of_frame[name], values, rtol=1e-6, atol=1e-12)
    assert list(estimator.assign(X, y, groups=groups)) == ["shop", *ASSIGNED]
    assert list(estimator.assign(X, y, groups=shop.rename("who"))) == ["who", *ASSIGNED]
    estimator.model_.assign(X, y, groups=shop, out=tmp_path / "labels.parquet")
    written = pd.read_parquet(tmp_path / "labels.parquet")
    np.testing.assert_allclose(written["p_value"], of_store["p_value"])
    y = np.where(groups == 7, y + 50, y)
    odd = odd_tasks(estimator.assign(X, y, groups=groups)["p_value"])
    assert np.flatnonzero(odd).tolist() == [7]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_known_again(arrays, dtype):
    """As those that a robust fit left tasks out of."""
    X, y, groups, _ = arrays
    X, y = X.astype(dtype), np.where(groups % 50 == 7, y + 50, y)
    estimator = MixedLinearRegression(2, robust=0.05, random_state=0).fit(X, y, groups=groups)
    assert estimator.model_.left_out.size == 6
    assert estimator.uncertainty(X, y, groups=groups).n_tasks == 294


def test_what_cannot_be_assigned_is_said(arrays, fitted, easy_tasks):
    X, y, groups, _ = arrays
    estimator = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    with pytest.raises(FeatureMismatchError, match=r"shape \(n, 3\), got \(\d+, 2\)"):
        estimator.assign(X[:, :2], y, groups=groups)
    with pytest.raises(InputError, match="groups=None"):
        estimator.assign(X, y)
    with pytest.raises(InputError, match=r"has its own targets and tasks.* as out="):
        fitted.assign(easy_tasks, "labels.parquet")


def test_the_score_is_that_of_predictions_from_support(arrays):
    X, y, groups, _ = arrays
    estimator = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    place = np.arange(len(y)) - np.searchsorted(groups, groups)
    known, asked = place < 3, place >= 3
    support = (X[known], y[known], groups[known])
    informed = estimator.score(X[asked], y[asked], support=support, groups=groups[asked])
    foretold = estimator.predict(X[asked], support=support, groups=groups[asked])
    assert informed == r2_score(y[asked], foretold) > 0.9
    assert estimator.score(X[asked], y[asked]) == r2_score(y[asked], estimator.predict(X[asked]))
    assert estimator.score(X[asked], y[asked]) < informed - 0.1


def test_data_frames_keep_their_names(arrays):
    X, y, groups, _ = arrays
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    estimator = MixedLinearRegression(2, random_state=0).fit(frame, y, groups=groups)
    assert estimator.feature_names_in_.tolist() == ["a", "b", "c"]
    assert estimator.n_features_in_ == 3


def test_parameters_follow_the_contract():
    estimator = MixedLinearRegression(4, pairs="split", random_state=3)
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    assert copy.set_params(n_components=5, tol=1e-4) is copy
    assert (copy.n_components, copy.tol, estimator.n_components) == (5, 1e-4, 4)
    assert "n_components=4" in repr(estimator)
    with pytest.raises(ValueError, match="components_n"):
        copy.set_params(components_n=3)


def test_fitting_changes_no_parameter_and_no_input(arrays):
    X, y, groups, _ = (a.copy() for a in arrays)
    estimator = MixedLinearRegression(2, random_state=0)
    before = estimator.get_params()
    assert estimator.fit(X, y, groups=groups) is estimator
    assert estimator.get_params() == before
    for mine, theirs in zip((X, y, groups), arrays, strict=False):
        np.testing.assert_array_equal(mine, theirs)


def test_the_same_seed_gives_the_same_bits(arrays):
    X, y, groups, _ = arrays
    runs = [MixedLinearRegression(2, random_state=5).fit(X, y, groups=groups) for _ in range(2)]
    np.testing.assert_array_equal(full_coef(runs[0]), full_coef(runs[1]))
    again = MixedLinearRegression(2, random_state=np.random.RandomState(0))
    again.fit(X, y, groups=groups)
    np.testing.assert_allclose(full_coef(again), full_coef(runs[0]), atol=1e-2)


def test_a_fitted_estimator_pickles(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict(np.ones((2, 4))), fitted.predict(np.ones((2, 4))))


def test_unfitted_is_said():
    with pytest.raises(NotFittedError):
        MixedLinearRegression(2).predict([[1.0]])
    with pytest.raises(NotFittedError):
        MixedLinearRegression(2).assign("nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"n_components": 3101}, "n_components=3101 is more than the 3100 tasks"),
        ({"pairs": "some"}, "got 'some'"),
        ({"pairs": 1}, "a single group has no pairs"),
        ({"clustering": "kmeans"}, "clustering must be one of .* got 'kmeans'"),
        ({"assignment": "fuzzy"}, "assignment must be one of .* got 'fuzzy'"),
    ],
)
def test_impossible_parameters_are_refused(easy_tasks, options, message):
    with pytest.raises(InputError, match=message):
        MixedLinearRegression(**{"n_components": 2, **options}).fit(easy_tasks)


def test_arrays_without_groups_are_refused(arrays):
    with pytest.raises(InputError, match="groups=None"):
        MixedLinearRegression(2).fit(arrays[0], arrays[1])


def test_a_fit_that_was_stopped_early_says_so(easy_tasks):
    with pytest.warns(ConvergenceWarning, match="after 2 refinement passes"):
        estimator = MixedLinearRegression(3, max_iter=2, random_state=0).fit(easy_tasks)
    assert not estimator.converged_
    assert "2 refinement passes" in estimator.model_.notes[0]


def test_too_many_components_are_said(arrays):
    X, y, groups, _ = arrays
    with pytest.warns(ComponentWarning) as caught:
        MixedLinearRegression(40, random_state=0, max_iter=200).fit(X, y, groups=groups)
    assert any("restarts" in str(w.message) or "less than one task" in str(w.message)
               for w in caught)  # fmt: skip


def test_one_component_too_many_is_said(easy_tasks):
    with pytest.warns(ComponentWarning, match=r"components \d and \d are one too many: "):
        MixedLinearRegression(4, random_state=0).fit(easy_tasks)


def test_several_components_too_many_are_said_at_once(easy_tasks):
    with pytest.warns(ComponentWarning) as caught:
        estimator = MixedLinearRegression(7, random_state=0).fit(easy_tasks)
    spare = estimator.diagnostics_["components_to_spare"]
    (said,) = [str(w.message) for w in caught if "too many" in str(w.message)]
    assert said.startswith(f"{spare} of 7 components are too many")
    assert said.endswith(f"Lower n_components, to {7 - spare} perhaps")
    assert 3 <= 7 - spare < 6


def test_two_regressions_in_one_component_are_said(easy_tasks):
    with pytest.warns(ComponentWarning, match=r"holds more than one regression, .* Raise n_comp"):
        estimator = MixedLinearRegression(2, random_state=0).fit(easy_tasks)
    signal = np.array(estimator.diagnostics_["residual_signal"])
    assert (
        np.count_nonzero(signal > 2 * np.array(estimator.diagnostics_["residual_signal_edge"])) == 1
    )


def test_components_that_hold_several_are_said_at_once():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(6000, 2)), np.repeat(np.arange(1000), 6)
    corners = np.array([[3.0, 1], [3, -1], [-3, 1], [-3, -1]])
    y = (X * corners[groups % 4]).sum(axis=1) + 0.3 * rng.normal(size=6000)
    with pytest.warns(ComponentWarning, match=r"components \d(, \d)* and \d hold more than one"):
        MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)


def test_a_component_without_noise_is_said_and_not_chosen():
    """A tenth of the tasks have a target of zero, whatever the features."""
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(4000, 2)), np.repeat(np.arange(500), 8)
    y = X @ [1.0, -1.0] + 0.5 * rng.normal(size=4000)
    y[groups % 10 == 0] = 0.0
    with pytest.warns(ComponentWarning, match=r"component 1 \(0\.1 of the tasks\) explains its"):
        two = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        auto = MixedLinearRegression("auto", random_state=0).fit(X, y, groups=groups)
    assert two.diagnostics_["components_without_noise"] == [1]
    assert auto.coef_.shape == (1, 2)
    said = [str(warning.message) for warning in caught]
    assert any(
        text.startswith("2 components have a smaller BIC than the 1 chosen") for text in said
    )
    assert not any("no structure" in text for text in said)
    bic = {trial["n_components"]: trial["bic"] for trial in auto.diagnostics_["selection"]}
    assert bic[2] < bic[1]


def test_a_number_that_another_beats_in_the_end_is_no_number_without_noise(fitted):
    """The chosen one is fitted once more, and may end below what a trial of it found."""
    model, facts = fitted.model_, {"icl": 0.0, "components_without_noise": []}
    fits = {k: (model, Diagnosis({**facts, "bic": bic})) for k, bic in ((2, 5.0), (3, 10.0))}
    _, diagnosis = _with_evidence(fits, 3, 64)
    assert diagnosis.warnings == []


def test_tasks_without_structure_are_said():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(3000, 4)), np.repeat(np.arange(600), 5)
    with pytest.warns(StructureWarning, match=r"no structure: one regression for all.* no better$"):
        MixedLinearRegression(2, random_state=0).fit(X, rng.normal(size=3000), groups=groups)


def test_the_number_of_components_is_found(easy_tasks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = MixedLinearRegression("auto", random_state=0).fit(easy_tasks)
    assert caught == []
    assert len(estimator.coef_) == 3
    trials = {t["n_components"]: t["bic"] for t in estimator.diagnostics_["selection"]}
    assert {2, 3, 4} <= set(trials)
    assert min(trials, key=trials.get) == 3


@pytest.mark.parametrize("effect", [0.0, 4.0])
def test_the_number_is_found_where_features_do_not_vary_within_a_task(effect):
    """Each such feature has a direction of its own in the spectrum: trials begin far above."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(1500), rng.integers(4, 13, 1500))
    kind, region = (rng.integers(0, n, 1500)[groups] for n in (3, 5))
    price, promo = rng.uniform(1, 20, len(groups)), rng.random(len(groups)) < 0.3
    slope, gain = np.array([-4.0, -1.0, 1.0])[kind], np.array([5.0, 30.0, 0.0])[kind]
    y = 100 + slope * price + gain * promo + effect * region + rng.normal(0, 4, len(groups))
    X = np.column_stack([price, promo, *(region == r for r in range(1, 5))])
    fitted = MixedLinearRegression("auto", random_state=0).fit(X, y, groups=groups)
    assert max(t["n_components"] for t in fitted.diagnostics_["selection"]) > 4
    assert np.sort(fitted.coef_[:, 0]).round().tolist() == [-4, -1, 1]


@pytest.mark.parametrize("slope", [0.0, 3.0])
def test_one_regression_or_none_is_no_structure(slope):
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(3000, 4)), np.repeat(np.arange(600), 5)
    y = slope * X[:, 0] + rng.normal(size=3000)
    with pytest.warns(StructureWarning, match="no structure: of 1 to . components one regression"):
        estimator = MixedLinearRegression("auto", random_state=0).fit(X, y, groups=groups)
    assert len(estimator.coef_) == 1
