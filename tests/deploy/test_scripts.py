"""Shell scripts of `deploy` are clean by shellcheck."""

import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = [
    path
    for path in sorted(DEPLOY.rglob("*"))
    if path.is_file() and path.read_text().startswith("#!/usr/bin/env bash")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    linter = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([linter, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_there_are_scripts():
    assert DEPLOY / "slurm" / "fit.sbatch" in SCRIPTS
