"""The examples run, on a small size."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_flights(tmp_path):
    result = subprocess.run(
        [sys.executable, EXAMPLES / "flights.py", "--aircraft", "400", "--n-components", "2"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    scores = dict(
        line.rsplit(maxsplit=1) for line in lines if line.startswith("  ") and ":" not in line
    )
    assert {name.strip() for name in scores} == {
        "pooled least squares",
        "ridge per aircraft",
        "ridge per aircraft, shrunk to pooled",
        "mixture of 2, map",
        "mixture of 2, bayes",
    }
    assert all(5 < float(score) < 60 for score in scores.values())
    assert float(scores["  mixture of 2, bayes"]) < float(scores["  ridge per aircraft"])


def test_sine_waves(tmp_path):
    result = subprocess.run(
        [sys.executable, EXAMPLES / "sine_waves.py", "waves.png", "--share", "0.25"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *waves, verdict = result.stdout.splitlines()[-9:]
    errors = [float(line.split()[3]) for line in waves]
    assert len(errors) == 8
    assert max(errors) < 0.1  # the closest two waves are 0.64 apart, the noise is 0.5
    assert verdict.startswith("8 of 8 found")
    assert (tmp_path / "waves.png").read_bytes().startswith(b"\x89PNG")
