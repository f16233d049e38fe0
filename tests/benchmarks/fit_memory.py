"""A fit and an assignment of a store far larger than memory, under an enforced memory limit.

    python -m tests.benchmarks.fit_memory                                    # 32 GB in 1.5 GB
    python -m tests.benchmarks.fit_memory --gigabytes 1.4 --features 16 --task-rows 4  # 20 million

writes a planted store, then runs `daskmlr info`, `fit` and `assign` in processes of their own under
a hard memory limit (a cgroup where one can be made, else sampling). Prints one JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pyarrow.parquet as pq
from dask.utils import format_bytes, parse_bytes

from daskmlr import Model, plan, simulate
from daskmlr.graph import leaf
from daskmlr.graph.reduce import _reduction
from daskmlr.kernels.metrics import label_accuracy, match_components
from daskmlr.synthetic import load_truth
from tests.benchmarks.limited import run_limited

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.storage.tasks import TaskStore

N_COMPONENTS = 8
LABELS_SCORED = 200_000


def show(step: str, **facts: Any) -> None:
    print(json.dumps({"step": step, **facts}), flush=True)


def make_store(path: Path, gigabytes: float, n_features: int, task_rows: int) -> TaskStore:
    n_tasks = round(gigabytes * 1e9 / (4 * (n_features + 1) * task_rows))
    heavy = max(n_tasks // 100, 256 * N_COMPONENTS)
    return simulate(
        path,
        task_groups=[(n_tasks, task_rows), (heavy, 4 * task_rows)],
        n_components=N_COMPONENTS,
        n_features=n_features,
        noise=0.5,
        random_state=0,
    )


def graph_of(tasks: TaskStore) -> dict[str, Any]:
    """Size of the graph of one pass."""
    graph = _reduction(leaf.pack(tasks, len, max, (), False, ()), plan.runs(tasks), "pass", most=1)[
        0
    ]
    return {
        "graph_tasks": plan.plan_pass(tasks, 0).n_graph_tasks,
        "graph_bytes": format_bytes(len(cloudpickle.dumps(dict(graph.dask)))),
    }


def run(step: str, command: list[str], limit: int, timeout: float) -> dict[str, Any]:
    """Run a command of daskmlr under the limit; its JSON.

    Raises
    ------
    SystemExit
        If it fails.
    """
    usage = run_limited(
        [sys.executable, "-m", "daskmlr", *command, "--json"],
        limit=limit,
        timeout=timeout,
    )
    if usage.returncode:
        raise SystemExit(f"{step} failed ({usage.returncode}): {usage.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(usage.stdout)
    facts = {
        "seconds": round(usage.seconds, 1),
        "peak_memory": format_bytes(usage.peak_rss),
        "limit": f"{format_bytes(limit)} ({usage.enforced})",
        "oom_kills": usage.oom_kills,
    }
    if "stages" in said:
        passes = [s for s in said["stages"] if s["stage"] in ("moments", "refine", "diagnose")]
        facts["passes"] = len(passes)
        facts["seconds_by_stage"] = {
            name: round(sum(s["seconds"] for s in said["stages"] if s["stage"] == name), 1)
            for name in dict.fromkeys(s["stage"] for s in said["stages"])
        }
    show(step, **facts)
    return said


def accuracy(tasks: TaskStore, model: Path, labels: Path) -> dict[str, float]:
    """Of the labels of the first light tasks, beside the planted ones."""
    truth, planted = load_truth(tasks.path)
    match = match_components(Model.load(model).coef, truth.coef)
    first = pq.ParquetFile(sorted(labels.glob("*.parquet"))[0])
    found = first.read(columns=["label"])["label"].to_numpy()[:LABELS_SCORED]
    share = label_accuracy(found, planted[: len(found)], n_components=N_COMPONENTS, match=match)
    return {"labels_right": round(share, 4), "scored": len(found)}


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=32.0)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--task-rows", type=int, default=8)
    parser.add_argument("--limit", default="1.5GB")
    parser.add_argument("--scratch", default=None, help="folder for the store")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each command")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    limit = parse_bytes(asked.limit)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        folder = Path(scratch)
        start = time.perf_counter()
        tasks = make_store(
            folder / "tasks.daskmlr", asked.gigabytes, asked.features, asked.task_rows
        )
        show(
            "made",
            store=format_bytes(tasks.nbytes), tasks=tasks.n_tasks, examples=tasks.n_rows,
            seconds=round(time.perf_counter() - start, 1), **graph_of(tasks),
        )  # fmt: skip
        model, labels = folder / "model", folder / "labels.parquet"
        outer = (limit, asked.timeout)
        run("info", ["info", tasks.path], *outer)
        fit = ["fit", tasks.path, str(model), "--n-components", str(N_COMPONENTS)]
        run("fit", fit, *outer)
        run("assign", ["assign", str(model), tasks.path, str(labels)], *outer)
        show("labels", **accuracy(tasks, model, labels))


if __name__ == "__main__":
    main()
