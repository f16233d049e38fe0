"""Beside what a user would pick instead: flexmix, plain NumPy, dask.array, scikit-learn.

    python -m tests.benchmarks.versus

Each comparison is of equal data in one run; where rounds are taken they alternate, and medians
count. Seconds are of the clock, but beside flexmix of the processor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import zarr
from dask import delayed
from distributed import Client, LocalCluster
from scipy.special import logsumexp
from sklearn.decomposition import IncrementalPCA

from daskmlr import MixedLinearRegression, stages
from daskmlr.graph.execute import connect
from daskmlr.kernels.metrics import subspace_error
from daskmlr.record import RunRecord
from daskmlr.spectral import find_subspace
from daskmlr.synthetic import load_truth, make_truth
from daskmlr.synthetic.tasks import simulate_arrays
from tests.benchmarks.passes import N_COMPONENTS as K
from tests.benchmarks.passes import TASK_ROWS, make_store
from tests.benchmarks.peers.methods import fit_flexmix
from tests.benchmarks.peers.mixtures import Mixture, log_likelihood
from tests.benchmarks.peers.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daskmlr import Model
    from daskmlr.storage.tasks import TaskStore

NEGLIGIBLE = 1e-4
RIDGE = 1.0
PARTS = ["numpy", "estimates", "workers", "flexmix"]


@dataclass(frozen=True)
class Line:
    """One comparison; `ratio` says how many times as fast daskmlr is."""

    what: str
    theirs: float
    ours: float
    wanted: float
    remark: str

    def __str__(self) -> str:
        ratio = self.theirs / self.ours
        missed = "" if ratio >= self.wanted else " **missed**"
        return (
            f"| {self.what} | {self.theirs:.2f} | {self.ours:.2f} | {ratio:.2f}{missed} | "
            f"{self.wanted:g} | {self.remark} |"
        )


def alternate(rounds: int, *functions: Callable[[], float]) -> list[float]:
    """Median of what each function returns, over rounds of all; the first round does not count."""
    results = [[function() for function in functions] for _ in range(rounds + 1)]
    return np.median(results[1:], axis=0).tolist()


def clocked(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def seconds_of_passes(model: Model) -> float:
    """Of the moments and the refinement."""
    return sum(
        entry["seconds"] for entry in model.history if entry["stage"] in ("moments", "refine")
    )


def beside_flexmix(limit: float) -> Line:
    truth = make_truth(n_components=4, n_features=8, noise=0.5, random_state=0)
    X, y, groups, _ = simulate_arrays(
        task_groups=[(50_000, 8)], random_state=0, truth=truth, dtype="float64"
    )
    table = Table(X, y, groups.astype(np.int64))
    few = groups < 500
    MixedLinearRegression(4, random_state=0).fit(X[few], y[few], groups=groups[few])  # loads all
    start = time.process_time()
    model = MixedLinearRegression(4, random_state=0, n_restarts=1).fit(X, y, groups=groups)
    ours = time.process_time() - start
    coef = np.column_stack([model.intercept_, model.coef_])
    reached = log_likelihood(table, Mixture(coef, model.noise_variance_, model.weights_))
    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder))
        run = fit_flexmix(Path(folder), 4, 0, limit=limit, starts=1)
    if run.mixture is None:
        remark = f"flexmix did not end in {limit:.0f} s: at least"
    else:
        remark = f"likelihood {reached - log_likelihood(table, run.mixture):+.2f} above flexmix's"
    return Line("flexmix, 50,000 tasks of 8, d=8, k=4, one start", run.seconds, ours, 100, remark)


def numpy_moments(X: np.ndarray, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Second moment of ``y x`` over all pairs of a task, and the covariances, in whole arrays."""
    A = np.column_stack([np.ones(len(X), dtype=X.dtype), X])
    products = A * y[:, None]
    sums = np.add.reduceat(products, starts)
    second = sums.T @ sums - products.T @ products
    return np.linalg.solve(A.T @ A, second)


def numpy_refine(
    X: np.ndarray, y: np.ndarray, starts: np.ndarray, mixture: Mixture, n_passes: int
) -> float:
    """Soft expectation-maximisation in whole arrays; the log-likelihood before the last step."""
    A = np.column_stack([np.ones(len(X), dtype=X.dtype), X])
    sizes = np.diff(np.append(starts, len(X)))
    coef, noise, weights = mixture.coef, mixture.noise_variance, mixture.weights
    for _ in range(n_passes):
        squares = (y[:, None] - A @ coef.T.astype(X.dtype)) ** 2
        rss = np.add.reduceat(squares, starts)
        joint = np.log(weights) - rss / (2 * noise) - sizes[:, None] / 2 * np.log(2 * np.pi * noise)
        total = logsumexp(joint, axis=1)
        shares = np.exp(joint - total[:, None])
        of_rows = np.repeat(shares, sizes, axis=0)
        coef, noise = coef.copy(), noise.copy()
        for c in range(len(coef)):
            rows = np.flatnonzero(of_rows[:, c] > NEGLIGIBLE)
            own, share = A[rows], of_rows[rows, c]
            weighted = own * share[:, None].astype(X.dtype)
            coef[c] = np.linalg.solve(weighted.T @ own, weighted.T @ y[rows])
            noise[c] = (share * (y[rows] - own @ coef[c]) ** 2).sum() / share.sum()
        weights = shares.mean(axis=0)
    return float(total.sum())


def beside_numpy(tasks: TaskStore, rounds: int) -> Line:
    blocks = [tasks.read_block(index) for index in range(tasks.n_blocks)]
    X, y = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("X", "y"))
    starts = np.concatenate([[0], np.cumsum(tasks.task_sizes())[:-1]])
    truth, _ = load_truth(tasks.path)
    begin = Mixture(
        np.column_stack([truth.intercept, truth.coef]), truth.noise_variance, truth.weights
    )
    found: dict[str, float] = {}

    def ours() -> float:
        model = MixedLinearRegression(K, random_state=0).fit(tasks, client="threads").model_
        found["ours"], found["passes"] = model.log_likelihood, model.n_iter
        return seconds_of_passes(model)

    def theirs() -> float:
        start = time.perf_counter()
        numpy_moments(X, y, starts)
        found["theirs"] = numpy_refine(X, y, starts, begin, int(found["passes"]))
        return time.perf_counter() - start

    fast, plain = alternate(rounds, ours, theirs)
    gap = (found["ours"] - found["theirs"]) / tasks.n_rows
    remark = (
        f"moments and {found['passes']:.0f} refinement passes of {tasks.nbytes / 1e9:.1f} GB; "
        f"likelihood {gap:+.1e} an example above"
    )
    return Line(f"NumPy in memory, d={tasks.n_features}", plain, fast, 0.8, remark)


def own_ridge(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge estimate of every task of `TASK_ROWS` rows, by the smaller of the two solves."""
    X = X.reshape(-1, TASK_ROWS, X.shape[1])
    inner = X @ X.transpose(0, 2, 1) + RIDGE * np.eye(TASK_ROWS, dtype=X.dtype)
    dual = np.linalg.solve(inner, y.reshape(-1, TASK_ROWS, 1))
    return (X.transpose(0, 2, 1) @ dual)[:, :, 0]


def beside_estimates(tasks: TaskStore, rounds: int) -> list[Line]:
    group = zarr.open_group(tasks.path, mode="r")
    truth, _ = load_truth(tasks.path)
    errors: dict[str, float] = {}

    def ours() -> float:
        def run() -> None:
            with connect("threads") as runner:
                rng, options = np.random.default_rng(0), stages.FitOptions(K)
                found = find_subspace(tasks, options, runner, RunRecord(), rng)
            errors["ours"] = subspace_error(found.directions[1:], truth.coef.T)

        return clocked(run)

    def estimates(index: int) -> np.ndarray:
        rows = slice(index * tasks.block_rows, (index + 1) * tasks.block_rows)
        X, y = group["x"][rows], group["y"][rows]
        held = n_rows[index]  # the rows left over at a block's end are zero
        return own_ridge(X[:held], y[:held])

    n_tasks = np.diff(tasks.block_tasks)
    n_rows = (TASK_ROWS * n_tasks).tolist()

    def svd_compressed() -> float:
        def run() -> None:
            parts = [
                da.from_delayed(delayed(estimates)(index), (n, tasks.n_features), tasks.dtype)
                for index, n in enumerate(n_tasks.tolist())
            ]
            right = da.linalg.svd_compressed(da.concatenate(parts), K, seed=0)[2]
            directions = right.compute(scheduler="threads").T
            errors["dask.array"] = subspace_error(directions, truth.coef.T)

        return clocked(run)

    def incremental() -> float:
        def run() -> None:
            pca = IncrementalPCA(K)
            for index in range(tasks.n_blocks):
                pca.partial_fit(estimates(index))
            errors["IncrementalPCA"] = subspace_error(pca.components_.T, truth.coef.T)

        return clocked(run)

    names = "dask.array", "IncrementalPCA"
    fast, *slow = alternate(rounds, ours, svd_compressed, incremental)
    return [
        Line(
            f"{name} of ridge estimates, subspace, d={tasks.n_features}", seconds, fast,
            5 if name == "dask.array" else 1,
            f"subspace error {errors[name]:.3f}, ours {errors['ours']:.3f}",
        )
        for name, seconds in zip(names, slow, strict=True)
    ]  # fmt: skip


def two_workers(tasks: TaskStore, rounds: int) -> Line:
    """Passes of a fit on two worker processes of one thread, beside one."""

    def on(n_workers: int) -> float:
        with (
            LocalCluster(
                n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            client.wait_for_workers(n_workers)
            client.run(import_module, "daskmlr.stages")  # else the first pass would wait for it
            model = MixedLinearRegression(K, random_state=0).fit(tasks, client=client).model_
        return seconds_of_passes(model)

    one, two = alternate(rounds, lambda: on(1), lambda: on(2))
    return Line(f"one worker process, two here, d={tasks.n_features}", one, two, 1.8, "same fit")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="processor seconds of flexmix")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| beside | their seconds | ours | times as fast | wanted | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for d in (32, 128):
            tasks = make_store(Path(folder), d, asked.gigabytes)
            if "numpy" in asked.parts:
                print(beside_numpy(tasks, asked.rounds), flush=True)
            if "estimates" in asked.parts:
                for line in beside_estimates(tasks, asked.rounds):
                    print(line, flush=True)
            if "workers" in asked.parts:
                print(two_workers(tasks, asked.rounds), flush=True)
    if "flexmix" in asked.parts:
        print(beside_flexmix(asked.limit), flush=True)


if __name__ == "__main__":
    main()
