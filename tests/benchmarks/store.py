"""Read and write speed of a task store, beside reading its very files plainly.

    python -m tests.benchmarks.store [--gigabytes 1] [--folder /tmp]

The files are in the page cache, so that it is the reader that is measured and not the disk. Every
row names the work done and a checksum of what was read; rows that compare must have equal ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import create_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from daskmlr.storage.tasks import TaskStore

D, TASK_ROWS, DTYPE = 31, 32, "float32"
REPEATS = 3


def write_store(path: str | Path, gigabytes: float, *, rounded: bool) -> float:
    """Write tasks of noise (or of small whole numbers), and return the seconds spent writing."""
    rng = np.random.default_rng(0)
    n_rows = 8192 * TASK_ROWS // 8
    X = rng.normal(size=(n_rows, D)).astype(DTYPE)
    X = (4 * X).round() if rounded else X
    y = rng.normal(size=n_rows).astype(DTYPE)
    sizes = np.full(n_rows // TASK_ROWS, TASK_ROWS)
    names = [f"x{j}" for j in range(D)]
    start = time.perf_counter()
    with create_tasks(path, feature_names=names, dtype=DTYPE) as writer:
        for _ in range(max(round(gigabytes * 1e9 / (X.nbytes + y.nbytes)), 1)):
            writer.write(X, y, sizes)
    return time.perf_counter() - start


def read_blocks(store: TaskStore, index: int) -> float:
    """Read as `read_block` does."""
    return float(store.read_block(index).X[0, 0])


def read_files(store: TaskStore, index: int) -> float:
    """Read the bytes of the same chunks into new arrays: no check, no decoding."""
    arrays = []
    for key in (f"x/c/{index}/0", f"y/c/{index}"):
        with Path(store.path, key).open("rb", buffering=0) as file:
            arrays.append(np.empty(Path(store.path, key).stat().st_size, dtype=np.uint8))
            file.readinto(arrays[-1].data)
    return float(arrays[0][:4].view(DTYPE)[0])


def read_zarr(store: TaskStore, index: int) -> float:
    """Read the same rows by Zarr."""
    group = zarr.open_group(store.path, mode="r")
    rows = slice(index * store.block_rows, (index + 1) * store.block_rows)
    X, _ = group["x"][rows], group["y"][rows]
    return float(X[0, 0])


def best(store: TaskStore, read: Callable[[TaskStore, int], float], threads: int) -> tuple:
    """Return the fastest seconds of some passes over all blocks, and the sum of what they gave."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            total = sum(pool.map(lambda index: read(store, index), range(store.n_blocks)))
        seconds.append(time.perf_counter() - start)
    return min(seconds), total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(f"{'store':14}{'work':22}{'threads':>8}{'GB/s':>8}{'GB/s on disk':>14}  checksum")
    for rounded in (False, True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            seconds = write_store(Path(folder, "t"), options.gigabytes, rounded=rounded)
            store = open_tasks(Path(folder, "t"))
            kind = store.codec.split(",")[0].replace(" with byte shuffle", "")
            print(
                f"{kind:14}{'write':22}{1:8}{store.nbytes / seconds / 1e9:8.2f}"
                f"{store.nbytes_stored / seconds / 1e9:14.2f}  {store.n_rows} rows"
            )
            for read in (read_blocks, read_zarr, read_files):
                if read is read_files and rounded:
                    continue  # nothing decoded: no comparison
                for threads in (1, 2):
                    seconds, total = best(store, read, threads)
                    print(
                        f"{kind:14}{read.__name__:22}{threads:8}{store.nbytes / seconds / 1e9:8.2f}"
                        f"{store.nbytes_stored / seconds / 1e9:14.2f}  {total:.6f}"
                    )


if __name__ == "__main__":
    main()
