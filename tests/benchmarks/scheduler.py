"""The scheduler with hundreds of workers, on a graph as a store makes it, of kernels that sleep.

    python -m tests.benchmarks.scheduler

Everything is real but the reading and the products: the graph of `reduce_tasks`, a
`distributed.Scheduler`, and workers with a thread each, over TCP. Scheduler and client have this
process to themselves, the workers share another. *Own* is the processor time of this process: what
bounds a pass on a cluster, where the workers have machines of their own. With kernels that return
at once, *took* is bound by the process of the workers; with kernels that sleep, *ideal* is the
sleep of a worker's share of the leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import numpy as np
from dask.utils import format_bytes
from distributed import Client, LocalCluster, Worker

from daskmlr import plan
from daskmlr.graph import leaf
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import _reduction
from daskmlr.kernels.blocks import TaskBlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class SleepingStore:
    """A store whose blocks take a while to read and hold one task of one example."""

    n_blocks: int
    seconds: float
    blocks_ahead: int = 0
    on_disk: bool = False
    path: str = "sleeping"

    def read_block(self, index: int, buffers: Any) -> TaskBlock:
        time.sleep(self.seconds)
        return TaskBlock(np.ones((1, 1)), np.ones(1), np.array([0, 1]), index)

    def will_need(self, index: int, buffers: Any) -> None:
        """Nothing is on a disk."""


def number(block: TaskBlock) -> int:
    return block.n_tasks


def add(left: int, right: int) -> int:
    return left + right


def timed_pass(client: Client, leaves: int, seconds: float) -> float:
    """Seconds from the graph to its result."""
    store: Any = SleepingStore(leaves, seconds)
    start = time.perf_counter()
    shared = leaf.pack(store, number, add, (), False, ())
    (graph,) = _reduction(shared, [(i, i + 1) for i in range(leaves)], "sleep", most=1)
    with connect(client) as runner:
        found = runner.compute(lambda: graph, "sleep", leaves, store)
    if found != leaves:
        raise AssertionError(f"{found} of {leaves} leaves were summed")
    return time.perf_counter() - start


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--leaves", type=int, default=3000, help="of kernels that return at once")
    parser.add_argument("--leaves-per-worker", type=int, default=4, help="of those that sleep")
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print(
        "| workers | leaves | graph tasks | each leaf, s | ideal, s | took, s | of ideal | "
        "own, s | own for a graph task, ms |\n" + "|---" * 9 + "|"
    )
    for n_workers in asked.workers:
        with cluster_of(n_workers) as client:
            timed_pass(client, n_workers, 0.0)
            for seconds, leaves in (
                (0.0, asked.leaves),
                (asked.seconds, n_workers * asked.leaves_per_worker),
            ):
                ideal, before = seconds * leaves / n_workers, time.process_time()
                took = timed_pass(client, leaves, seconds)
                tasks = sum(plan.levels(leaves))
                own = time.process_time() - before
                share = f"{ideal / took:.2f}" if seconds else ""
                cost = "" if seconds else f"{1e3 * own / tasks:.2f}"
                print(
                    f"| {n_workers} | {leaves:,} | {tasks:,} | {seconds:g} | {ideal:g} | "
                    f"{took:.1f} | {share} | {own:.1f} | {cost} |",
                    flush=True,
                )
    for leaves in (1000, plan.MAX_RUNS):
        print(
            f"\ngraph of {leaves:,} leaves: {sum(plan.levels(leaves)):,} graph tasks, "
            f"{format_bytes(graph_bytes(leaves))}"
        )


@contextmanager
def cluster_of(n_workers: int) -> Iterator[Client]:
    """Start a scheduler in this process, and so many workers of one thread in one other."""
    with (
        LocalCluster(n_workers=0, protocol="tcp://", dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        context = multiprocessing.get_context("spawn")
        process = context.Process(
            target=run_workers, args=(cluster.scheduler_address, n_workers), daemon=True
        )
        process.start()
        try:
            client.wait_for_workers(n_workers)
            yield client
        finally:
            process.kill()
            process.join()


def run_workers(address: str, n_workers: int) -> None:
    """Run workers until they are killed.

    They neither profile nor monitor themselves: each looks at all threads and open files of its
    process, here those of all workers.
    """

    async def work() -> None:
        workers = [
            Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(n_workers)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    logging.getLogger("distributed").setLevel(logging.WARNING)
    quiet = {
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "1h",
    }
    with dask.config.set(quiet):
        asyncio.run(work())


def graph_bytes(leaves: int) -> int:
    """Size of the graph as it travels to the scheduler."""
    store: Any = SleepingStore(leaves, 0.0)
    shared = leaf.pack(store, number, add, (), False, ())
    (graph,) = _reduction(shared, [(i, i + 1) for i in range(leaves)], "sleep", most=1)
    return len(cloudpickle.dumps(dict(graph.dask)))


if __name__ == "__main__":
    main()
