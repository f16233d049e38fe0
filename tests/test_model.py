"""The model: saved and loaded to the bit, assignment and prediction as the formulas say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.stats import norm

from daskmlr import InputError, MixedLinearRegression, Model, StoreError, create_tasks, open_tasks
from daskmlr.errors import FeatureMismatchError, PathExistsError


@pytest.fixture(scope="module")
def model(easy_tasks):
    return MixedLinearRegression(3, random_state=0).fit(easy_tasks).model_


def by_formula(model, X, y):
    """Posterior of one task, from the densities of its examples."""
    densities = [
        norm.logpdf(y, X @ model.coef[c] + model.intercept[c], np.sqrt(model.noise_variance[c]))
        for c in range(model.n_components)
    ]
    joint = np.log(model.weights) + np.sum(densities, axis=1)
    return np.exp(joint - np.logaddexp.reduce(joint)), np.logaddexp.reduce(joint)


def test_saved_and_loaded_to_the_bit(model, tmp_path):
    model.save(tmp_path / "model.zarr")
    loaded = Model.load(tmp_path / "model.zarr")
    for name, value in vars(model).items():
        np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
    assert isinstance(loaded.feature_names, tuple)


def test_readable_with_plain_zarr_and_without_pickle(model, tmp_path):
    model.save(tmp_path / "model.zarr")
    group = zarr.open_group(tmp_path / "model.zarr", mode="r")
    np.testing.assert_array_equal(group["coef"][:], model.coef)
    assert group.attrs["daskmlr"]["format_version"] == 2


def test_an_existing_path_is_refused(model, tmp_path):
    model.save(tmp_path / "model.zarr")
    with pytest.raises(PathExistsError, match=r"model\.zarr exists"):
        model.save(tmp_path / "model.zarr")


def test_what_is_not_a_model_is_refused(easy_tasks, tmp_path):
    with pytest.raises(StoreError, match="no model at"):
        Model.load(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match="is a task store, a model is wanted: fit one with"):
        Model.load(easy_tasks.path)


def test_a_newer_format_is_refused(model, tmp_path):
    model.save(tmp_path / "model.zarr")
    group = zarr.open_group(tmp_path / "model.zarr", mode="r+")
    group.attrs["daskmlr"] = {**group.attrs["daskmlr"], "format_version": 99}
    with pytest.raises(StoreError, match="format version 99"):
        Model.load(tmp_path / "model.zarr")


def test_an_older_format_is_refused(model, tmp_path):
    model.save(tmp_path / "model.zarr")
    group = zarr.open_group(tmp_path / "model.zarr", mode="r+")
    group.attrs["daskmlr"] = {**group.attrs["daskmlr"], "format_version": 1}
    with pytest.raises(StoreError, match=r"version 1, this daskmlr reads 2: .* make it again"):
        Model.load(tmp_path / "model.zarr")


def test_a_few_of_the_largest_tasks_are_kept(model, easy_tasks):
    """Their estimates lie around the component that the assignment gives them."""
    n, r = model.heavy_coef.shape
    assert (n, r) == (500, len(model.eigenvalues))
    assert model.heavy_centres.shape == (3, r)
    sizes = np.sort(easy_tasks.task_sizes())[-n:]
    np.testing.assert_array_equal(np.sort(model.heavy_sizes), sizes)
    nearest = np.linalg.norm(model.heavy_coef[:, None] - model.heavy_centres, axis=2).argmin(1)
    assert np.mean(nearest == model.heavy_labels) > 0.95
    shares = np.bincount(model.heavy_labels) / n
    np.testing.assert_allclose(shares, model.weights, atol=0.06)


def test_distances_of_the_kept_components_are_those_of_their_predictions(model, easy_tasks):
    """On white covariates the length of a difference is its root mean square over examples."""
    foretold = [
        easy_tasks.read_block(i).X @ model.coef.T + model.intercept
        for i in range(easy_tasks.n_blocks)
    ]
    difference = np.concatenate(foretold) @ [1, -1, 0]
    apart = np.linalg.norm(model.heavy_centres[0] - model.heavy_centres[1])
    assert apart == pytest.approx(np.sqrt(np.mean(difference**2)), rel=0.02)


def test_assignment_is_the_formula(model, easy_tasks):
    assigned = model.assign(easy_tasks, client="sync")
    block = easy_tasks.read_block(3)
    for i in (0, 1, block.n_tasks - 1):
        rows = slice(block.offsets[i], block.offsets[i + 1])
        shares, log_likelihood = by_formula(model, block.X[rows], block.y[rows])
        at = block.first_task + i
        np.testing.assert_allclose(assigned["posterior"][at], shares, atol=1e-6)
        np.testing.assert_allclose(assigned["log_likelihood"][at], log_likelihood, rtol=1e-9)
        assert assigned["label"][at] == shares.argmax()
    np.testing.assert_allclose(assigned["log_likelihood"].sum(), model.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
def test_assignment_to_disk(model, easy_tasks, tmp_path, suffix):
    out = tmp_path / f"labels{suffix}"
    model.assign(easy_tasks, out=out, client="threads")
    here = model.assign(easy_tasks, client="sync")
    read = pd.read_parquet(out) if suffix == ".parquet" else zarr.open_group(out, mode="r")
    np.testing.assert_array_equal(read["task"][:], easy_tasks.task_ids())
    np.testing.assert_array_equal(read["label"][:], here["label"])
    np.testing.assert_array_equal(read["posterior_2"][:], here["posterior"][:, 2])


def test_a_store_of_other_features_is_refused(model, tmp_path):
    with create_tasks(tmp_path / "t.daskmlr", feature_names=["x0", "x1", "x2", "z"]) as writer:
        writer.write(np.ones((3, 4)), np.ones(3), [3])
    with pytest.raises(FeatureMismatchError, match=r"it lacks \['x3'\] and has \['z'\] besides"):
        model.assign(open_tasks(tmp_path / "t.daskmlr"), out=tmp_path / "labels.parquet")
    assert not (tmp_path / "labels.parquet").exists()


def test_features_in_another_order_are_refused(model, easy_tasks):
    turned = replace(model, feature_names=model.feature_names[::-1])
    with pytest.raises(FeatureMismatchError, match="another order"):
        turned.check_store(easy_tasks)


def test_bayes_is_the_posterior_mean_and_its_spread(model):
    rng = np.random.default_rng(0)
    X_s, X = rng.normal(5, 1, (2, 4)), rng.normal(5, 1, (6, 4))
    y_s = X_s @ model.coef[1] + model.intercept[1]
    shares, _ = by_formula(model, X_s, y_s)
    each = X @ model.coef.T + model.intercept
    mean, std = model.predict(X, support=(X_s, y_s), return_std=True)
    np.testing.assert_allclose(mean, each @ shares)
    second = (model.noise_variance + each**2) @ shares
    np.testing.assert_allclose(std, np.sqrt(second - (each @ shares) ** 2))


def test_map_follows_the_likeliest_component(model):
    X = np.random.default_rng(1).normal(5, 1, (6, 4))
    y = X @ model.coef[2] + model.intercept[2]
    mean, std = model.predict(X, support=(X, y), method="map", return_std=True)
    np.testing.assert_allclose(mean, y)
    np.testing.assert_allclose(std, np.sqrt(model.noise_variance[2]))


def test_without_support_the_weights_decide(model):
    X = np.ones((2, 4))
    expected = (X @ model.coef.T + model.intercept) @ model.weights
    np.testing.assert_allclose(model.predict(X), expected)
    np.testing.assert_allclose(model.predict(X, support=(np.empty((0, 4)), [])), expected)


def test_several_tasks_at_once_are_each_by_itself(model):
    rng = np.random.default_rng(2)
    X_s, X = rng.normal(5, 1, (9, 4)), rng.normal(5, 1, (5, 4))
    y_s = rng.normal(size=9)
    groups_s = np.array(["b", "a", "c", "b", "a", "c", "b", "a", "c"])
    groups = np.array(["c", "new", "a", "b", "zz"])
    together = model.predict(X, support=(X_s, y_s, groups_s), groups=groups)
    for i, group in enumerate(groups):
        own = groups_s == group
        alone = model.predict(X[i : i + 1], support=(X_s[own], y_s[own]))
        np.testing.assert_allclose(together[i], alone[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(np.ones((2, 3))), r"\(n, 4\), got \(2, 3\)"),
        (lambda m: m.predict(np.full((2, 4), np.nan)), "8 NaN .* row 0, feature 'x0'"),
        (lambda m: m.predict(np.ones((2, 4)), method="mean"), "got 'mean'"),
        (
            lambda m: m.predict(np.ones((2, 4)), support=(np.ones((2, 4)), [1, np.inf])),
            "y of the support has 1 NaN or infinite values, the first in row 1",
        ),
        (
            lambda m: m.predict(np.ones((2, 4)), support=(np.ones((2, 4)), [1, 2, 3])),
            "got 2, 3 and 3",
        ),
        (
            lambda m: m.predict(np.ones((2, 4)), support=(np.ones((2, 4)), [1, 2], [0, 0])),
            "give the groups",
        ),
        (
            lambda m: m.predict(
                np.ones((2, 4)), support=(np.ones((2, 4)), [1, 2], [0, 0]), groups=[0]
            ),
            r"one entry per row of X \(2\), got 1",
        ),
    ],
)
def test_impossible_predictions_are_refused(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_the_scale_of_features_is_that_of_the_examples(easy_tasks):
    model = MixedLinearRegression(3, random_state=0).fit(easy_tasks).model_
    np.testing.assert_allclose(model.feature_scale, easy_tasks.feature_scale, rtol=1e-6)
