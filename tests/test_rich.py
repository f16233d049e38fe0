"""What objects show of themselves: HTML in a notebook, text in a terminal."""

import numpy as np
import pytest
from sklearn import config_context

from daskmlr import ComponentWarning, MixedLinearRegression, Model, create_tasks, open_tasks
from daskmlr.storage.showing import SHOWN_CHUNKS, size_classes, some_sizes
from tests.markup import HOSTILE, check


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A store at a hostile path, with hostile names of features, target and task."""
    folder = tmp_path_factory.mktemp("rich") / "a<b>&'\"c"
    folder.mkdir()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2))
    y = np.where(np.repeat(np.arange(500), 6) % 2, 2.0, -1.0) * X[:, 0] + rng.normal(size=3000)
    names = {"feature_names": [HOSTILE, 'b"onload=x'], "target_name": "<i>y", "task_name": "t</td>"}
    with create_tasks(folder / "tasks", **names) as writer:
        writer.write(X, y, np.full(500, 6))
    return open_tasks(folder / "tasks")


@pytest.fixture(scope="module")
def fitted(hostile):
    return MixedLinearRegression(2, random_state=0).fit(hostile, client="sync")


def test_a_store_shows_its_counts_and_task_sizes(easy_tasks):
    page = check(easy_tasks._repr_html_())
    for shown in (easy_tasks.path, f"{easy_tasks.n_tasks:,}", f"{easy_tasks.n_rows:,}", "float64"):
        assert shown in page.text
    assert all(name in page.text for name in easy_tasks.feature_names)
    sizes = easy_tasks.task_sizes()
    assert f"{np.count_nonzero((sizes >= 4) & (sizes < 8)):,}" in page.text
    assert "spread evenly" not in page.text
    assert "rect" in page.tags


def test_a_large_store_shows_a_part_of_its_task_sizes(tmp_path):
    n = 70_000 * SHOWN_CHUNKS
    with create_tasks(tmp_path / "t", feature_names=["x"], dtype="float32") as writer:
        writer.write(np.zeros((n, 1)), np.arange(n), np.ones(n, int))
    tasks = open_tasks(tmp_path / "t")
    seen = some_sizes(tasks)
    assert len(seen) < n
    page = check(tasks._repr_html_())
    assert f"Task sizes of {len(seen):,} of the tasks" in page.text


def test_a_damaged_store_still_shows_itself(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["x"]) as writer:
        writer.write(np.zeros((4, 1)), np.arange(4), [2, 2])
    (tmp_path / "t" / "task_size" / "c" / "0").unlink()
    page = check(open_tasks(tmp_path / "t")._repr_html_())
    assert "task sizes cannot be read: chunk 0 of" in page.text


def test_size_classes_count_every_task():
    rng = np.random.default_rng(0)
    for sizes in (rng.integers(1, 13, 500), rng.integers(1, 1000, 500), np.array([4096])):
        assert sum(count for _, count in size_classes(np.bincount(sizes))) == len(sizes)
    assert size_classes(np.bincount([4096])) == [("4,096–8,191", 1)]


def test_a_model_shows_its_components_by_feature_name(easy_tasks):
    model = MixedLinearRegression(3, random_state=0).fit(easy_tasks, client="sync").model_
    page, text = check(model._repr_html_()), repr(model)
    for shown in (page.text, text):
        assert "3 linear regressions of y on 4 features" in shown
        assert f"{model.log_likelihood:.6g}" in shown
        assert f"{model.weights[2]:.4g}" in shown
        largest = np.abs(model.coef[0] * model.feature_scale).argmax()
        assert f"{model.coef[0, largest]:+.4g}" in shown
        assert "Warning" not in shown
    assert len(text.splitlines()) < 20


def test_warnings_come_first(easy_tasks):
    with pytest.warns(ComponentWarning):
        model = MixedLinearRegression(2, random_state=0).fit(easy_tasks, client="sync").model_
    for shown in (check(model._repr_html_()).text, repr(model)):
        assert 0 < shown.index(model.notes[0]) < shown.lower().index("noise std")


def test_a_model_of_many_components_and_features_stays_small():
    k, d = 100, 3000
    names = tuple(f"feature {j}" for j in range(d))
    rng = np.random.default_rng(0)
    one = {"feature_names": names, "target_name": "y", "task_name": "t", "encoding": None}
    arrays = {
        "coef": rng.normal(size=(k, d)), "intercept": np.zeros(k), "noise_variance": np.ones(k),
        "weights": np.full(k, 1 / k), "shift": np.zeros(d), "scale": np.ones(d),
        "subspace": np.zeros((d + 1, 2)), "eigenvalues": np.ones(2), "offset": np.zeros(d + 1),
        "gram": np.zeros((k, 4, 4)), "mass": np.ones(k),
    }  # fmt: skip
    counts = {"noise_edge": 1.0, "sources": (), "log_likelihood": -1.0, "n_tasks": 9, "n_rows": 99,
              "n_iter": 3, "converged": False}  # fmt: skip
    model = Model(**one, **arrays, **counts)
    assert len(model._repr_html_()) < 40_000
    assert "... 68 more components" in repr(model)
    assert "not converged" in repr(model)


def test_the_estimator_keeps_its_diagram_and_adds_the_model(fitted):
    before = MixedLinearRegression(2)._repr_mimebundle_()
    assert "regressions of" not in before["text/html"]
    after = fitted._repr_mimebundle_()
    assert "MixedLinearRegression" in after["text/html"]
    assert fitted.model_._repr_html_() in after["text/html"]
    assert after["text/plain"] == repr(fitted)
    assert fitted.model_._repr_html_() in fitted._repr_html_()
    with config_context(display="text"):
        assert "text/html" not in fitted._repr_mimebundle_()


def test_ipython_shows_them(fitted, hostile):
    formatter = pytest.importorskip(
        "IPython.core.formatters", reason="install ipython"
    ).DisplayFormatter()
    for thing in (hostile, fitted, fitted.model_):
        shown, _ = formatter.format(thing)
        assert "daskmlr-card" in shown["text/html"]
        assert shown["text/plain"]


def test_an_uncertainty_shows_intervals(fitted, hostile):
    uncertainty = fitted.uncertainty(hostile, client="sync")
    low, high = uncertainty.intervals()
    page, text = check(uncertainty._repr_html_()), repr(uncertainty)
    for shown in (page.text, text):
        assert "2 components, 2 features, 500 tasks" in shown
        assert f"{low.coef[1, 0]:.4g}" in shown
        assert f"{high.weights[0]:.4g}" in shown
        assert HOSTILE in shown


def test_names_are_escaped(fitted, hostile):
    for html in (hostile._repr_html_(), fitted.model_._repr_html_()):
        page = check(html)
        assert "i" not in page.tags
        assert HOSTILE in page.text
        assert "<i>y" in page.text
    assert hostile.path in check(hostile._repr_html_()).text
