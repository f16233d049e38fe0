"""Held-out scores on four real tables, beside pooled and per-task regressions and flexmix.

    python -m tests.benchmarks.real_tables --seeds 0-4

Fit on 80 % of the tasks; adapt on half of each other task's rows; score on the rest. The number of
components is the one of 1 to 8 with the least BIC on the training tasks. flexmix is too slow for
the larger of them: it is compared at four components, with our fit of four beside it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lstsq

from daskmlr import MixedLinearRegression
from tests.benchmarks.accuracy import seeds_argument
from tests.benchmarks.peers.methods import fit_flexmix
from tests.benchmarks.peers.mixtures import Mixture, bic, log_likelihood, posterior
from tests.benchmarks.peers.tables import REAL, Table, real

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr import Model

COMPONENTS = range(1, 9)
BESIDE_FLEXMIX = 4
PENALTIES = 10.0 ** np.arange(-3, 5)


@dataclass(frozen=True)
class Split:
    """Tasks to fit on; of the others, rows to adapt to and rows to score."""

    train: Table
    support: Table
    query: Table


def halves(table: Table, rng: np.random.Generator) -> np.ndarray:
    """Half of the rows of every task, rounded up, at random."""
    order = np.lexsort((rng.random(len(table.y)), table.groups))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - table.starts[table.groups]
    sizes = np.bincount(table.groups)
    chosen: np.ndarray = rank < (sizes[table.groups] + 1) // 2
    return chosen


def split_tasks(table: Table, rng: np.random.Generator) -> Split:
    """Four fifths of the tasks to fit on; of the rest, those of two rows or more are scored."""
    held_out = np.zeros(table.n_tasks, dtype=bool)
    held_out[rng.choice(table.n_tasks, table.n_tasks // 5, replace=False)] = True
    sizes = np.bincount(table.groups)
    others = table.where((held_out & (sizes > 1))[table.groups])
    first = halves(others, rng)
    return Split(table.where(~held_out[table.groups]), others.where(first), others.where(~first))


class Ridge:
    """Every task's own ridge regression, shrunk to common coefficients.

    The penalties, one of the intercept and one of the slopes (per spread of a feature), are those
    by which half of the rows of training tasks foretell the other half best.
    """

    def __init__(self, train: Table, centre: np.ndarray, rng: np.random.Generator) -> None:
        self.centre = centre
        self.scale = train.X.std(axis=0)
        several = train.where((np.bincount(train.groups) > 1)[train.groups])
        first = halves(several, rng)
        parts = several.where(first), several.where(~first)
        self.penalty = min(
            (np.append(a, b * self.scale**2) for a, b in itertools.product(PENALTIES, PENALTIES)),
            key=lambda penalty: rmse(parts[1], self._predict(*parts, penalty)),
        )

    def predict(self, support: Table, query: Table) -> np.ndarray:
        return self._predict(support, query, self.penalty)

    def _predict(self, support: Table, query: Table, penalty: np.ndarray) -> np.ndarray:
        A, left = support.design, support.y - support.design @ self.centre
        outer = A[:, :, None] * A[:, None, :]
        gram = np.add.reduceat(outer, support.starts) + np.diag(penalty)
        cross = np.add.reduceat(A * left[:, None], support.starts)
        step = np.linalg.solve(gram, cross[:, :, None])[:, :, 0]
        found: np.ndarray = (query.design * (self.centre + step[query.groups])).sum(axis=1)
        return found


def rmse(table: Table, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((table.y - predicted) ** 2)))


def predict_mixture(mixture: Mixture, split: Split) -> np.ndarray:
    """Posterior mean, the same for every program's parameters."""
    shares = posterior(split.support, mixture)[split.query.groups]
    mean: np.ndarray = (shares * (split.query.design @ mixture.coef.T)).sum(axis=1)
    return mean


def fit_models(train: Table, seed: int) -> dict[int, Model]:
    """One model for each number of components."""
    models = {}
    for k in COMPONENTS:
        fitted = MixedLinearRegression(k, random_state=seed)
        models[k] = fitted.fit(train.X, train.y, groups=train.groups).model_
    return models


def as_mixture(model: Model) -> Mixture:
    coef = np.column_stack([model.intercept, model.coef])
    return Mixture(coef, model.noise_variance, model.weights)


def score_split(table: Table, seed: int, limit: float) -> dict[str, float]:
    """Root mean squared errors, and what was chosen."""
    rng = np.random.default_rng(seed)
    split = split_tasks(table, rng)
    train, support, query = split.train, split.support, split.query
    pooled = lstsq(train.design, train.y)[0]
    mean = np.append(train.y.mean(), np.zeros(train.X.shape[1]))
    found = {
        "pooled": rmse(query, query.design @ pooled),
        "own ridge": rmse(query, Ridge(train, mean, rng).predict(support, query)),
        "shrunk to pooled": rmse(query, Ridge(train, pooled, rng).predict(support, query)),
    }
    began = time.process_time()
    models = fit_models(train, seed)
    found["seconds, all k"] = time.process_time() - began
    chosen = min(models.values(), key=lambda model: bic(train, as_mixture(model)))
    for name, model, method in (
        ("daskmlr, bayes", chosen, "bayes"),
        ("daskmlr, map", chosen, "map"),
        ("daskmlr, k=4", models[BESIDE_FLEXMIX], "bayes"),
    ):
        predicted = model.predict(
            query.X, support=(support.X, support.y, support.groups), groups=query.groups,
            method=method,
        )  # fmt: skip
        found[name] = rmse(query, predicted)
    found["k"] = chosen.n_components
    found["least noise"] = float(np.sqrt(chosen.noise_variance.min()))
    found["likelihood"] = log_likelihood(train, as_mixture(models[BESIDE_FLEXMIX]))
    if limit and shutil.which("Rscript"):
        found |= score_flexmix(split, seed, limit)
    return found


def score_flexmix(split: Split, seed: int, limit: float) -> dict[str, float]:
    """The same by flexmix, as far as it gets in `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        split.train.save(Path(folder))
        run = fit_flexmix(Path(folder), BESIDE_FLEXMIX, seed, limit=limit)
    facts = {"flexmix starts": float(run.finished - run.failed), "flexmix seconds": run.seconds}
    if run.mixture is None:
        return facts
    facts["flexmix, k=4"] = rmse(split.query, predict_mixture(run.mixture, split))
    facts["flexmix likelihood"] = log_likelihood(split.train, run.mixture)
    return facts


SCORES = (
    "pooled", "own ridge", "shrunk to pooled", "flexmix, k=4", "daskmlr, k=4", "daskmlr, bayes",
    "daskmlr, map",
)  # fmt: skip


def score_row(name: str, scores: list[dict[str, float]]) -> str:
    """Mean and standard deviation over the splits."""
    cells = []
    for column in SCORES:
        values = [score[column] for score in scores if column in score]
        spread = f" ± {np.std(values):.4f}" if len(values) > 1 else ""
        part = f" ({len(values)} of {len(scores)})" if len(values) < len(scores) else ""
        cells.append(f"{np.mean(values):.4f}{spread}{part}" if values else "not finished")
    return f"| {name} | {' | '.join(cells)} |"


def fit_row(name: str, seed: int, score: dict[str, float]) -> str:
    gap = score["likelihood"] - score.get("flexmix likelihood", np.nan)
    return (
        f"| {name} | {seed} | {score['k']:.0f} | {score['least noise']:.4f} | "
        f"{score['seconds, all k']:.1f} | {score['likelihood']:.1f} | {gap:+.1f} | "
        f"{score.get('flexmix starts', 0):.0f} | {score.get('flexmix seconds', np.nan):.0f} |"
    )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=REAL, default=list(REAL))
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    parser.add_argument("--limit", type=float, default=120, help="processor seconds of flexmix")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    if not shutil.which("Rscript"):
        print("flexmix is left out: there is no Rscript (Debian: r-cran-flexmix)")
    fits, scored, notes = [], defaultdict(list), defaultdict(int)
    for name in asked.tables:
        table = real(name)
        print(f"{name}: {table.n_tasks} tasks, {len(table.y)} rows, {REAL[name].formula}")
        for seed in asked.seeds:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                score = score_split(table, seed, asked.limit)
            for warning in caught:
                notes[name, str(warning.message)[:60]] += 1
            scored[name].append(score)
            fits.append(fit_row(name, seed, score))
            print(fits[-1], flush=True)
    print("\n| table |", " | ".join(SCORES), "|\n" + "|---" * (len(SCORES) + 1) + "|")
    print(*(score_row(name, scores) for name, scores in scored.items()), sep="\n")
    print(
        "\n| table | seed | k by BIC | its least noise | seconds of k = 1 to 8 "
        "| likelihood, k=4 | less flexmix's | flexmix's starts | its seconds |\n" + "|---" * 9 + "|"
    )
    print(*fits, sep="\n")
    for (name, text), count in notes.items():
        print(f"{name}, {count} fits warned: {text}")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
