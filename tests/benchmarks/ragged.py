"""Whether an awkward table is fitted as well as a clean one.

    python -m tests.benchmarks.ragged

All tables have 1 to 500 examples a task. The *clean* one has white covariates of mean 0 and no
intercept. The *awkward* one adds an intercept, covariates of mean 100 whose neighbours are
correlated by 0.9, and string ids. A mean of 100 moves the components' targets 100 apart, so that a
single target gives the label away: the *crossing* table is the awkward one with its components
made to meet near the mean of the covariates, where only slopes and small intercepts tell them
apart. Each is held against its own oracles, with errors on white covariates.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from daskmlr import simulate
from daskmlr.synthetic import make_truth
from tests.benchmarks.accuracy import HEADER, row, score_fit, seeds_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.synthetic import MixtureTruth
    from tests.benchmarks.accuracy import Score

N_TASKS, SIZES = 20_000, (1, 500)
PROBLEM = {"n_components": 8, "n_features": 32, "noise": 0.5}
AWKWARD = {"intercept_scale": 1.0, "mean": 100.0, "correlation": 0.9}
TABLES = ("clean", "awkward", "crossing")
DTYPES = ("float32", "float64")


def table_truth(table: str, seed: int) -> MixtureTruth:
    """Plant one table's mixture; the slopes of a seed are the same in all tables."""
    if table == "clean":
        return make_truth(random_state=seed, **PROBLEM)
    truth = make_truth(random_state=seed, **PROBLEM, **AWKWARD)
    if table == "awkward":
        return truth
    return replace(truth, intercept=truth.intercept - truth.coef @ truth.feature_mean)


def run_table(
    table: str, dtype: str, seed: int, folder: Path, *, n_tasks: int = N_TASKS
) -> tuple[Score, list[str]]:
    """Simulate and score one table over all its tasks; the score and the warnings."""
    tasks = simulate(
        folder / f"{table}.daskmlr",
        truth=table_truth(table, seed),
        task_groups=[(n_tasks, SIZES)],
        random_state=seed,
        dtype=dtype,
        ids="int" if table == "clean" else "str",
    )
    return score_fit(tasks, random_state=seed)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    parser.add_argument("--tasks", type=int, default=N_TASKS)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print(HEADER, flush=True)
    remarks = []
    for dtype in DTYPES:
        for table in TABLES:
            scores = []
            for seed in asked.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    score, notes = run_table(table, dtype, seed, Path(folder), n_tasks=asked.tasks)
                scores.append(score)
                remarks += [f"{table}, {dtype}, seed {seed}: {note}" for note in notes]
                print(row(f"{table}, {dtype}", seed, [score]), flush=True)
            print(row(f"{table}, {dtype}", "median", scores), flush=True)
    print("", *remarks, sep="\n")


if __name__ == "__main__":
    main()
