"""The scheduler with hundreds of workers, on a graph as a store makes it, of kernels that sleep.

    python -m tests.benchmarks.scheduler

Everything is real but the reading and the products: the graph of `reduce_tasks`, a
`distributed.Scheduler`, and workers with a thread each, all in this process. *Cost* is the time of
a graph whose kernels return at once, for each graph task: what scheduler, workers and their
messages take of one interpreter together. With kernels that sleep, *ideal* is the sleep of a
worker's share of the leaves. First, with two worker processes, what scheduler and client take
alone: processor time of their process.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
from dask.utils import format_bytes
from distributed import Client, LocalCluster

from daskmlr import plan
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import _reduction

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class SleepingStore:
    """A store whose blocks take a while to read and hold one number."""

    n_blocks: int
    seconds: float

    def read_block(self, index: int, buffers: Any) -> int:
        time.sleep(self.seconds)
        return 1

    def will_need(self, index: int) -> None:
        """Nothing is on a disk."""


def number(block: int) -> int:
    return block


def add(left: int, right: int) -> int:
    return left + right


def n_graph_tasks(leaves: int) -> int:
    total = level = leaves
    while level > 1:
        level = -(-level // plan.SPLIT_EVERY)
        total += level
    return total


def timed_pass(client: Client, leaves: int, seconds: float) -> float:
    """Seconds from the graph to its result."""
    store: Any = SleepingStore(leaves, seconds)
    start = time.perf_counter()
    graph = _reduction(store, number, add, (), [(i, i + 1) for i in range(leaves)], "sleep")
    with connect(client) as runner:
        found = runner.compute(graph, "sleep", leaves)
    if found != leaves:
        raise AssertionError(f"{found} of {leaves} leaves were summed")
    return time.perf_counter() - start


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--leaves", type=int, default=4000, help="of the two worker processes")
    parser.add_argument("--leaves-per-worker", type=int, default=10)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.0, 5.0])
    asked = parser.parse_args(None if arguments is None else list(arguments))
    own_cost(asked.leaves)
    print(
        "| workers | leaves | graph tasks | each leaf, s | ideal, s | took, s | of ideal | "
        "cost of a graph task, ms | graph |\n" + "|---" * 9 + "|"
    )
    for n_workers in asked.workers:
        with (
            dask.config.set({"distributed.worker.memory.terminate": False}),
            LocalCluster(
                n_workers=n_workers, threads_per_worker=1, processes=False, memory_limit=0,
                dashboard_address=None,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            client.wait_for_workers(n_workers)
            leaves = n_workers * asked.leaves_per_worker
            timed_pass(client, n_workers, 0.0)
            for seconds in asked.seconds:
                took, ideal = timed_pass(client, leaves, seconds), seconds * asked.leaves_per_worker
                tasks = n_graph_tasks(leaves)
                cost = f"{1e3 * took / tasks:.2f}" if not seconds else ""
                share = f"{ideal / took:.2f}" if seconds else ""
                print(
                    f"| {n_workers} | {leaves:,} | {tasks:,} | {seconds:g} | {ideal:g} | "
                    f"{took:.2f} | {share} | {cost} | {format_bytes(graph_bytes(leaves))} |",
                    flush=True,
                )


def own_cost(leaves: int) -> None:
    """Print what a graph task costs the process of scheduler and client."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2)
        timed_pass(client, 50, 0.0)
        start = time.process_time()
        took = timed_pass(client, leaves, 0.0)
        cost = (time.process_time() - start) / n_graph_tasks(leaves)
    print(
        f"scheduler and client: {1e3 * cost:.3f} ms of processor for each of "
        f"{n_graph_tasks(leaves):,} graph tasks, on two worker processes in {took:.1f} s\n",
        flush=True,
    )


def graph_bytes(leaves: int) -> int:
    """Size of the graph as it travels to the scheduler."""
    store: Any = SleepingStore(leaves, 0.0)
    graph = _reduction(store, number, add, (), [(i, i + 1) for i in range(leaves)], "sleep")
    return len(cloudpickle.dumps(dict(graph.dask)))


if __name__ == "__main__":
    main()
