"""Fits of many features: beside the dense one where that is possible, and where it is not.

    python -m tests.benchmarks.wide --parts agreement
    python -m tests.benchmarks.wide --parts large        # 34 GB of 20,000 features in 2 GB

Both print a line of a table for each fit. *Error* is the largest, over components, of the distance
from the true coefficients to the nearest estimate, relative to their norm.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from dask.utils import format_bytes, parse_bytes

from daskmlr import MixedLinearRegression, Model, plan, simulate
from daskmlr.kernels.metrics import label_accuracy, match_components
from daskmlr.synthetic import load_truth
from tests.benchmarks.fit_memory import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.storage.tasks import TaskStore
    from daskmlr.synthetic import MixtureTruth

PARTS = ["agreement", "large"]


def make_store(
    path: Path, n_components: int, n_features: int, gigabytes: float, task_rows: int, *,
    correlation: float,
) -> TaskStore:  # fmt: skip
    n_tasks = round(gigabytes * 1e9 / (4 * (n_features + 1) * task_rows))
    return simulate(
        path, n_components=n_components, n_features=n_features, noise=0.5, intercept_scale=0.5,
        correlation=correlation, task_groups=[(n_tasks, task_rows)], random_state=0,
    )  # fmt: skip


def error(model: Model, truth: MixtureTruth) -> float:
    distance = np.linalg.norm(model.coef[:, None] - truth.coef, axis=2).min(axis=0)
    return float((distance / np.linalg.norm(truth.coef, axis=1)).max())


def count(model: Model, stage: str) -> int:
    return sum(entry["stage"] == stage for entry in model.history)


def agreement(folder: Path, n_features: int, correlation: float) -> None:
    """Both ways on one store that dense sums can be taken of."""
    tasks = make_store(
        folder / f"tasks-{n_features}-{correlation}", 4, n_features, 1.6, 8, correlation=correlation
    )
    truth, _ = load_truth(tasks.path)
    found: dict[str, Model] = {}
    for name, limit in (("dense", n_features), ("thin", 1)):
        with mock.patch.object(plan, "WIDE_FEATURES", limit):
            start = time.perf_counter()
            model = MixedLinearRegression(4, random_state=0).fit(tasks, client="threads").model_
            seconds = time.perf_counter() - start
        found[name] = model
        apart = np.linalg.norm(model.coef - found["dense"].coef, axis=1).max()
        print(
            f"| {n_features} | {correlation:g} | {name} | {seconds:.1f} | "
            f"{count(model, 'moments')} | {count(model, 'widen')} | {count(model, 'refine')} | "
            f"{model.log_likelihood:.3f} | {error(model, truth):.4f} | "
            f"{apart / np.linalg.norm(truth.coef, axis=1).max():.1e} | {model.noise_edge:.4f} |",
            flush=True,
        )


def large(folder: Path, gigabytes: float, n_features: int, task_rows: int, limit: str) -> None:
    """`daskmlr fit` and `assign` in processes of their own, under an enforced limit of memory."""
    k = 10
    start = time.perf_counter()
    tasks = make_store(folder / "tasks", k, n_features, gigabytes, task_rows, correlation=0)
    print(
        f"made {format_bytes(tasks.nbytes)}: {tasks.n_tasks:,} tasks of {task_rows}, "
        f"{n_features:,} features, in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    outer = (parse_bytes(limit), 7200.0)
    model_path, labels_path = folder / "model", folder / "labels.parquet"
    run("fit", ["fit", tasks.path, str(model_path), "--n-components", str(k)], *outer)
    run("assign", ["assign", str(model_path), tasks.path, str(labels_path)], *outer)
    truth, planted = load_truth(tasks.path)
    model = Model.load(model_path)
    labels = pq.read_table(labels_path, columns=["label"])["label"].to_numpy()
    match = match_components(model.coef, truth.coef)
    right = label_accuracy(labels, planted[: len(labels)], n_components=k, match=match)
    print(
        f"labels right {right:.4f}, error {error(model, truth):.3f}, passes: "
        f"moments {count(model, 'moments')}, widen {count(model, 'widen')}, "
        f"refine {count(model, 'refine')}; eigenvalues {model.eigenvalues.round(3).tolist()}, "
        f"edge {model.noise_edge:.3f}; warned: {list(model.notes)}"
    )


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--gigabytes", type=float, default=34.0)
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--task-rows", type=int, default=100)
    parser.add_argument("--limit", default="2GB")
    parser.add_argument("--scratch", default=None, help="folder for the stores")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        if "agreement" in asked.parts:
            print(
                "| d | correlation | products | seconds | moments | widen | refine | "
                "log-likelihood | error | from dense | edge |\n" + "|---" * 11 + "|"
            )
            for n_features, correlation in ((1000, 0.0), (1000, 0.5), (2000, 0.0)):
                agreement(Path(folder), n_features, correlation)
        if "large" in asked.parts:
            large(
                Path(folder), asked.gigabytes, asked.features, asked.task_rows, asked.limit
            )  # fmt: skip


if __name__ == "__main__":
    main()
