"""One fit in a process of its own, so that its peak memory is its own.

python -m tests.benchmarks.peers.child <method> <folder> <k> <seed>
"""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.peers.methods import fit_daskmlr, fit_em, fit_kmeans
from tests.benchmarks.peers.mixtures import Mixture
from tests.benchmarks.peers.tables import Table

METHODS = {"daskmlr": fit_daskmlr, "em": fit_em, "k-means": fit_kmeans}


@dataclass(frozen=True)
class Run:
    """A mixture; processor seconds of the fit, MiB the process grew by in it, its warnings."""

    mixture: Mixture
    seconds: float
    growth: float
    warned: int


def resident_memory(which: str) -> float:
    """Resident size of this process, now (VmRSS) or at its largest (VmHWM), in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def run_child(method: str, folder: Path, k: int, seed: int) -> Run:
    """Fit the table saved in `folder`."""
    subprocess.run([sys.executable, "-m", __name__, method, folder, str(k), str(seed)], check=True)
    with np.load(folder / f"{method}.npz") as found:
        mixture = Mixture(found["coef"], found["noise_variance"], found["weights"])
        seconds, growth, warned = found["facts"].tolist()
    return Run(mixture, seconds, growth, int(warned))


def main(method: str, folder: str, k: str, seed: str) -> None:
    table = Table.load(Path(folder))
    resident, began = resident_memory("VmRSS"), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture = METHODS[method](table, int(k), int(seed))
    seconds = time.process_time() - began
    np.savez(
        Path(folder) / f"{method}.npz",
        coef=mixture.coef, noise_variance=mixture.noise_variance, weights=mixture.weights,
        facts=[seconds, resident_memory("VmHWM") - resident, len(caught)],
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
