"""Labels and coefficients of a fit beside what the truth itself would give, on planted tasks.

    python -m tests.benchmarks.accuracy --seeds 0-9

The yardstick is the *truth-started fit*: the same refinement passes begun at the true parameters,
the best that the likelihood can do without the labels. Beside it stand two oracles, the labels
that the true coefficients give and the coefficients that the true labels give.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from daskmlr import MixedLinearRegression
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import map_tasks, reduce_tasks
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.metrics import coefficient_error, label_accuracy, match_components
from daskmlr.record import RunRecord
from daskmlr.spectral import find_subspace
from daskmlr.stages import FitOptions, refine
from daskmlr.synthetic import (
    load_truth,
    make_truth,
    oracle_assign,
    oracle_coefficients,
    simulate,
    truth_sums_from_block,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daskmlr.kernels.blocks import Frame, TaskBlock
    from daskmlr.storage.tasks import TaskStore
    from daskmlr.synthetic import MixtureTruth, TaskGroup

# Against the truth-started fit.
LIKELIHOOD_TOLERANCE = 1e-5
MAX_ERROR_RATIO = 1.05
MAX_ACCURACY_LOSS = 0.002
REACHED_IN_TEN = 9


@dataclass(frozen=True)
class Case:
    """A planted problem: light tasks, which are scored, then heavy ones, as (tasks, examples)."""

    n_components: int
    n_features: int
    noise: float | tuple[float, ...]
    light: TaskGroup
    heavy: TaskGroup | None
    rank: int | None = None
    noise_dof: float | None = None
    reached_in_ten: int = REACHED_IN_TEN
    truth: dict[str, Any] = field(default_factory=dict)

    def draw_truth(self, seed: int) -> MixtureTruth:
        """Plant the mixture; with a rank, all coefficients in the span of so many."""
        truth = make_truth(
            n_components=self.n_components,
            n_features=self.n_features,
            noise=self.noise,
            random_state=seed,
            **self.truth,
        )
        if self.rank is None:
            return truth
        rng = np.random.default_rng([seed, self.rank])
        basis = np.linalg.qr(rng.standard_normal((self.n_features, self.rank)))[0]
        inside = rng.standard_normal((self.n_components, self.rank)) / np.sqrt(self.rank)
        return replace(truth, coef=inside @ basis.T)


PLAIN = Case(8, 32, 0.5, (16384, 6), (512, 16))
WEIGHTS = 10.0 ** -np.linspace(0, 1, 8)
CASES = {
    "A": Case(16, 128, 0.5, (32768, 8), (256, 16)),
    "B": Case(16, 128, 0.5, (32768, 4), (256, 16)),
    "C": Case(16, 128, 1.0, (65536, 8), (256, 24)),
    "D": Case(32, 256, 0.5, (32768, 8), (1024, 24)),
    "E": Case(32, 256, 0.5, (65536, 4), (1024, 16), reached_in_ten=7),
    "plain": PLAIN,
    "weights": replace(PLAIN, truth={"weights": WEIGHTS / WEIGHTS.sum()}),
    "noise": replace(PLAIN, noise=tuple(0.25 * 4.0 ** np.linspace(0, 1, 8))),
    "correlated": replace(PLAIN, truth={"correlation": 0.82}),
    "intercepts": replace(PLAIN, truth={"intercept_scale": 1.0}),
    "long tail": replace(PLAIN, light=(16384, (2, 200)), heavy=None),
    "t noise": replace(PLAIN, noise_dof=4.0),
    "low rank": Case(12, 32, 0.3, (16384, 8), (512, 16), rank=6),
    "k > d": Case(12, 4, 0.3, (8192, 12), (512, 16)),
    "light only": replace(PLAIN, heavy=None),
}


@dataclass(frozen=True)
class Score:
    """A fit held against the truth; accuracies of labels, largest errors of a component.

    Likelihoods are per example, errors on white covariates.
    """

    log_likelihood: float
    accuracy: float
    error: float
    truth_started: TruthStarted
    oracle_accuracy: float
    oracle_error: float
    passes: int
    seconds: float
    converged: bool
    warned: int

    @property
    def likelihood_gain(self) -> float:
        """How far above the truth-started fit's the likelihood is, in millionths."""
        return 1e6 * (self.log_likelihood - self.truth_started.log_likelihood)

    @property
    def reached(self) -> bool:
        """Whether the likelihood is the truth-started fit's, or higher."""
        return self.likelihood_gain >= -1e6 * LIKELIHOOD_TOLERANCE

    @property
    def accuracy_loss(self) -> float:
        """How far below the truth-started fit's the accuracy is."""
        return self.truth_started.accuracy - self.accuracy

    @property
    def error_ratio(self) -> float:
        """Error over the truth-started fit's."""
        return self.error / self.truth_started.error

    @property
    def oracle_ratio(self) -> float:
        """Error over the oracle's."""
        return self.error / self.oracle_error


@dataclass(frozen=True)
class TruthStarted:
    """Where the refinement passes end when they begin at the true parameters."""

    log_likelihood: float
    accuracy: float
    error: float


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
        log_likelihood=model.log_likelihood / tasks.n_rows,
        accuracy=label_accuracy(
            found[scored], labels[scored], n_components=n_components, match=match
        ),
        error=coefficient_error(fitted, planted, match=match).max(),
        truth_started=truth_started(tasks, scored, random_state=random_state),
        oracle_accuracy=label_accuracy(
            best[scored], labels[scored], n_components=n_components, match=range(n_components)
        ),
        oracle_error=coefficient_error(
            standardised(truth, *oracle[:2]), planted, match=range(n_components)
        ).max(),
        passes=model.n_iter,
        seconds=seconds,
        converged=model.converged,
        warned=len(caught),
    )
    return score, [str(warning.message) for warning in caught]


def truth_started(tasks: TaskStore, scored: slice, *, random_state: int) -> TruthStarted:
    """Refine from the true parameters to convergence."""
    truth, labels = load_truth(tasks.path)
    options = FitOptions(truth.n_components, seed=random_state)
    with connect("threads") as runner:
        spectrum = find_subspace(
            tasks, options, runner, RunRecord(), np.random.default_rng(random_state)
        )
        frame = spectrum.frame
        start = Mixture(
            frame.from_user(truth.coef, truth.intercept), truth.noise_variance, truth.weights
        )
        ended, sums, _ = refine(tasks, options, spectrum, start, runner, RunRecord())
    reached = replace(truth, **_user_units(ended, frame))
    found = map_tasks(tasks, _oracle_labels, None, args=(reached,), client="threads")["label"]
    planted = standardised(truth, truth.coef, truth.intercept)
    fitted = standardised(truth, reached.coef, reached.intercept)
    match = range(truth.n_components)
    return TruthStarted(
        sums.log_likelihood / tasks.n_rows,
        label_accuracy(found[scored], labels[scored], n_components=truth.n_components, match=match),
        coefficient_error(fitted, planted, match=match).max(),
    )


def _user_units(mixture: Mixture, frame: Frame) -> dict[str, np.ndarray]:
    coef, intercept = frame.to_user(mixture.coef)
    return {
        "coef": coef,
        "intercept": intercept,
        "noise_variance": mixture.noise_variance,
        "weights": mixture.weights,
    }


def run_case(case: Case, seed: int, folder: Path) -> tuple[Score, list[str]]:
    """Simulate and score one case; the score and the warnings."""
    tasks = simulate(
        folder / "tasks.daskmlr",
        truth=case.draw_truth(seed),
        task_groups=[case.light] if case.heavy is None else [case.light, case.heavy],
        noise_dof=case.noise_dof,
        random_state=seed,
    )
    return score_fit(tasks, random_state=seed, n_scored=case.light[0])


def _oracle_labels(block: TaskBlock, truth: MixtureTruth) -> dict[str, np.ndarray]:
    return {"label": oracle_assign(block, truth)}


FIGURES = {
    "likelihood_gain": "+.1f",
    "accuracy": ".4f",
    "accuracy_loss": "+.4f",
    "oracle_accuracy": ".4f",
    "error": ".4f",
    "error_ratio": ".3f",
    "oracle_ratio": ".2f",
    "passes": ".0f",
    "seconds": ".1f",
    "warned": ".0f",
}
HEADER = (
    "| case | seed | likelihood | accuracy | loss | oracle's | error | ratio | to oracle's "
    "| passes | seconds | warnings | converged |\n" + "|---" * 13 + "|"
)


def row(case: str, seed: int | str, scores: Sequence[Score]) -> str:
    """One line of the table: every figure's median, and the share of the fits that converged."""
    middle = {
        name: float(np.median([getattr(score, name) for score in scores])) for name in FIGURES
    }
    cells = [format(value, FIGURES[name]) for name, value in middle.items()]
    converged = sum(score.converged for score in scores)
    return f"| {case} | {seed} | {' | '.join(cells)} | {converged} of {len(scores)} |"


def verdict(case: str, scores: Sequence[Score], reached_in_ten: int = REACHED_IN_TEN) -> str:
    """Say whether the fits are as good as the truth-started ones."""
    reached = sum(score.reached for score in scores)
    loss = float(np.median([s.accuracy_loss for s in scores]))
    ratio = float(np.median([s.error_ratio for s in scores]))
    met = (
        10 * reached >= reached_in_ten * len(scores)
        and loss <= MAX_ACCURACY_LOSS
        and ratio <= MAX_ERROR_RATIO
    )
    return (
        f"{case}: likelihood reached in {reached} of {len(scores)} "
        f"(at least {reached_in_ten} of 10), median ratio {ratio:.3f} (at most {MAX_ERROR_RATIO}), "
        f"median loss {loss:+.4f} (at most {MAX_ACCURACY_LOSS}): {'met' if met else 'MISSED'}"
    )


def seeds_argument(text: str) -> range:
    """``0-4`` or ``3``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated; all by default")
    parser.add_argument("--seeds", type=seeds_argument, default=range(10))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print(HEADER, flush=True)
    verdicts, remarks = [], []
    for name in asked.cases.split(","):
        scores = []
        for seed in asked.seeds:
            with tempfile.TemporaryDirectory() as folder:
                score, notes = run_case(CASES[name], seed, Path(folder))
            scores.append(score)
            remarks += [f"{name}, seed {seed}: {note}" for note in notes]
            print(row(name, seed, [score]), flush=True)
        print(row(name, "median", scores), flush=True)
        verdicts.append(verdict(name, scores, CASES[name].reached_in_ten))
    print("", *verdicts, *remarks, sep="\n")


if __name__ == "__main__":
    main()
