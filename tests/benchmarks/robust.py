"""Odd tasks, corrupted tasks, corrupted samples: how false alarms and harm are held.

    python -m tests.benchmarks.robust             # all three tables
    python -m tests.benchmarks.robust --tables c

(a) p-values of tasks: false alarms by task size, and the list of odd tasks among planted ones.
(b) 5 % of the tasks replaced: largest coefficient error over that of the fit to the clean tasks.
(c) The robust-PCA experiment of Kong, Somani, Kakade, Oh (2020): variance captured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr import MixedLinearRegression, odd_tasks
from daskmlr.kernels.metrics import coefficient_error
from daskmlr.kernels.robust import robust_subspace
from daskmlr.storage.arrays import write_arrays
from daskmlr.synthetic import make_truth, simulate_arrays
from tests.benchmarks.accuracy import standardised
from tests.kernels.drawing import corrupted_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daskmlr.synthetic import MixtureTruth, TaskGroup

CORRUPTED = 0.05
NOISE = 0.5
LEVELS = (0.001, 0.01, 0.05)


@dataclass(frozen=True)
class Case:
    """Orthonormal regressions of equal weight; light tasks, then heavy ones."""

    n_components: int
    n_features: int
    groups: tuple[TaskGroup, ...]


CASES = {
    "F": Case(4, 16, ((20000, 8), (1024, 32))),
    "G": Case(8, 32, ((30000, 4), (2000, 24))),
}


@dataclass(frozen=True)
class Table:
    """Rows in memory and the mixture they were drawn from; tasks are 0, 1, 2, ..."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    truth: MixtureTruth

    @property
    def sizes(self) -> np.ndarray:
        """Examples of each task."""
        return np.bincount(self.groups)


def draw_case(case: Case, seed: int) -> Table:
    """Draw clean tasks."""
    truth = make_truth(
        n_components=case.n_components,
        n_features=case.n_features,
        noise=NOISE,
        orthonormal=True,
        random_state=seed,
    )
    X, y, groups, _ = simulate_arrays(
        truth=truth, task_groups=list(case.groups), random_state=seed, dtype="float64"
    )
    return Table(X, y, groups, truth)


def new_direction(table: Table, rng: np.random.Generator) -> np.ndarray:
    """Draw a unit vector orthogonal to all components."""
    drawn = rng.normal(size=(1, table.truth.n_features))
    return np.linalg.qr(np.vstack([table.truth.coef, drawn]).T)[0][:, -1]


def common(norm: float) -> Callable[..., None]:
    """Make all follow one regression of that norm, orthogonal to the truth."""

    def corrupt(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
        noise = NOISE * rng.normal(size=bad.sum())
        table.y[bad] = table.X[bad] @ (norm * new_direction(table, rng)) + noise

    return corrupt


def near(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
    """All follow one component, pushed aside by 1.5."""
    aside = table.truth.coef[0] + 1.5 * new_direction(table, rng)
    table.y[bad] = table.X[bad] @ aside + NOISE * rng.normal(size=bad.sum())


def scattered(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
    """Each task follows a regression of its own, of norm 3."""
    own = rng.normal(size=(len(table.sizes), table.truth.n_features))
    own *= 3 / np.linalg.norm(own, axis=1, keepdims=True)
    table.y[bad] = (table.X[bad] * own[table.groups[bad]]).sum(axis=1)


def junk(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
    """Targets are Cauchy, of scale 20."""
    table.y[bad] = 20 * rng.standard_cauchy(bad.sum())


def stuck(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
    """Targets are stuck at 10."""
    table.y[bad] = 10


def leverage(table: Table, bad: np.ndarray, rng: np.random.Generator) -> None:
    """Covariates are 20 times as large, and targets follow them along a new direction."""
    table.X[bad] *= 20
    table.y[bad] = table.X[bad] @ new_direction(table, rng)


ADVERSARIES: dict[str, Callable[..., None] | None] = {
    "none": None,
    "one regression, norm 1": common(1),
    "one regression, norm 2": common(2),
    "one regression, norm 3": common(3),
    "one regression, norm 5": common(5),
    "one regression, norm 20": common(20),
    "one regression, norm 100": common(100),
    "1.5 beside a component": near,
    "scattered regressions, norm 3": scattered,
    "Cauchy targets": junk,
    "targets stuck at 10": stuck,
    "covariates and targets x 20": leverage,
    "norm 3, all in the largest tasks": common(3),
}


def corrupted_rows(name: str, table: Table, rng: np.random.Generator) -> np.ndarray:
    """Choose exactly 5 % of the tasks: at random, or the largest; whether each row is theirs."""
    sizes = table.sizes
    order = rng.permutation(len(sizes))
    if "largest" in name:
        order = order[np.argsort(-sizes[order], kind="stable")]
    bad = np.zeros(len(sizes), dtype=bool)
    bad[order[: int(CORRUPTED * len(sizes))]] = True
    return bad[table.groups]


def fitted_error(table: Table, seed: int, robust: float | None) -> float:
    """Largest error of a component, on white covariates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MixedLinearRegression(table.truth.n_components, robust=robust, random_state=seed)
        with tempfile.TemporaryDirectory() as folder:
            tasks = write_arrays(f"{folder}/tasks", table.X, table.y, table.groups)
            model.fit(tasks, client="threads")
    found = standardised(table.truth, model.coef_, model.intercept_)
    planted = standardised(table.truth, table.truth.coef, table.truth.intercept)
    return float(coefficient_error(found, planted).max())


def corruption_table(seeds: range, fractions: tuple[float, ...]) -> None:
    """Print table (b)."""
    heads = ["case", "5 % of the tasks", "clean error", "plain"]
    heads += [f"robust={fraction}" for fraction in fractions]
    print(f"| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|", flush=True)
    for name, case in CASES.items():
        clean = {seed: fitted_error(draw_case(case, seed), seed, None) for seed in seeds}
        for adversary, corrupt in ADVERSARIES.items():
            ratios: list[list[float]] = []
            for seed in seeds:
                table, rng = draw_case(case, seed), np.random.default_rng([seed, 1])
                if corrupt is not None:
                    corrupt(table, corrupted_rows(adversary, table, rng), rng)
                errors = [fitted_error(table, seed, robust) for robust in (None, *fractions)]
                ratios.append([error / clean[seed] for error in errors])
            cells = [format(max(column), ".3g") for column in zip(*ratios, strict=True)]
            middle = np.median(list(clean.values()))
            print(f"| {name} | {adversary} | {middle:.4f} | {' | '.join(cells)} |", flush=True)


def p_value_tables(seeds: range) -> None:
    """Print the tables of (a)."""
    groups = (*((20000, size) for size in (1, 2, 3, 8)), (4000, 24))
    print("| k | examples | " + " | ".join(f"p <= {u}" for u in LEVELS) + " |")
    print("|---" * (2 + len(LEVELS)) + "|", flush=True)
    for k in (4, 16):
        shares: dict[int, list[list[float]]] = {}
        for seed in seeds:
            table = draw_case(Case(k, 16, groups), seed)
            p, sizes = assigned_p_values(table, seed, None), table.sizes
            for size in np.unique(sizes).tolist():
                at = [float((p[sizes == size] <= u).mean()) for u in LEVELS]
                shares.setdefault(size, []).append(at)
        for size, values in shares.items():
            cells = [format(value, ".4f") for value in np.mean(values, axis=0)]
            print(f"| {k} | {size} | {' | '.join(cells)} |", flush=True)
    print(
        "\n| k | rate | sound among the listed | odd ones listed, by examples |\n"
        + "|---" * 4
        + "|"
    )
    for k in (4, 16):
        listed_share(Case(k, 16, groups), seeds)


def listed_share(case: Case, seeds: range) -> None:
    """Print how many listed tasks are sound and how many planted ones are listed."""
    rates = (0.01, 0.05)
    false: dict[float, list[float]] = {rate: [] for rate in rates}
    power: dict[float, list[list[float]]] = {rate: [] for rate in rates}
    for seed in seeds:
        table, rng = draw_case(case, seed), np.random.default_rng([seed, 2])
        rows = corrupted_rows("", table, rng)
        scattered(table, rows, rng)
        planted = np.zeros(len(table.sizes), dtype=bool)
        planted[table.groups[rows]] = True
        p = assigned_p_values(table, seed, CORRUPTED)
        for rate in rates:
            odd = odd_tasks(p, false_discovery_rate=rate)
            false[rate].append(float((odd & ~planted).sum() / max(odd.sum(), 1)))
            sizes = table.sizes
            power[rate].append(
                [float(odd[planted & (sizes == size)].mean()) for size in np.unique(sizes)]
            )
    for rate in rates:
        by_size = ", ".join(
            f"{size}: {share:.2f}"
            for (_, size), share in zip(case.groups, np.mean(power[rate], axis=0), strict=True)
        )
        print(f"| {case.n_components} | {rate} | {np.mean(false[rate]):.4f} | {by_size} |")


def assigned_p_values(table: Table, seed: int, robust: float | None) -> np.ndarray:
    """Fit, assign, return the column."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        tasks = write_arrays(f"{folder}/tasks", table.X, table.y, table.groups)
        model = MixedLinearRegression(table.truth.n_components, robust=robust, random_state=seed)
        rows: Any = model.fit(tasks, client="threads").assign(tasks, client="threads")
    p_values: np.ndarray = rows["p_value"]
    return p_values


def samples_table(seeds: range) -> None:
    """Print table (c)."""
    n, d = 10_000, 10
    variance = np.ones(d)
    variance[0] = 1.1

    def captured(U: np.ndarray) -> float:
        return float((variance @ U**2).sum())

    print("| corrupted | oracle | plain | filtered | std error | worst draw | seconds |")
    print("|---" * 7 + "|", flush=True)
    for fraction in np.linspace(0.005, 0.025, 9):
        rows, seconds = [], 0.0
        for seed in seeds:
            clean, corrupted = corrupted_samples(n, d, fraction, np.random.default_rng(seed))
            start = time.perf_counter()
            filtered = robust_subspace(corrupted, 1, fraction=fraction)[0]
            seconds += time.perf_counter() - start
            tops = [np.linalg.eigh(X.T @ X)[1][:, -1:] for X in (clean, corrupted)]
            rows.append([captured(U) for U in (*tops, filtered)])
        oracle, plain, found = np.mean(rows, axis=0)
        spread = np.std(rows, axis=0)[2] / np.sqrt(len(rows))
        worst = np.min(rows, axis=0)[2]
        print(
            f"| {fraction:.4f} | {oracle:.4f} | {plain:.4f} | {found:.4f} | {spread:.4f} "
            f"| {worst:.4f} | {seconds / len(seeds):.3f} |",
            flush=True,
        )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default="abc")
    parser.add_argument("--seeds", type=int, default=3, help="of (a) and (b)")
    parser.add_argument("--draws", type=int, default=100, help="of (c)")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    if "a" in asked.tables:
        p_value_tables(range(asked.seeds))
        print()
    if "b" in asked.tables:
        corruption_table(range(asked.seeds), (0.05, 0.1))
        print()
    if "c" in asked.tables:
        samples_table(range(asked.draws))


if __name__ == "__main__":
    main()
