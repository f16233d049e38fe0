"""What the search for first components is worth, beside restarts alone.

    python -m tests.benchmarks.starts --case E --seeds 0-2

The largest tasks of a case of `tests.benchmarks.accuracy`, projected onto the subspace: their
log-likelihood for each example, and how many components are wrong (farther from their truth than
half its distance to the next one), after restarts of expectation-maximisation from k-means++
seeds, after the same with components replaced, and after one begun at the truth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from scipy.spatial.distance import cdist

from daskmlr import simulate
from daskmlr.graph.execute import connect
from daskmlr.kernels import clustering
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.metrics import coefficient_error
from daskmlr.kernels.projected import run_em
from daskmlr.record import RunRecord
from daskmlr.spectral import find_subspace
from daskmlr.stages import FitOptions, first_components
from daskmlr.synthetic import load_truth
from tests.benchmarks.accuracy import CASES, seeds_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.kernels.projected import ProjectedTasks


@dataclass(frozen=True)
class Problem:
    """The largest tasks in the subspace, and the truth there."""

    tasks: ProjectedTasks
    prior_variance: np.ndarray
    truth: Mixture

    def wrong(self, mixture: Mixture) -> int:
        """Count truths that no component is near."""
        apart = cdist(self.truth.coef, self.truth.coef)
        np.fill_diagonal(apart, np.inf)
        return int(np.sum(coefficient_error(mixture.coef, self.truth.coef) > apart.min(axis=1) / 2))


def set_up(case: str, seed: int, folder: Path) -> Problem:
    """Simulate a case and take what its search for first components is given."""
    planted = CASES[case]
    tasks = simulate(
        folder / "tasks",
        truth=planted.draw_truth(seed),
        task_groups=[planted.light] if planted.heavy is None else [planted.light, planted.heavy],
        random_state=seed,
    )
    truth, _ = load_truth(tasks.path)
    options = FitOptions(planted.n_components, seed=seed)
    given: dict[str, Any] = {}

    def take(projected: ProjectedTasks, k: int, prior_variance: np.ndarray, **_: Any) -> Any:
        given.update(tasks=projected, prior_variance=prior_variance)
        zeros = Mixture(np.zeros((k, len(prior_variance))), np.ones(k), np.full(k, 1 / k))
        return clustering.Clustering(zeros, np.array([]), agreed=True)

    with connect("threads") as runner, mock.patch.object(clustering, "cluster_by_em", take):
        rng = np.random.default_rng(seed)
        spectrum = find_subspace(tasks, options, runner, RunRecord(), rng)
        first_components(tasks, options, spectrum, runner, RunRecord(), rng)
    coef = spectrum.standardiser.coef_from_frame(
        spectrum.frame.from_user(truth.coef, truth.intercept)
    )
    inside = coef @ spectrum.directions
    outside = np.mean(np.sum(coef**2, axis=1) - np.sum(inside**2, axis=1))
    mixture = Mixture(inside, truth.noise_variance + outside, truth.weights)
    return Problem(given["tasks"], given["prior_variance"], mixture)


def search(problem: Problem, seed: int, n_restarts: int, *, replace_components: bool) -> str:
    """Search with exactly so many restarts; what to print of it."""
    failures = clustering.MAX_FAILURES if replace_components else 0
    start = time.perf_counter()
    with (
        mock.patch.object(clustering, "MIN_RESTARTS", n_restarts),
        mock.patch.object(clustering, "MAX_FAILURES", failures),
    ):
        found = clustering.cluster_by_em(
            problem.tasks,
            problem.truth.n_components,
            problem.prior_variance,
            n_restarts=n_restarts,
            rng=np.random.default_rng(seed),
        )
    seconds = time.perf_counter() - start
    each = found.log_likelihoods / problem.tasks.size.sum()
    return f"{np.median(each):.4f} | {each[0]:.4f} | {problem.wrong(found.mixture)} | {seconds:.0f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="E", choices=CASES)
    parser.add_argument("--seeds", type=seeds_argument, default=range(3))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| seed | search | median restart | best | its components wrong | seconds |")
    print("|---|---|---|---|---|---|")
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as folder:
            problem = set_up(asked.case, seed, Path(folder))
        for n, replacing in ((24, False), (4, True)):
            what = "with replacement" if replacing else "alone"
            row = search(problem, seed, n, replace_components=replacing)
            print(f"| {seed} | {n} restarts {what} | {row} |", flush=True)
        ended, value = run_em(problem.tasks, problem.truth, max_iter=300, tol=1e-6)
        each = value / problem.tasks.size.sum()
        print(f"| {seed} | from the truth | | {each:.4f} | {problem.wrong(ended)} | |", flush=True)


if __name__ == "__main__":
    main()
