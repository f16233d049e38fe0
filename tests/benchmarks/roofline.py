"""Roofline picture of the passes that `tests.benchmarks.passes` measured.

    python -m tests.benchmarks.passes --features 8 32 128 512 2048 --json passes.jsonl
    python -m tests.benchmarks.roofline passes.jsonl roofline.png

Operations a second against operations a byte: no pass gets above reading (the slope) nor above
the fastest product that was measured (the roof).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from tests.benchmarks.passes import READ_ONLY, TASK_ROWS, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.benchmarks.passes import Measured

MARKERS = "osD^v"


def operations(measured: Measured) -> float:
    """Multiplications and additions of the products of a pass, for each row."""
    d, k = measured.n_features + 2, measured.n_components
    symmetric = d * (d + 1)  # one triangle
    return {
        READ_ONLY: 0.0,
        "moments, split": symmetric * (1 + 4 / TASK_ROWS),
        "moments, all pairs": symmetric * (2 + 2 / TASK_ROWS),
        "assignment": 2.0 * d * k,
        "refinement": 2.0 * d * k + symmetric,
    }[measured.name]


def draw(results: list[Measured], path: Path) -> None:
    """Draw the warm passes."""
    warm = [r for r in results if not r.cold]
    passes = [r for r in warm if r.name != READ_ONLY]
    per_byte = {id(r): operations(r) * r.n_rows / r.bytes_read for r in passes}
    reading = max(r.speed for r in warm if r.name == READ_ONLY)
    roof = max(
        per_byte[id(r)] * r.bytes_read / 1e9 / float(np.median(r.blas_seconds)) for r in passes
    )
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    intensity = np.geomspace(min(per_byte.values()) / 2, max(per_byte.values()) * 2, 200)
    axes.plot(intensity, np.minimum(intensity * reading, roof), color="black", label="roofline")
    for marker, name in zip(MARKERS, dict.fromkeys(r.name for r in passes), strict=False):
        own = [r for r in passes if r.name == name]
        x = [per_byte[id(r)] for r in own]
        axes.plot(x, [r.speed * i for r, i in zip(own, x, strict=True)], marker, label=name)
        for r, i in zip(own, x, strict=True):
            axes.annotate(f" {r.n_features}", (i, r.speed * i), fontsize=7)
    axes.set(
        xscale="log", yscale="log",
        xlabel="operations for each byte read", ylabel="gigaflops",
        title=f"Passes, d beside each point; {passes[0].machine}",
    )  # fmt: skip
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    draw(load(asked.results), asked.picture)


if __name__ == "__main__":
    main()
