"""Ways to bring the rows of each task together, measured under a memory limit.

    python -m tests.benchmarks.grouping --gigabytes 1.2 --limit 1GiB

writes an unsorted Parquet folder, runs every candidate on it in a process of its own under a hard
memory limit, and prints seconds, peak memory and peak temporary disk. Each candidate reads the
folder and gives the rows task after task; each must account for the same rows (a checksum), and
those that promise an order are checked for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from dask.utils import format_bytes, parse_bytes

from tests.benchmarks.limited import run_limited

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

N_FEATURES = 32
ROWS_PER_FILE = 262_144
ROWS_PER_TASK = 11
MODULE = "tests.benchmarks.grouping"


@dataclass
class Account:
    """What a candidate gave: rows, a checksum without order, and whether they came in order."""

    rows: int = 0
    checksum: int = 0
    ordered: bool = True
    _last: tuple[int, int] = (-1, -1)

    def add(self, task: np.ndarray, row: np.ndarray, y: np.ndarray) -> None:
        """Account for consecutive rows."""
        if not len(task):
            return
        mixed = task.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + row.astype(np.uint64)
        self.checksum += int((mixed * y.astype(np.float64).view(np.uint64)).sum())
        self.checksum %= 1 << 64
        rising = (np.diff(task) > 0) | ((np.diff(task) == 0) & (np.diff(row) > 0))
        self.ordered &= bool(rising.all()) and self._last < (int(task[0]), int(row[0]))
        self._last = int(task[-1]), int(row[-1])
        self.rows += len(task)


def make_folder(folder: Path, n_bytes: int) -> int:
    """Write random rows in random order of tasks, file by file; return how many."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    n_files = max(round(n_bytes / (ROWS_PER_FILE * 8 * (N_FEATURES + 3))), 1)
    n_tasks = n_files * ROWS_PER_FILE // ROWS_PER_TASK
    for index in range(n_files):
        columns = {
            "task": rng.integers(0, n_tasks, ROWS_PER_FILE),
            "row": np.arange(index * ROWS_PER_FILE, (index + 1) * ROWS_PER_FILE),
            "y": rng.standard_normal(ROWS_PER_FILE),
        }
        for j in range(N_FEATURES):
            columns[f"x{j}"] = rng.standard_normal(ROWS_PER_FILE)
        table = pa.table(columns)
        pq.write_table(table, folder / f"part-{index:05d}.parquet", row_group_size=65_536)
    return n_files * ROWS_PER_FILE


def duckdb_sort(folder: Path, scratch: Path, limit: int) -> Account:
    """DuckDB: one ORDER BY, spilling to disk."""
    import duckdb

    con = duckdb.connect()
    con.execute(f"SET memory_limit = '{int(0.5 * limit)}B'")
    con.execute(f"SET temp_directory = '{scratch}'")
    con.execute("SET threads = 2")
    query = f"SELECT * FROM read_parquet('{folder}/*.parquet') ORDER BY task, row"
    account = Account()
    for batch in con.sql(query).to_arrow_reader(65_536):
        _account_batch(account, batch)
    return account


def polars_sort(folder: Path, scratch: Path, limit: int) -> Account:
    """Polars: streaming sort, with its memory budget for spilling set."""
    os.environ["POLARS_TEMP_DIR"] = str(scratch)
    os.environ["POLARS_OOC_MEMORY_BUDGET_MB"] = str(int(0.5 * limit) >> 20)
    os.environ["POLARS_MAX_THREADS"] = "2"
    import polars as pl

    out = scratch / "sorted.parquet"
    frame = pl.scan_parquet(folder / "*.parquet").sort("task", "row")
    frame.sink_parquet(out, compression="uncompressed", row_group_size=65_536, engine="streaming")
    account = Account()
    for batch in pq.ParquetFile(out).iter_batches(65_536):
        _account_batch(account, batch)
    return account


def p2p_shuffle(folder: Path, scratch: Path, limit: int) -> Account:
    """Dask: P2P shuffle to partitions by a hash of the task; each is then sorted in memory.

    Tasks come together but not in order: a store in the order of its ids needs one step more.
    """
    import dask
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    settings = {
        "dataframe.shuffle.method": "p2p",
        "temporary-directory": str(scratch),
        # as they come (1 GiB and 100 MiB) the worker pauses for good under such a limit
        "distributed.p2p.comm.buffer": "64 MiB",
        "distributed.p2p.storage.buffer": "64 MiB",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            # the client, the scheduler and the nanny take about 250 MiB of the limit
            memory_limit=int(0.7 * limit),
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster),
    ):
        frame = dd.read_parquet(folder, split_row_groups=True)
        frame = frame.shuffle("task", npartitions=frame.npartitions * 2)
        parts = frame.map_partitions(
            _account_partition, meta={"rows": "int64", "checksum": "uint64"}
        ).compute()
    return Account(int(parts["rows"].sum()), int(parts["checksum"].sum()) % (1 << 64), False)


def range_buckets(folder: Path, scratch: Path, limit: int) -> Account:
    """pyarrow and numpy: rows to files by ranges of the task, each sorted in memory."""
    dataset = ds.dataset(folder)
    keys = np.concatenate(
        [batch["task"].to_numpy()[::64] for batch in dataset.to_batches(["task"])]
    )
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    n_buckets = max(int(n_bytes * 6 / limit), 1)
    cuts = np.quantile(keys, np.linspace(0, 1, n_buckets + 1)[1:-1]).astype(np.int64)
    _write_buckets(dataset, scratch, cuts)
    account = Account()
    for index in range(n_buckets):
        table = pa.ipc.open_file(pa.memory_map(str(scratch / f"{index}.arrow"))).read_all()
        order = np.lexsort((table["row"].to_numpy(), table["task"].to_numpy()))
        for start in range(0, len(order), 65_536):
            for batch in table.take(order[start : start + 65_536]).combine_chunks().to_batches():
                _account_batch(account, batch)
    return account


CANDIDATES = {
    "duckdb": duckdb_sort,
    "polars": polars_sort,
    "p2p": p2p_shuffle,
    "buckets": range_buckets,
}


def _write_buckets(dataset: ds.Dataset, scratch: Path, cuts: np.ndarray) -> None:
    writers = [
        pa.ipc.new_file(str(scratch / f"{index}.arrow"), dataset.schema)
        for index in range(len(cuts) + 1)
    ]
    scanner = dataset.scanner(batch_size=65_536, batch_readahead=1, fragment_readahead=1)
    for batch in scanner.to_batches():
        bucket = np.searchsorted(cuts, batch["task"].to_numpy(), side="right")
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(len(writers) + 1))
        rows = batch.take(pa.array(order))
        for index, writer in enumerate(writers):
            writer.write_batch(rows.slice(ends[index], ends[index + 1] - ends[index]))
    for writer in writers:
        writer.close()


def _account_batch(account: Account, batch: pa.RecordBatch) -> None:
    account.add(*(batch[name].to_numpy() for name in ("task", "row", "y")))


def _account_partition(part: pd.DataFrame) -> pd.DataFrame:
    part = part.sort_values(["task", "row"])
    account = Account()
    account.add(*(part[name].to_numpy() for name in ("task", "row", "y")))
    return pd.DataFrame(
        {"rows": [account.rows], "checksum": np.array([account.checksum], dtype=np.uint64)}
    )


def _truth(folder: Path) -> Account:
    account = Account()
    for batch in ds.dataset(folder).to_batches(["task", "row", "y"]):
        _account_batch(account, batch)
    return account


def measure(names: Iterable[str], n_bytes: int, limit: int, scratch: Path) -> Iterator[dict]:
    """Run each candidate in a process of its own."""
    folder = scratch / "input"
    make_folder(folder, n_bytes)
    truth = _truth(folder)
    for name in names:
        work = scratch / name
        work.mkdir()
        command = [
            sys.executable,
            "-m",
            __spec__.name,
            "--run",
            name,
            str(folder),
            str(work),
            str(limit),
        ]
        usage = run_limited(command, limit=limit, watch=work, timeout=400)
        shutil.rmtree(work)
        row = {
            "candidate": name,
            "seconds": round(usage.seconds, 1),
            "peak_rss": format_bytes(usage.peak_rss),
            "temporary_disk": format_bytes(usage.peak_disk),
            "limit": f"{format_bytes(limit)} ({usage.enforced})",
            "oom_kills": usage.oom_kills,
        }
        if usage.returncode:
            last = (usage.stderr.strip().splitlines() or ["killed"])[-1]
            yield row | {"completes": False, "why": last[:200]}
            continue
        got = json.loads(usage.stdout.strip().splitlines()[-1])
        if (got["rows"], got["checksum"]) != (truth.rows, truth.checksum):
            raise SystemExit(f"{name} lost or changed rows: {got}, wanted {asdict(truth)}")
        yield row | {"completes": True, "rows": got["rows"], "in order": got["ordered"]}


def main() -> None:
    """Print one JSON line for each candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.2, help="size of the Parquet folder")
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--scratch", default=None, help="folder for the input and the spill")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, folder, work, limit = arguments.run
        account = CANDIDATES[name](Path(folder), Path(work), int(limit))
        print(json.dumps(asdict(account)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        rows = measure(
            arguments.candidates,
            int(arguments.gigabytes * 1e9),
            parse_bytes(arguments.limit),
            Path(scratch),
        )
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
