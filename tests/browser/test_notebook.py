"""JupyterLab runs the first notebook: cards, bars and figures are there, nobody else is asked."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.daemons import SOURCE, wait_until
from tests.deploy.slurm import free_port

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"
# asks the reader whether to fetch news, and others whether there is a newer JupyterLab
NEWS = "@jupyterlab/apputils-extension:announcements"
STAGES = ["moments", "project", "cluster", "refine", "diagnose"]
TALL = {"width": 1280, "height": 6500}  # the whole notebook: cells out of sight are not drawn


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab whose folder holds the notebook, on a small size."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    text = NOTEBOOK.read_text()
    assert text.count("n_players = None") == 1
    (folder / NOTEBOOK.name).write_text(text.replace("n_players = None", "n_players = 400"))
    settings = tmp_path / "CONFIG" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"disabledExtensions": {NEWS: True}}))
    port, token = free_port(), secrets.token_hex()
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                "--LabApp.extension_manager=readonly", "--ip=127.0.0.1", f"--port={port}",
            ],
            cwd=folder, stdout=log, stderr=log,
            env={**os.environ, **own, "JUPYTER_TOKEN": token, "PYTHONPATH": SOURCE},
        )  # fmt: skip
        said = Path(log.name)
        try:
            wait_until(lambda: "is running at" in said.read_text(), what="JupyterLab", seconds=60)
            yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}"
        finally:
            server.terminate()
            server.wait(30)


def test_first_steps_in_jupyterlab(page, lab, shoot):
    page.set_viewport_size(TALL)
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell .jp-InputPrompt").last.element_handle()
    page.wait_for_function("prompt => /\\d/.test(prompt.innerText)", arg=last, timeout=80_000)
    shoot("notebook")
    shown = page.locator(".jp-OutputArea-output").all_inner_texts()
    cards = [text for text in shown if text.startswith(("TaskStore", "Model"))]
    assert "320, by id" in cards[0]
    assert "4 linear regressions of ab on 1 feature" in cards[1]
    bars = next(text for text in shown if text.startswith("moments"))
    assert [line.split()[0] for line in bars.splitlines()] == STAGES
    assert bars.count("1/1") == len(STAGES)
    pooled, *_, mixture = (float(line.split()[-1]) for line in shown[-2].splitlines())
    assert mixture < pooled
    assert page.get_by_text("Traceback").count() == 0
    widths = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(widths) == 3
    assert min(widths) > 400
    page.close()  # before the server, which it would miss
