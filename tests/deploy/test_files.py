"""What `deploy` says: scripts by shellcheck, links that lead somewhere, commands that are."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from daskmlr.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
SCRIPTS = [path for path in FILES if path.read_text().startswith("#!")]
PAGES = [path for path in FILES if path.suffix == ".md"]
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMANDS = [
    (page.relative_to(DEPLOY), command)
    for page in PAGES
    for fence in FENCE.findall(page.read_text())
    for command in re.findall(r"(?:daskmlr fit|fit\.sbatch) ([^#\n]+)", fence)
]


def test_there_is_something_to_test():
    assert DEPLOY / "slurm" / "fit.sbatch" in SCRIPTS
    assert len(COMMANDS) >= 4
    assert all((folder / "README.md").exists() for folder in DEPLOY.iterdir() if folder.is_dir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    linter = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([linter, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=str)
def test_commands_have_the_options_they_are_given(page, command):
    context = main.commands["fit"].make_context("fit", shlex.split(command))
    options = context.params["cluster_options"]
    assert options is None or (DEPLOY.parent / options).exists()
