"""The notebooks of `examples/` run on a small size, and are kept without what they showed."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget

from tests.cluster.daemons import SOURCE
from tests.deploy import slurm as daemons

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


class Bars(OutputWidget):
    """A widget that shows, and answers nothing.

    While nbclient sends an answer it may miss that a cell has ended, until the time for the cell is
    over (jupyter/nbclient#312).
    """

    def send(self, *message, **parts):
        pass


def run(name, folder, small):
    """Run a notebook with `small` after the cell that says its size; return it."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (size,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    size.source += f"\n{small}"
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=100, resources=where)
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": Bars}}
    return client.execute()


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def said(notebook):
    """What all cells wrote to standard output."""
    return "".join(each.text for each in outputs(notebook) if each.get("name") == "stdout")


def warned(notebook):
    """The warnings that Python gave: on standard error, or beside bars, which show them."""
    told = [
        each.get("text", "") + each.get("data", {}).get("text/plain", "")
        for each in outputs(notebook)
        if each.get("name") != "stdout"
    ]
    return re.findall(r"\.py:\d+: (\w+Warning: .*)", "".join(told))


def pictures(notebook):
    return [each for each in outputs(notebook) if "image/png" in each.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.read_text() == nbformat.writes(notebook) + "\n"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_first_steps(tmp_path):
    notebook = run("first_steps", tmp_path, "n_players = 400")
    (warning,) = warned(notebook)
    assert warning.startswith("ComponentWarning: components 0, 1, 2 and 3 hold more than one")
    errors = re.findall(r"([\d.]+)$", said(notebook), re.M)[-3:]
    pooled, ridge, mixture = map(float, errors)
    assert mixture < ridge < pooled
    assert len(pictures(notebook)) == 3


def test_larger_than_memory(tmp_path):
    notebook = run("larger_than_memory", tmp_path, "gigabytes = 0.05")
    assert warned(notebook) == []
    shown = said(notebook)
    assert float(re.search(r"is ([\d.]+) from its truth", shown)[1]) < 0.05
    assert len(re.findall(r"^worker \d+: at most 0\.\d+ GB$", shown, re.M)) == 2


@pytest.mark.skipif(bool(daemons.missing), reason=daemons.needs)
@pytest.mark.skipif(os.getuid() != 0, reason="SLURM's daemons want to be started by root")
@pytest.mark.timeout(300)  # starts SLURM, a Dask cluster and a kernel
def test_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    options = {"cores": 1, "memory": "1GB", "interface": "lo", "walltime": "00:10:00"}
    with daemons.slurm() as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        small = f"options, n_workers, n_tasks = {options}, 2, 20_000"
        notebook = run("slurm", tmp_path, small)
    assert warned(notebook) == []
    shown = said(notebook)
    assert len(re.findall(r"dask-wor.* R .* n\d", shown)) == 2  # then none
    assert shown.endswith("the same bits: True\n")


def test_paper(tmp_path):
    small = "n_seeds, n_light, n_heavy, heavy_sizes = 1, 4096, 64, [16, 64]"
    notebook = run("paper", tmp_path, small)
    assert warned(notebook) == []
    assert len(pictures(notebook)) == 4
