"""How far an update with appended tasks lies from a full refit.

    python -m tests.benchmarks.update

4,000 tasks of 5 examples, 4 components on 6 covariates, are fitted; more are appended and absorbed
from the saved sums; the whole store is fitted again. Differences are the largest of a coefficient,
in standard errors of the refit (as if labels were known). *moved* is how far the new tasks move the
refit from the first fit.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daskmlr import MixedLinearRegression, append_tasks, create_tasks
from daskmlr.kernels.metrics import match_components
from daskmlr.synthetic import make_truth, simulate_arrays
from tests.benchmarks.accuracy import seeds_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

N_OLD, SIZE = 4000, 5
NOISES = (0.3, 0.5, 1.0)
N_NEW = (40, 400, 4000)


@dataclass(frozen=True)
class Difference:
    """Of an update and the first fit from the full refit, in standard errors."""

    update: float
    moved: float
    entropy: float
    likelihood: float


def compare(noise: float, n_new: int, seed: int, folder: Path, *, n_old: int = N_OLD) -> Difference:
    """Fit, append, update, refit."""
    truth = make_truth(n_components=4, n_features=6, noise=noise, random_state=seed)
    X, y, groups, _ = simulate_arrays(
        truth=truth, task_groups=[(n_old + n_new, SIZE)], random_state=seed, dtype="float64"
    )
    old = groups < n_old
    with create_tasks(folder / "tasks", feature_names=[f"x{i}" for i in range(6)]) as writer:
        writer.write(X[old], y[old], np.full(n_old, SIZE), np.arange(n_old))
    estimator = MixedLinearRegression(4, tol=1e-9, max_iter=300, random_state=seed)
    first = estimator.fit(folder / "tasks").model_
    with append_tasks(folder / "tasks") as writer:
        writer.write(X[~old], y[~old], np.full(n_new, SIZE), np.arange(n_old, n_old + n_new))
    updated = estimator.partial_fit(folder / "tasks").model_
    refit = estimator.fit(folder / "tasks").model_
    n_rows = (n_old + n_new) * SIZE

    def distance(coef: np.ndarray) -> float:
        place = match_components(refit.coef, coef)
        examples = refit.weights[place] * n_rows
        error = np.sqrt(refit.noise_variance[place] / examples)
        return float((np.abs(coef - refit.coef[place]) / error[:, None]).max())

    return Difference(
        distance(updated.coef),
        distance(first.coef),
        first.diagnostics["label_entropy"],
        (updated.log_likelihood - refit.log_likelihood) / n_rows,
    )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table: medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| noise | entropy of a label | new tasks | moved | update from refit | likelihood |")
    print("|---|---|---|---|---|---|")
    for noise in NOISES:
        for n_new in N_NEW:
            found = []
            for seed in asked.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    found.append(compare(noise, n_new, seed, Path(folder)))
            entropy, moved, update, likelihood = (
                float(np.median([getattr(one, name) for one in found]))
                for name in ("entropy", "moved", "update", "likelihood")
            )
            print(
                f"| {noise} | {entropy:.3f} | {n_new} | {moved:.2f} | {update:.3f} "
                f"| {likelihood:+.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
