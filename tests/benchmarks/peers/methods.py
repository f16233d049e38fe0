"""The methods: a table and a number of components in, a mixture out."""

from __future__ import annotations

import resource
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from daskmlr import MixedLinearRegression
from tests.benchmarks.peers.mixtures import Mixture

if TYPE_CHECKING:
    from tests.benchmarks.peers.tables import Table

STARTS = 10
SCRIPT = Path(__file__).with_name("flexmix.R")


def fit_daskmlr(table: Table, k: int, seed: int) -> Mixture:
    """As a user has it: arrays in, every parameter at its default."""
    model = MixedLinearRegression(k, random_state=seed)
    model.fit(table.X, table.y, groups=table.groups)
    coef = np.column_stack([model.intercept_, model.coef_])
    return Mixture(coef, model.noise_variance_, model.weights_)


@dataclass(frozen=True)
class TaskSums:
    """``sum_j [a, y] [a, y]^T`` of every task, on standardised covariates and target."""

    gram: np.ndarray
    size: np.ndarray
    to_white: np.ndarray

    @classmethod
    def of(cls, table: Table) -> TaskSums:
        rows = np.column_stack([table.design, table.y])
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        mean[0], scale[0] = 0, 1
        to_white = np.diag(1 / scale)
        to_white[0] -= mean / scale
        to_white[0, 0] = 1
        rows = rows @ to_white
        ends = np.append(table.starts[1:], len(rows))
        gram = np.array([rows[a:b].T @ rows[a:b] for a, b in zip(table.starts, ends, strict=True)])
        return cls(gram, ends - table.starts, to_white)

    def rss(self, coef: np.ndarray) -> np.ndarray:
        """Residual sum of squares of every task and component."""
        step = np.column_stack([-coef, np.ones(len(coef))])
        outer = (step[:, :, None] * step[:, None, :]).reshape(len(step), -1)
        found: np.ndarray = self.gram.reshape(len(self.gram), -1) @ outer.T
        return np.maximum(found, 0)

    def maximise(self, shares: np.ndarray) -> Mixture:
        """Weighted least squares of every component."""
        gram = np.tensordot(shares, self.gram, (0, 0))
        coef = np.array([np.linalg.lstsq(g[:-1, :-1], g[:-1, -1], rcond=1e-10)[0] for g in gram])
        rows = np.maximum(shares.T @ self.size, 1e-12)
        noise = np.maximum((shares * self.rss(coef)).sum(axis=0) / rows, 1e-8)
        return Mixture(coef, noise, shares.mean(axis=0))

    def expect(self, mixture: Mixture) -> tuple[np.ndarray, float]:
        """Posterior of the labels, and the log-likelihood."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(mixture.weights)
        values = (
            log_weights
            - 0.5 * self.rss(mixture.coef) / mixture.noise_variance
            - 0.5 * self.size[:, None] * np.log(2 * np.pi * mixture.noise_variance)
        )
        total = logsumexp(values, axis=1)
        return np.exp(values - total[:, None]), float(total.sum())

    def climb(self, shares: np.ndarray, *, max_iter: int = 1000) -> tuple[Mixture, float]:
        """Expectation-maximisation until an example gains under 1e-8."""
        before = -np.inf
        for _ in range(max_iter):
            mixture = self.maximise(shares)
            shares, value = self.expect(mixture)
            if value - before < 1e-8 * self.size.sum():
                break
            before = value
        return mixture, value

    def to_user(self, mixture: Mixture) -> Mixture:
        """From standardised units to the table's."""
        step = np.column_stack([-mixture.coef, np.ones(len(mixture.coef))]) @ self.to_white.T
        scale = step[:, -1:]
        return Mixture(
            -step[:, :-1] / scale, mixture.noise_variance / scale[:, 0] ** 2, mixture.weights
        )


def fit_em(table: Table, k: int, seed: int) -> Mixture:
    """Expectation-maximisation from random labels, the likeliest of several starts."""
    sums, rng = TaskSums.of(table), np.random.default_rng(seed)
    starts = (np.eye(k)[rng.integers(k, size=table.n_tasks)] for _ in range(STARTS))
    best = max((sums.climb(shares) for shares in starts), key=lambda found: found[1])
    return sums.to_user(best[0])


def fit_kmeans(table: Table, k: int, seed: int) -> Mixture:
    """k-means on every task's own ridge regression, then least squares for each cluster."""
    sums = TaskSums.of(table)
    penalty = np.eye(sums.gram.shape[1] - 1)
    own = np.linalg.solve(sums.gram[:, :-1, :-1] + penalty, sums.gram[:, :-1, -1:])[:, :, 0]
    labels = KMeans(k, n_init=STARTS, random_state=seed).fit_predict(own)
    return sums.to_user(sums.maximise(np.eye(k)[labels]))


def polish(table: Table, shares: np.ndarray) -> Mixture:
    """Where expectation-maximisation ends from given labels or posteriors."""
    sums = TaskSums.of(table)
    return sums.to_user(sums.climb(shares)[0])


def fit_oracle(table: Table, labels: np.ndarray, k: int) -> Mixture:
    """Least squares for each true component."""
    sums = TaskSums.of(table)
    return sums.to_user(sums.maximise(np.eye(k)[labels]))


@dataclass(frozen=True)
class FlexmixRun:
    """Its likeliest start; starts that ended, that failed; processor seconds; MiB it grew by."""

    mixture: Mixture | None
    finished: int
    failed: int
    seconds: float
    growth: float


def fit_flexmix(
    folder: Path, k: int, seed: int, *, limit: float, starts: int = STARTS
) -> FlexmixRun:
    """Fit the table saved in `folder`; what has ended after `limit` processor seconds counts."""
    command = ["Rscript", "--vanilla", SCRIPT, folder, str(k), str(starts), str(seed)]
    for name in ("flexmix.csv", "starts.txt", "growth.txt"):
        (folder / name).unlink(missing_ok=True)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))

    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    if run.returncode not in (0, -signal.SIGXCPU, -signal.SIGKILL):
        raise RuntimeError(f"flexmix stopped: {run.stderr}")
    ended, best, growth = (folder / name for name in ("starts.txt", "flexmix.csv", "growth.txt"))
    lines = [line.split() for line in ended.read_text().splitlines()] if ended.exists() else []
    mixture = None
    if best.exists():
        rows = np.loadtxt(best, delimiter=",", ndmin=2)
        mixture = Mixture(rows[:, :-2], rows[:, -2] ** 2, rows[:, -1])
    return FlexmixRun(
        mixture,
        finished=len(lines),
        failed=sum(line[2] == "NA" for line in lines),
        seconds=float(lines[-1][1]) if len(lines) == starts else limit,
        growth=float(growth.read_text()) if growth.exists() else np.nan,
    )
