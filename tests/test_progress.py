"""How far a stage is, as a callable hears it."""

import re
import warnings

import pytest

from daskmlr import MixedLinearRegression, map_tasks
from daskmlr.progress import Progress, shown


def test_pace_and_time_left():
    assert Progress("refine", 0, 8).seconds_left is None
    assert Progress("refine", 0, 8).bytes_per_second == 0
    at = Progress("refine", 2, 8, n_bytes=300, seconds=3.0)
    assert (at.bytes_per_second, at.seconds_left) == (100.0, 9.0)
    assert Progress("refine", 8, 8, seconds=3.0).seconds_left == 0


def test_where_nobody_looks_nothing_is_shown(capsys):
    for progress in (True, False):
        with shown(progress) as show:
            assert show is False
    assert capsys.readouterr() == ("", "")


def test_every_pass_of_a_model_can_be_followed(easy_tasks, tmp_path):
    def heard():
        seen.append({})
        return lambda at: seen[-1].setdefault((at.stage, at.number), []).append(at)

    seen = []
    model = MixedLinearRegression(3, random_state=0)
    model.fit(easy_tasks, client="sync", progress=heard())
    history = [entry["stage"] for entry in model.model_.history]
    assert [stage for stage, _ in seen[-1]] == history
    assert {number for stage, number in seen[-1] if stage == "refine"} == set(
        range(1, history.count("refine") + 1)
    )
    assert all(steps[-1].done == steps[-1].total for steps in seen[-1].values())
    out = tmp_path / "labels.parquet"
    model.assign(easy_tasks, out=out, client="sync", progress=heard())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether intervals can be trusted is not asked here
        model.uncertainty(easy_tasks, client="sync", progress=heard())
    map_tasks(
        easy_tasks, lambda block: {"size": block.sizes}, None, client="sync", progress=heard()
    )
    assert [list(stages) for stages in seen[1:]] == [
        [("assign", 1)], [("uncertainty", 1)], [("map", 1)]
    ]  # fmt: skip


def test_what_shows_progress_may_stop_the_run(easy_tasks):
    def stop(at):
        if at.stage == "refine":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MixedLinearRegression(3, random_state=0).fit(easy_tasks, client="sync", progress=stop)


def test_a_notebook_sees_bars(easy_tasks):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'daskmlr[test]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'daskmlr[test]'")
    cell = nbformat.v4.new_code_cell(
        "from daskmlr import MixedLinearRegression\n"
        "model = MixedLinearRegression(3, random_state=0)\n"
        f"model.fit({str(easy_tasks.path)!r}, progress=True);"
    )
    book = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(book, timeout=100, kernel_name="python3").execute()
    states = book.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    (outputs,) = (
        widget["state"]["outputs"]
        for widget in states.values()
        if widget["model_name"] == "OutputModel"
    )
    (drawn,) = outputs
    page = re.search(r'Live page: <a .*?href="(.*?)"', drawn["data"]["text/html"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/daskmlr", page[1])
    text = re.sub(r"\x1b\[[0-9;]*m", "", drawn["data"]["text/plain"])
    stages = re.findall(r"^(\w+).*━ (\d+/\d+)", text, re.M)
    assert [stage for stage, _ in stages] == ["moments", "project", "cluster", "refine", "diagnose"]
    assert "cluster (k = 3)" in text
    assert all(done.split("/")[0] == done.split("/")[1] for _, done in stages)
