"""Whether a fit depends on where it is computed, or on how its store is cut into blocks.

    python -m tests.benchmarks.bitwise

The same store is fitted by Dask's synchronous scheduler, by its threads, and by process-based
clusters of one and of three workers: every array of the model must be the same to the last bit.
Then the same tasks are fitted from stores of three block sizes, whose sums are taken in other
orders: the models must agree to 1e-8 (what float32 data give is printed beside).
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression, plan, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daskmlr.model import Model
    from daskmlr.storage.tasks import TaskStore

KIB = 1 << 10
# Small enough for dozens of runs, whose sums are combined in a tree of two levels.
BLOCK_BYTES = 512 * KIB
BLOCK_SIZES = (256 * KIB, 512 * KIB, 4096 * KIB)
TASK_GROUPS = [(20_000, (1, 20)), (500, 40)]
MIXTURE = {"n_components": 6, "n_features": 24, "noise": 0.5, "intercept_scale": 0.5}
TOLERANCE = 1e-8
WORKERS = (1, 3)


def make_store(path: Path, *, dtype: str, block_bytes: int, **changes: Any) -> TaskStore:
    """Simulate the tasks; only `dtype` and `changes` change a value."""
    parameters = {"task_groups": TASK_GROUPS, "random_state": 3, **MIXTURE, **changes}
    return simulate(path, dtype=dtype, block_bytes=block_bytes, **parameters)


def arrays(model: Model) -> dict[str, np.ndarray]:
    """Every number of a model that is data and not a record of time."""
    values = {f.name: getattr(model, f.name) for f in fields(model)}
    kept = {name: v for name, v in values.items() if isinstance(v, np.ndarray | float)}
    return {name: np.asarray(v) for name, v in kept.items()}


def different(left: Model, right: Model) -> list[str]:
    """Names of the arrays that differ in any bit."""
    theirs = arrays(right)
    return [
        name for name, values in arrays(left).items() if values.tobytes() != theirs[name].tobytes()
    ]


def largest_gap(left: Model, right: Model) -> float:
    """Largest difference of the parameters, relative to the largest value of each array."""
    gaps = [
        np.abs(getattr(left, name) - getattr(right, name)).max() / np.abs(getattr(left, name)).max()
        for name in ("coef", "intercept", "noise_variance", "weights")
    ]
    return float(max(gaps))


def fit(tasks: TaskStore, client: Client | str) -> Model:
    """Fit with one seed."""
    n_components = MIXTURE["n_components"]
    return MixedLinearRegression(n_components, random_state=0).fit(tasks, client=client).model_


@contextmanager
def processes(n_workers: int) -> Iterator[Client]:
    """A Dask cluster of so many worker processes, of two threads each."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=2,
            processes=True,
            # any free port: another cluster of this machine may hold the usual one
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def compare_schedulers(tasks: TaskStore, name: str) -> None:
    """Print which arrays differ from the synchronous scheduler's."""
    reference = fit(tasks, "sync")
    models = {"threads": fit(tasks, "threads")}
    for n_workers in WORKERS:
        with processes(n_workers) as client:
            models[f"{n_workers} processes"] = fit(tasks, client)
    for where, model in models.items():
        wrong = different(reference, model)
        print(f"| {name} | {where} | {', '.join(wrong) or 'every bit equal'} |", flush=True)


def compare_blocks(folder: Path, dtype: str) -> None:
    """Print how far the models of three block sizes are from the first."""
    stores = [
        make_store(folder / f"{dtype}-{size}", dtype=dtype, block_bytes=size)
        for size in BLOCK_SIZES
    ]
    reference, *others = [fit(tasks, "sync") for tasks in stores]
    for tasks, model in zip(stores[1:], others, strict=True):
        gap = largest_gap(reference, model)
        within = "within" if gap <= TOLERANCE else "above"
        blocks = f"{stores[0].n_blocks} and {tasks.n_blocks} blocks"
        print(f"| {dtype} | {blocks} | {gap:.1e}, {within} {TOLERANCE:g} |", flush=True)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print both tables."""
    argparse.ArgumentParser(description=__doc__).parse_args(
        None if arguments is None else list(arguments)
    )
    print("| data | against the synchronous scheduler or the smallest blocks | result |")
    print("|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in ("float64", "float32"):
            tasks = make_store(folder / dtype, dtype=dtype, block_bytes=BLOCK_BYTES)
            shape = f"{dtype}, {tasks.n_blocks} blocks in {len(plan.runs(tasks))} runs"
            compare_schedulers(tasks, shape)
        for dtype in ("float64", "float32"):
            compare_blocks(folder, dtype)


if __name__ == "__main__":
    main()
