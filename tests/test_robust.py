"""Fits with corrupted tasks: what breaks the plain fit leaves the robust one whole."""

import warnings
from functools import cache

import numpy as np
import pytest

from daskmlr import (
    ComponentWarning,
    InputError,
    MixedLinearRegression,
    Model,
    create_tasks,
    odd_tasks,
)
from daskmlr.diagnostics import Diagnosis
from daskmlr.errors import DaskmlrWarning
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.clustering import cluster_by_em
from daskmlr.kernels.metrics import coefficient_error
from daskmlr.kernels.projected import ProjectedTasks
from daskmlr.stages import FitOptions
from daskmlr.storage.arrays import write_arrays
from daskmlr.trimming import diagnose_trimming
from tests.benchmarks.robust import (
    ADVERSARIES,
    Case,
    corrupted_rows,
    draw_case,
)

CASE = Case(3, 6, ((2500, 6), (300, 20)))


@cache
def corrupted(name):
    """A table with 5 % of its tasks replaced, and whether each task was."""
    table, rng = draw_case(CASE, 4), np.random.default_rng(4)
    bad = np.zeros(len(table.sizes), dtype=bool)
    if ADVERSARIES[name] is not None:
        rows = corrupted_rows(name, table, rng)
        ADVERSARIES[name](table, rows, rng)
        bad[table.groups[rows]] = True
    return table, bad


def store(table, path, **options):
    return write_arrays(path, table.X, table.y, table.groups, **options)


def fit(tasks, robust, client="sync", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MixedLinearRegression(3, robust=robust, random_state=0, **options)
        return model.fit(tasks, client=client)


def error(fitted, table):
    found = np.column_stack([fitted.intercept_, fitted.coef_])
    truth = np.column_stack([table.truth.intercept, table.truth.coef])
    return coefficient_error(found, truth).max()


@pytest.fixture(scope="module")
def clean_error(tmp_path_factory):
    table, _ = corrupted("none")
    return error(fit(store(table, tmp_path_factory.mktemp("c") / "t"), None), table)


@pytest.mark.parametrize("name", [name for name in ADVERSARIES if "largest" not in name])
def test_within_one_and_a_half_times_the_clean_error(name, clean_error, tmp_path):
    table, _ = corrupted(name)
    tasks = store(table, tmp_path / "t")
    assert error(fit(tasks, 0.06), table) < 1.5 * clean_error
    if name != "none":
        assert error(fit(tasks, None), table) > 2 * clean_error


def test_the_same_bits_on_any_scheduler(tmp_path):
    tasks = store(corrupted("one regression, norm 3")[0], tmp_path / "t", block_bytes=200_000)
    assert tasks.n_blocks > 4
    first, second = fit(tasks, 0.06).model_, fit(tasks, 0.06, client="threads").model_
    for name in ("coef", "intercept", "noise_variance", "weights", "subspace", "eigenvalues"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_corrupted_tasks_are_listed_as_odd(tmp_path):
    table, bad = corrupted("one regression, norm 5")
    tasks = store(table, tmp_path / "t")
    fitted = fit(tasks, 0.06)
    listed = odd_tasks(fitted.assign(tasks, client="sync")["p_value"])
    assert listed[bad].mean() > 0.95
    assert (listed & ~bad).sum() <= 0.03 * listed.sum()
    left_out = [e["left_out"] for e in fitted.model_.history if e["stage"] == "odd"][-1]
    assert abs(left_out - bad.sum()) < 0.1 * bad.sum()
    assert fitted.log_likelihood_ > fit(tasks, None).log_likelihood_


def test_standard_errors_are_of_the_tasks_that_were_fitted(tmp_path):
    """Those that the fit left out are left out again, but not of another store."""
    table, _ = corrupted("one regression, norm 5")
    tasks = store(table, tmp_path / "t")
    fitted = fit(tasks, 0.06)
    fitted.model_.save(tmp_path / "model")
    model = Model.load(tmp_path / "model")
    sound = np.setdiff1d(np.arange(tasks.n_tasks), model.left_out)
    assert 0 < len(model.left_out) == model.diagnostics["tasks_left_out"]
    rows = np.isin(table.groups, sound)
    alone = write_arrays(tmp_path / "sound", table.X[rows], table.y[rows], table.groups[rows])
    wanted = fit(alone, None).model_.uncertainty(alone, client="sync")
    found = model.uncertainty(tasks, client="sync")
    assert found.n_tasks == wanted.n_tasks == len(sound)
    assert found.shortfall < 0.1
    for name in ("coef", "intercept", "noise_variance", "weights"):
        errors = (getattr(u.standard_errors(), name) for u in (found, wanted))
        np.testing.assert_allclose(*errors, rtol=1e-2)
    clean = store(corrupted("none")[0], tmp_path / "clean")  # no task of another store is left out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.uncertainty(clean, client="sync").n_tasks == clean.n_tasks


def test_disjoint_parts_are_robust_too(tmp_path):
    table, _ = corrupted("one regression, norm 5")
    fitted = fit(store(table, tmp_path / "t"), 0.06, sample_split=True)
    assert error(fitted, table) < 0.1


def test_more_corrupted_tasks_than_allowed_are_told(tmp_path):
    table, bad = corrupted("one regression, norm 2")
    assert bad.sum() == 140
    tasks, model = store(table, tmp_path / "t"), MixedLinearRegression(3, robust=0.04)
    with pytest.warns(DaskmlrWarning, match=r"^112 tasks are odd .* robust=0\.04 allows"):
        model.set_params(random_state=0).fit(tasks, client="sync")
    assert "Raise robust" in model.model_.notes[-1]


def test_a_component_that_corrupted_tasks_could_make_up_is_told():
    mixture = Mixture(np.zeros((2, 1)), np.ones(2), np.array([0.97, 0.03]))
    options = FitOptions(2, robust=0.06).without(np.arange(59))
    verdict = Diagnosis()
    diagnose_trimming(verdict, mixture, options, 1000)
    ((category, message),) = verdict.warnings
    assert category is ComponentWarning
    assert message.startswith("1 of 2 components hold a smaller share of the tasks than robust=0.0")
    assert verdict.facts == {"tasks_left_out": 59, "odd_rate": 0.05}
    sound = Diagnosis()
    diagnose_trimming(sound, mixture, FitOptions(2, robust=0.02), 1000)
    assert sound.warnings == []


def test_a_component_of_what_no_regression_explains_is_told(tmp_path):
    table, _ = corrupted("none")
    y, rng = table.y.copy(), np.random.default_rng(7)
    odd = np.isin(table.groups, rng.choice(len(table.sizes), 40, replace=False))
    y[odd] = 8 * rng.normal(size=odd.sum())
    tasks = write_arrays(tmp_path / "t", table.X, y, table.groups)
    with pytest.warns(ComponentWarning, match=r"component 3 .*made of odd tasks.* robust=0\.03"):
        fitted = MixedLinearRegression(4, random_state=0).fit(tasks, client="sync")
    assert fitted.weights_[3] == pytest.approx(40 / 2800, rel=0.3)


@pytest.mark.parametrize("n_odd", [0, 25])
def test_tasks_left_out_count_for_the_number_of_components(n_odd):
    """Two components leave more out than three, and must not look better for it."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(2000), 8)
    kind = rng.choice(3, size=2000, p=[0.5, 0.3, 0.2])[groups]
    X = np.column_stack([rng.uniform(8, 12, len(groups)), rng.random(len(groups)) < 1 / 3])
    y = np.array([-30, -5, -12])[kind] * (X[:, 0] - 10) + np.array([0, 60, -50])[kind] * X[:, 1]
    y += rng.normal(0, 15, len(groups))
    odd = groups < n_odd
    y[odd] = rng.normal(0, 300, odd.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trials
        model = MixedLinearRegression("auto", robust=0.05, random_state=0).fit(X, y, groups=groups)
    trials = {trial["n_components"]: trial for trial in model.diagnostics_["selection"]}
    assert model.model_.n_components == 3, trials
    assert set(range(n_odd)) <= set(model.model_.left_out.tolist())
    assert trials[2]["bic"] > trials[3]["bic"] + 1000


@pytest.mark.parametrize("robust", [0, 0.5, -0.1])
def test_impossible_fractions_are_refused(robust, tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["x"]) as writer:
        writer.write(np.arange(8.0)[:, None], np.arange(8.0), [4, 4], [0, 1])
    with pytest.raises(InputError, match=f"robust bounds .* got {robust}"):
        MixedLinearRegression(1, robust=robust).fit(tmp_path / "t", client="sync")


def test_p_values_are_saved_with_the_labels(easy_tasks, tmp_path):
    model = MixedLinearRegression(3, random_state=0).fit(easy_tasks, client="sync").model_
    assert isinstance(model, Model)
    p = model.assign(easy_tasks, client="sync")["p_value"]
    for level in (0.01, 0.1):
        assert (p <= level).mean() < level + 5 * np.sqrt(level / len(p))
    assert not odd_tasks(p).any()


def projected(seed, shares, coef, t=12):
    """Projected tasks of some regressions, in two dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(shares)), shares)
    v = rng.normal(size=(len(labels), t, 2))
    r = np.einsum("nts,ns->nt", v, np.asarray(coef)[labels])
    r += 0.3 * rng.normal(size=r.shape)
    return ProjectedTasks(
        np.einsum("ntr,nts->nrs", v, v)[:, *np.triu_indices(2)],
        np.einsum("ntr,nt->nr", v, r),
        (r**2).sum(axis=1),
        np.full(len(labels), t),
        np.zeros((len(labels), 0, 2, 2)),
    )


@pytest.mark.parametrize("seed", range(5))
def test_first_components_are_not_those_of_corrupted_tasks(seed):
    coef = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 9.0]])
    tasks = projected(seed, [190, 190, 20], coef)
    found = {
        share: cluster_by_em(
            tasks, 2, np.ones(2), n_restarts=24, rng=np.random.default_rng(seed), corrupted=share
        ).mixture
        for share in (0.0, 0.06)
    }
    assert coefficient_error(found[0.06].coef, coef[:2]).max() < 0.05
    assert found[0.06].weights.sum() == pytest.approx(1)
    assert coefficient_error(found[0.0].coef, coef[:2]).max() > 0.5
