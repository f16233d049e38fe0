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
