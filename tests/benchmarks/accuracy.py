"""Labels and coefficients of a fit beside what the truth itself would give, on planted tasks.

    python -m tests.benchmarks.accuracy --cases ABCD --seeds 0-4

The yardsticks are two oracles, the labels that the true coefficients give and the coefficients
that the true labels give, and (with ``--yardstick``) the *truth-started fit*: the same refinement
passes begun at the true parameters, the best that the likelihood can do without the labels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from daskmlr import MixedLinearRegression
from daskmlr.fitting import FitOptions, RunRecord, find_subspace, refine
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import map_tasks, reduce_tasks
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.metrics import coefficient_error, label_accuracy, match_components
from daskmlr.synthetic import (
    load_truth,
    oracle_assign,
    oracle_coefficients,
    simulate,
    truth_sums_from_block,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.storage.tasks import TaskStore
    from daskmlr.synthetic import MixtureTruth, TaskGroup

MAX_ACCURACY_LOSS = 0.02
MAX_ERROR_RATIO = 1.6


@dataclass(frozen=True)
class Case:
    """A planted problem: light tasks, which are scored, then heavy ones, as (tasks, examples)."""

    n_components: int
    n_features: int
    noise: float
    light: TaskGroup
    heavy: TaskGroup


CASES = {
    "A": Case(16, 128, 0.5, (32768, 8), (256, 16)),
    "B": Case(16, 128, 0.5, (32768, 4), (256, 16)),
    "C": Case(16, 128, 1.0, (65536, 8), (256, 24)),
    "D": Case(32, 256, 0.5, (32768, 8), (1024, 24)),
    "E": Case(32, 256, 0.5, (65536, 4), (1024, 16)),
}


@dataclass(frozen=True)
class Score:
    """A fit held against the truth; accuracies of labels, largest errors of a component."""

    accuracy: float
    oracle_accuracy: float
    error: float
    oracle_error: float
    passes: int
    seconds: float
    converged: bool
    warned: int

    @property
    def accuracy_loss(self) -> float:
        """How far below the oracle's the accuracy is."""
        return self.oracle_accuracy - self.accuracy

    @property
    def error_ratio(self) -> float:
        """Error over the oracle's."""
        return self.error / self.oracle_error


def standardised(truth: MixtureTruth, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Coefficients on white covariates, intercept first, shape (k, d + 1).

    Differences of rows are then errors of prediction, whatever the covariates' mean and scale.
    """
    root = scipy.linalg.cholesky(truth.feature_covariance, lower=True)
    return np.column_stack([intercept + coef @ truth.feature_mean, coef @ root])


def score_fit(
    tasks: TaskStore, *, random_state: int, n_scored: int | None = None, **parameters: Any
) -> tuple[Score, list[str]]:
    """Fit a simulated store; return the score over its first `n_scored` tasks, and the warnings."""
    truth, labels = load_truth(tasks.path)
    n_components = truth.n_components
    estimator = MixedLinearRegression(n_components, random_state=random_state, **parameters)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = estimator.fit(tasks, client="threads").model_
    seconds = time.perf_counter() - start

    planted = standardised(truth, truth.coef, truth.intercept)
    fitted = standardised(truth, model.coef, model.intercept)
    match = match_components(fitted, planted)
    oracle = oracle_coefficients(
        reduce_tasks(
            tasks, partial(truth_sums_from_block, n_components=n_components), np.add,
            args=(labels,), client="threads",
        )
    )  # fmt: skip
    found = model.assign(tasks, client="threads")["label"]
    best = map_tasks(tasks, _oracle_labels, None, args=(truth,), client="threads")["label"]
    scored = slice(n_scored)
    score = Score(
        accuracy=label_accuracy(
            found[scored], labels[scored], n_components=n_components, match=match
        ),
        oracle_accuracy=label_accuracy(
            best[scored], labels[scored], n_components=n_components, match=range(n_components)
        ),
        error=coefficient_error(fitted, planted, match=match).max(),
        oracle_error=coefficient_error(
            standardised(truth, *oracle[:2]), planted, match=range(n_components)
        ).max(),
        passes=model.n_iter,
        seconds=seconds,
        converged=model.converged,
        warned=len(caught),
    )
    return score, [str(warning.message) for warning in caught]


def truth_started_error(tasks: TaskStore, *, random_state: int) -> float:
    """Largest error where the refinement passes end when they begin at the true parameters."""
    truth, _ = load_truth(tasks.path)
    options = FitOptions(truth.n_components, seed=random_state)
    with connect("threads") as runner:
        spectrum = find_subspace(
            tasks, options, runner, RunRecord(), np.random.default_rng(random_state)
        )
        start = Mixture(
            spectrum.frame.from_user(truth.coef, truth.intercept),
            truth.noise_variance,
            truth.weights,
        )
        ended = refine(tasks, options, spectrum, start, runner, RunRecord())[0]
    planted = standardised(truth, truth.coef, truth.intercept)
    fitted = standardised(truth, *spectrum.frame.to_user(ended.coef))
    return float(coefficient_error(fitted, planted).max())


def run_case(case: Case, seed: int, folder: Path, *, yardstick: bool) -> tuple[Score, list[str]]:
    """Simulate and score one case; the warnings come with the yardstick, if asked for."""
    tasks = simulate(
        folder / "tasks.daskmlr",
        n_components=case.n_components,
        n_features=case.n_features,
        noise=case.noise,
        task_groups=[case.light, case.heavy],
        random_state=seed,
    )
    score, notes = score_fit(tasks, random_state=seed, n_scored=case.light[0])
    if yardstick:
        from_truth = truth_started_error(tasks, random_state=seed)
        notes = [f"truth-started fit: {from_truth / score.oracle_error:.2f} x", *notes]
    return score, notes


def _oracle_labels(block: TaskBlock, truth: MixtureTruth) -> dict[str, np.ndarray]:
    return {"label": oracle_assign(block, truth)}


FIGURES = {
    "accuracy": ".4f",
    "oracle_accuracy": ".4f",
    "accuracy_loss": "+.4f",
    "error": ".4f",
    "oracle_error": ".4f",
    "error_ratio": ".2f",
    "passes": ".0f",
    "seconds": ".1f",
    "warned": ".0f",
}
HEADER = (
    "| case | seed | accuracy | oracle | loss | error | oracle | ratio "
    "| passes | seconds | warnings | converged |\n" + "|---" * 12 + "|"
)


def row(case: str, seed: int | str, scores: Sequence[Score]) -> str:
    """One line of the table: every figure's median, and the share of the fits that converged."""
    middle = {
        name: float(np.median([getattr(score, name) for score in scores])) for name in FIGURES
    }
    cells = [format(value, FIGURES[name]) for name, value in middle.items()]
    converged = sum(score.converged for score in scores)
    return f"| {case} | {seed} | {' | '.join(cells)} | {converged} of {len(scores)} |"


def verdict(case: str, scores: Sequence[Score]) -> str:
    """Say whether the medians of loss and ratio are within the targets."""
    loss = float(np.median([s.accuracy_loss for s in scores]))
    ratio = float(np.median([s.error_ratio for s in scores]))
    met = loss <= MAX_ACCURACY_LOSS and ratio <= MAX_ERROR_RATIO
    return (
        f"{case}: median loss {loss:+.4f} (at most {MAX_ACCURACY_LOSS}), median ratio {ratio:.2f} "
        f"(at most {MAX_ERROR_RATIO}): {'met' if met else 'MISSED'}"
    )


def seeds_argument(text: str) -> range:
    """``0-4`` or ``3``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="ABCD")
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    parser.add_argument("--yardstick", action="store_true", help="add the truth-started fit")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print(HEADER, flush=True)
    verdicts, remarks = [], []
    for name in asked.cases:
        scores = []
        for seed in asked.seeds:
            with tempfile.TemporaryDirectory() as folder:
                score, notes = run_case(CASES[name], seed, Path(folder), yardstick=asked.yardstick)
            scores.append(score)
            remarks += [f"{name}, seed {seed}: {note}" for note in notes]
            print(row(name, seed, [score]), flush=True)
        print(row(name, "median", scores), flush=True)
        verdicts.append(verdict(name, scores))
    print("", *verdicts, *remarks, sep="\n")


if __name__ == "__main__":
    main()
