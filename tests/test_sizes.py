"""Sizes of a store's tasks: counted from any task on, and held against the requirements."""

import numpy as np
import pytest

from daskmlr import MixedLinearRegression, create_tasks, open_tasks
from daskmlr.sizes import data_of, requirements, size_counts, sufficiency, tasks_at_least
from daskmlr.storage import tasks as reading


@pytest.mark.parametrize("start", [0, 1, 700, 2999, 3100])
@pytest.mark.parametrize("at_once", [1, 999, 1 << 22])
def test_sizes_are_counted_from_a_task_on(easy_tasks, start, at_once, monkeypatch):
    monkeypatch.setattr(reading, "SIZES_AT_ONCE", at_once if at_once > 1 else 64)
    expected = np.bincount(easy_tasks.task_sizes()[start:], minlength=1)
    np.testing.assert_array_equal(np.trim_zeros(size_counts(easy_tasks, start), "b"),
                                  np.trim_zeros(expected, "b"))  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 5, 64])
def test_requirements_are_those_of_the_paper(k):
    t, d = np.arange(200), 7
    light, heavy = requirements(t, d, k)
    for size in (2, 3, 8, 100):
        enough = size >= np.log(k)
        assert light[size] == (pytest.approx(d * k**2 / size) if enough else np.inf)
        enough = size >= np.sqrt(k)
        assert heavy[size] == (pytest.approx(max(k**1.5, k**2 / size)) if enough else np.inf)
    assert np.isinf(light[:2]).all()
    assert np.isinf(heavy[:2]).all()  # a task needs a pair of examples


def test_too_few_tasks_or_examples_are_said():
    many, few = np.bincount([8] * 100_000), np.bincount([8] * 40)
    assert sufficiency(many, 10, 8).light == 8
    assert sufficiency(few, 10, 8).light is None
    assert sufficiency(few, 10, 8).heavy == 3
    assert sufficiency(np.bincount([1] * 1000), 3, 2).heavy is None


def test_what_is_read_of_a_store(easy_tasks):
    said = data_of(easy_tasks)
    sizes = easy_tasks.task_sizes()
    assert (said["path"], said["dtype"]) == (easy_tasks.path, "float64")
    assert (said["tasks"], said["examples"]) == (easy_tasks.n_tasks, easy_tasks.n_rows)
    assert (said["blocks"], said["bytes"]) == (easy_tasks.n_blocks, easy_tasks.nbytes)
    assert said["tasks_at_least"] == [[t, int((sizes >= t).sum())] for t in (1, 2, 4, 8, 16)]
    later = data_of(easy_tasks, 3)
    first = int(easy_tasks.block_tasks[3])
    assert later["blocks"] == easy_tasks.n_blocks - 3
    assert (later["tasks"], later["examples"]) == (3100 - first, sizes[first:].sum())
    assert later["tasks_at_least"][0] == [1, 3100 - first]
    assert tasks_at_least(size_counts(easy_tasks, first))[1] == 3100 - first


def test_a_model_says_what_it_was_fitted_on(tmp_path):
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(800, 2)), np.repeat(np.arange(200), 4)
    y = X[:, 0] * np.where(groups % 2, 2, -1) + 0.1 * rng.normal(size=800)
    fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    assert [entry["path"] for entry in fitted.model_.data] == [None]
    assert fitted.model_.data[0]["tasks_at_least"] == [[1, 200], [2, 200], [4, 200]]
    with create_tasks(tmp_path / "new", feature_names=["x0", "x1"]) as writer:
        writer.write(X[:80], y[:80], [2] * 40)
    fitted.partial_fit(open_tasks(tmp_path / "new"))
    assert fitted.model_.data[1]["path"] == str(tmp_path / "new")
    assert fitted.model_.data[1]["tasks_at_least"] == [[1, 40], [2, 40]]
    assert len(fitted.model_.data) == len(fitted.model_.sources)
