"""Read speed of a task store on an S3 server, beside the same store on disk, in one run.

    python -m tests.benchmarks.objects [--gigabytes 1] [--away 50]

SeaweedFS runs on this machine, and so has no distance: the second server is the same behind a proxy
in which every request waits. A thread reads runs of blocks and sums their moments, as a pass does;
blocks are asked for ahead, or each when it is its turn. The files are in the page cache. Every row
ends with a checksum of the sums; all must be equal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daskmlr import open_tasks
from daskmlr.graph.leaf import one_blas_thread, read_run
from daskmlr.storage.chunks import Buffers
from tests.benchmarks.store import write_store
from tests.objects import servers
from tests.objects.proxy import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.storage.tasks import TaskStore

    Read = Callable[[TaskStore, int, int], Iterator[TaskBlock]]

# As long as those of a large store, see `plan.RUN_BYTES`.
RUN = 16
REPEATS = 3


def in_turn(store: TaskStore, start: int, stop: int) -> Iterator[TaskBlock]:
    """Read each block when it is its turn."""
    buffers = Buffers()
    for index in range(start, stop):
        yield store.read_block(index, buffers)


def gram(block: TaskBlock) -> np.ndarray:
    return block.X.T @ block.X


def timed(store: TaskStore, read: Read, threads: int) -> tuple[float, float]:
    """Fewest seconds of some passes, and a checksum."""

    def one(start: int) -> np.ndarray:
        blocks = read(store, start, min(start + RUN, store.n_blocks))
        return reduce(np.add, map(gram, blocks))

    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool, one_blas_thread():
            total = reduce(np.add, pool.map(one, range(0, store.n_blocks, RUN)))
        seconds.append(time.perf_counter() - begin)
    return min(seconds), float(total.sum())


def rows(where: str, store: TaskStore) -> None:
    for read, how in ((in_turn, "in turn"), (read_run, "ahead")):
        for threads in (1, 2):
            seconds, checksum = timed(store, read, threads)
            rate = store.nbytes / seconds / 1e9
            print(f"{where:24}{how:10}{threads:8}{rate:8.2f}  {checksum:.3f}", flush=True)


def serve_late(upstream: str, seconds: float, ready: Connection) -> None:
    """Run a proxy in which every request waits, until told to stop."""
    with proxy(upstream, lambda *_: time.sleep(seconds)) as between:
        ready.send(between.endpoint)
        ready.recv()


@contextmanager
def away(upstream: str, seconds: float) -> Iterator[str]:
    """Give the endpoint of a server that is far away; in a process, for it takes time itself."""
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=serve_late, args=(upstream, seconds, there))
    process.start()
    yield here.recv()
    here.send(None)
    process.join()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--away", type=float, default=50.0, help="milliseconds that requests wait")
    options = parser.parse_args()

    print(f"{'where':24}{'blocks':10}{'threads':>8}{'GB/s':>8}  checksum")
    with tempfile.TemporaryDirectory() as folder, servers.seaweed() as server:
        write_store(Path(folder, "t"), options.gigabytes, rounded=False)
        rows("disk", open_tasks(Path(folder, "t")))
        os.environ.update(server.environment())
        url = f"{server.make_bucket('benchmark')}/t"
        write_store(url, options.gigabytes, rounded=False)
        rows("SeaweedFS", open_tasks(url))
        with away(server.endpoint, options.away / 1000) as endpoint:
            os.environ.update(server.environment(AWS_ENDPOINT_URL=endpoint))
            rows(f"SeaweedFS, {options.away:g} ms away", open_tasks(url))


if __name__ == "__main__":
    main()
