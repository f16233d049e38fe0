"""The report of a fit: every section, in words and figures, for every kind of model."""

import base64
import re
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskmlr import (
    ComponentWarning,
    MixedLinearRegression,
    create_tasks,
    ingest,
    plan,
    simulate,
)
from daskmlr.cli import main
from daskmlr.errors import InputError, PathExistsError, StructureWarning
from daskmlr.report import report_page, write_report
from daskmlr.report.timing import stage_times
from daskmlr.storage.writing import append_tasks
from tests.markup import HOSTILE, check

SECTIONS = ("warnings", "fitted", "components", "quality", "evidence", "time")


def fit(tasks, k, **options):
    return MixedLinearRegression(k, random_state=0, **options).fit(tasks, client="sync").model_


def shown(html):
    """The page, checked; its text without the spaces of the source."""
    page = check(html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert tuple(ids) == SECTIONS
    assert all(("href", f"#{name}") in page.attributes for name in SECTIONS)
    page.words = " ".join(page.text.split())
    return page


def pictures(page):
    """The figures, as XML; each has words beside it."""
    sources = [value for name, value in page.attributes if name == "src"]
    said = [value for name, value in page.attributes if name == "alt"]
    assert len(said) == len(sources)
    assert all(len(words) > 20 for words in said)
    kind = "data:image/svg+xml;base64,"
    assert all(source.startswith(kind) for source in sources)
    return [ET.fromstring(base64.b64decode(source[len(kind) :])) for source in sources]


@pytest.fixture(scope="module")
def easy(easy_tasks):
    return fit(easy_tasks, 3)


@pytest.fixture(scope="module")
def html(easy):
    return report_page(easy)


@pytest.fixture(scope="module")
def trips(tmp_path_factory):
    """Three kinds of driver, in a table with a categorical column."""
    rng = np.random.default_rng(0)
    driver = np.repeat(np.arange(900), 6)
    distance = rng.uniform(1, 30, len(driver))
    hour = rng.choice(["day", "night", "rush"], len(driver))
    slope, rush = np.array([1.0, 3.0, -0.5]), np.array([0.0, 5.0, 12.0])
    delay = slope[driver % 3] * distance + rush[driver % 3] * (hour == "rush")
    table = {"driver": driver, "distance": distance, "hour": hour, "delay": delay}
    table["delay"] = delay + rng.normal(0, 2, len(driver))
    path = tmp_path_factory.mktemp("report") / "trips"
    return ingest(pd.DataFrame(table), path, task="driver", target="delay", progress=False)


def test_an_ordinary_fit(easy, html, easy_tasks):
    page = shown(html)
    for said in (
        "3 linear regressions of y on 4 features, fitted to 3,100 tasks",
        "The fit had nothing to warn of",
        easy_tasks.path,
        f"{easy_tasks.n_rows:,} examples",
        f"numpy {np.__version__}",
        f"{easy.diagnostics['bic']:.6g}",
        "3 components were asked for",
        "as if the label of every task were certain",
        "The fit ended on 20",
    ):
        assert said in page.words
    assert f"{100 * easy.weights[0]:.3g} % of the tasks: y " in page.words
    assert "tabindex" in dict(page.attributes)
    assert len(pictures(page)) == 6
    assert all(name in page.words for name in ("moments", "project", "cluster", "diagnose"))


def test_the_page_is_the_same_each_time(easy, html):
    assert report_page(easy) == html


def test_nothing_in_the_page_points_outside(html):
    assert re.findall(r"(?:src|href|action|srcset)\s*=\s*[\"']?\s*(?:https?:|//)", html) == []
    assert "default-src 'none'" in html
    assert 'name="viewport"' in html
    assert "@media print" in html
    for svg in pictures(check(html)):
        links = [v for each in svg.iter() for name, v in each.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links)


def test_components_in_words(trips):
    model = fit(trips, "auto")
    page = shown(report_page(model))
    rising = int(np.argmax(model.coef[:, 0]))
    rush = model.coef[rising, 2]
    assert f"delay rises by {model.coef[rising, 0]:.4g} for each unit of distance" in page.words
    assert f"is {rush:.4g} higher where hour is rush than where it is day" in page.words
    falling = int(np.argmin(model.coef[:, 0]))
    assert f"falls by {-model.coef[falling, 0]:.4g} for each unit of distance" in page.words
    assert "hour=day: intercepts are theirs" in page.words
    assert "3 (kept)" in page.words
    tried = [trial["n_components"] for trial in model.diagnostics["selection"]]
    assert f"and {tried[-1]} components, which were tried, 3 had the smallest BIC" in page.words
    assert "The fits with other numbers of components took time too" in page.words
    assert len(pictures(page)) == 7


def test_an_uncertainty_gives_the_intervals(trips):
    model = fit(trips, 3)
    uncertainty = model.uncertainty(trips, client="sync")
    low, high = uncertainty.intervals(0.95)
    page = shown(report_page(model, uncertainty))
    assert f"{low.coef[1, 0]:.4g} to {high.coef[1, 0]:.4g}" in page.words
    between = f"{low.intercept[1]:.4g} to {high.intercept[1]:.4g}"
    assert f"(intercept) {model.intercept[1]:.4g} {between}" in page.words
    assert "sandwich" in page.words
    assert "were certain" not in page.words


def test_warnings_come_first(easy_tasks):
    with pytest.warns(ComponentWarning):
        model = fit(easy_tasks, 2)
    page = shown(report_page(model))
    assert 0 < page.words.index(model.notes[0]) < page.words.index("What was fitted Target")
    assert "nothing to warn of" not in page.words


def test_one_component(easy_tasks):
    with pytest.warns((ComponentWarning, StructureWarning)):
        model = fit(easy_tasks, 1)
    page = shown(report_page(model))
    assert "1 component was asked for" in page.words
    assert "Nearest other" not in page.words
    assert pictures(page)


def test_a_robust_fit(easy_tasks):
    page = shown(report_page(fit(easy_tasks, 3, robust=0.05)))
    assert "0 odd tasks were left out of the fit" in page.words
    assert "tasks that no component explains" in page.words


def test_an_updated_model(tmp_path):
    rng = np.random.default_rng(0)

    def examples(n):
        X = rng.normal(size=(5 * n, 2))
        slope = np.where(np.arange(n) % 2, 2.0, -1.0)
        return X, np.repeat(slope, 5) * X[:, 0] + rng.normal(size=5 * n), np.full(n, 5)

    with create_tasks(tmp_path / "tasks", feature_names=["a", "b"]) as writer:
        writer.write(*examples(400))
    estimator = MixedLinearRegression(2, random_state=0).fit(tmp_path / "tasks", client="sync")
    with append_tasks(tmp_path / "tasks") as writer:
        writer.write(*examples(100), np.arange(400, 500))
    model = estimator.partial_fit(tmp_path / "tasks", client="sync").model_
    page = shown(report_page(model))
    assert "Updates 1, with 100 new tasks" in page.words
    assert "Update:" in page.words
    assert "4–7 500" in page.words


def test_a_wide_model(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "WIDE_FEATURES", 2)
    tasks = simulate(
        tmp_path / "tasks", n_components=3, n_features=40, noise=0.5, task_groups=[(1500, 8)],
        random_state=1,
    )  # fmt: skip
    model = fit(tasks, 3)
    assert model.is_wide
    page = shown(report_page(model))
    assert "refined in a subspace of" in page.words
    assert "least squares beyond the subspace" in page.words


def test_arrays_have_no_path(tmp_path):
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(900, 1)), np.repeat(np.arange(150), 6)
    y = np.where(groups % 2, 2.0, -1.0) * X[:, 0] + 0.3 * rng.normal(size=900)
    model = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups, client="sync").model_
    assert "Store: arrays in memory" in shown(report_page(model)).words


def test_a_model_that_knows_only_its_parameters(easy):
    none = {"heavy_labels": np.zeros(0, int), "heavy_sizes": np.zeros(0, int)}
    none |= {"heavy_coef": np.zeros((0, 0)), "heavy_centres": np.zeros((0, 0))}
    page = shown(report_page(replace(easy, **none, history=(), data=(), diagnostics={})))
    assert "Task sizes" not in page.words
    assert "The fit ended" not in page.words
    assert len(pictures(page)) == 2


def test_a_model_of_many_features_and_components_stays_readable(easy):
    k, d = 70, 40
    rng = np.random.default_rng(0)
    model = replace(
        easy,
        coef=rng.normal(size=(k, d)), intercept=np.zeros(k), noise_variance=np.ones(k),
        weights=np.full(k, 1 / k), feature_names=tuple(f"name {j}" for j in range(d)),
        shift=np.zeros(d), scale=np.ones(d), offset=np.zeros(d + 1), mass=np.ones(k),
        subspace=np.zeros((d + 1, 3)), gram=np.tile(np.eye(d + 2), (k, 1, 1)), diagnostics={},
        heavy_coef=np.zeros((0, 0)), heavy_centres=np.zeros((0, 0)),
        heavy_labels=np.zeros(0, int), heavy_sizes=np.zeros(0, int),
    )  # fmt: skip
    page = shown(report_page(model))
    assert "20 features that move the target less are not shown" in page.words
    assert "6 smaller components are not shown" in page.words
    assert "the other 35 features move it by at most" in page.words


def test_hostile_names_are_shown_as_they_are_spelt(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "a<b>&'\"<img src=x onerror=y>"
    folder.mkdir()
    X = rng.normal(size=(1800, 2))
    kinds = np.repeat(np.arange(300), 6) % 2
    y = np.where(kinds, 2.0, -1.0) * X[:, 0] + rng.normal(size=1800)
    names = {"feature_names": [HOSTILE, "</style>$x^$<b>"], "target_name": "</title><script>y"}
    with create_tasks(folder / "tasks", **names, task_name="<i>t") as writer:
        writer.write(X, y, np.full(300, 6))
    html = report_page(fit(folder / "tasks", 2))
    page = shown(html)
    for name in (*names["feature_names"], names["target_name"], "<i>t", str(folder)):
        assert name in page.text
    assert {"script", "i", "b"}.isdisjoint(page.tags)
    assert html.count("<img ") == len(pictures(page))
    assert html.count("</style>") == html.count("</title>") == 1
    for svg in pictures(page):
        assert not any(each.tag.endswith("script") for each in svg.iter())


def test_times_beside_those_of_reading_alone(easy, html, easy_tasks):
    times = {time.stage: time for time in stage_times(easy.history)}
    n_passes = sum(entry["stage"] == "refine" for entry in easy.history)
    assert times["refine"].steps == n_passes
    assert times["refine"].bytes_read == n_passes * easy_tasks.nbytes
    assert times["cluster"].bytes_read == 0
    for name in ("moments", "project", "refine", "diagnose"):
        assert 0 < times[name].reading_share < 1
        assert times[name].reading_rate > times[name].rate > 0
    assert f"{100 * times['refine'].reading_share:.0f} %" in html


@pytest.fixture(scope="module")
def saved(easy, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "model"
    easy.save(path)
    return path


class TestCommand:
    """`daskmlr report MODEL OUT`."""

    def run(self, *args):
        return CliRunner().invoke(main, ["report", *map(str, args)])

    def test_it_writes_the_page_of_the_saved_model(self, saved, html, tmp_path):
        out = tmp_path / "out.html"
        result = self.run(saved, out)
        assert result.exit_code == 0, result.output
        assert f"Report of 3 components in {out}" in result.output
        assert out.read_text(encoding="utf-8") == html
        assert list(tmp_path.iterdir()) == [out]

    def test_with_the_store_its_intervals_are_right(self, saved, easy, easy_tasks, tmp_path):
        out = tmp_path / "out.html"
        result = self.run(saved, out, "--store", easy_tasks.path, "--scheduler", "sync")
        assert result.exit_code == 0, result.output
        found = easy.uncertainty(easy_tasks, client="sync")
        assert out.read_text(encoding="utf-8") == report_page(easy, found)

    @pytest.mark.parametrize("name", ["r4.pdf", "report", "html"])
    def test_a_file_that_promises_no_html_is_refused(self, saved, easy, tmp_path, name):
        result = self.run(saved, tmp_path / name)
        assert result.exit_code == 1
        assert "goes to a .html or .htm file, got" in result.output
        with pytest.raises(InputError, match=f"htm file, got .*{name}"):
            write_report(easy, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused(self, saved, easy, tmp_path):
        out = tmp_path / "out.html"
        out.write_text("mine")
        assert "exists and is a file" in self.run(saved, out).output
        with pytest.raises(PathExistsError, match=r"out\.html exists"):
            write_report(easy, out)
        assert out.read_text() == "mine"

    def test_swapped_arguments_are_said(self, saved, tmp_path):
        result = self.run(tmp_path / "out.html", saved)
        assert result.exit_code == 1
        assert "is a model: the order is MODEL OUT" in " ".join(result.output.split())

    def test_without_matplotlib_it_says_what_to_install(self, saved, easy, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for name in [name for name in sys.modules if name.startswith("daskmlr.plot")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("daskmlr.plot", raising=False)
        result = self.run(saved, tmp_path / "out.html")
        assert result.exit_code == 1
        assert "pip install 'daskmlr[plot]'" in result.output
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InputError, match="matplotlib"):
            report_page(easy)
