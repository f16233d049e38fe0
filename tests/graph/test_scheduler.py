"""The benchmark of the scheduler, small."""

import subprocess
import sys
from pathlib import Path


def test_a_pass_over_blocks_that_sleep():
    # as its docstring says to run it: its workers are another process, which must find it too
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks.scheduler", "--workers", "2"),
            *("--leaves", "30", "--leaves-per-worker", "2", "--seconds", "0.1"),
        ],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines[2:4]]
    assert rows == [["2", "30", "41", "0"], ["2", "4", "5", "0.1"]]
    assert lines[-1].startswith("graph of 32,768 leaves: 43,691 graph tasks")
