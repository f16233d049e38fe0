"""Ingest of an input far larger than memory, measured, and compared with that of a sorted input.

    python -m tests.benchmarks.ingest_memory --gigabytes 4 --limit 1GB

writes an unsorted Parquet folder of that size and a sorted copy of it, ingests each in a process
of its own under a hard memory limit, and compares the two stores byte by byte. Prints one JSON
line for each step. The memory limit is enforced by a cgroup where one can be made, else by
sampling. Needs about four times the size of the folder on disk.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dask.utils import format_bytes, parse_bytes

from daskmlr import open_tasks
from tests.benchmarks.limited import folder_bytes, run_limited

N_FEATURES = 32
ROWS_PER_FILE = 262_144
ROWS_PER_TASK = 11
CARRIERS = np.array(["AA", "B6", "DL", "EV", "UA", "WN"])


def make_unsorted(folder: Path, n_bytes: int) -> int:
    """Write random rows, their tasks in random order, until `n_bytes` are on disk; count them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    n_tasks = max(n_bytes // (8 * (N_FEATURES + 2)) // ROWS_PER_TASK, 1)
    n_rows = written = 0
    while written < n_bytes:
        rows = min(ROWS_PER_FILE, (n_bytes - written) // (8 * (N_FEATURES + 2)) + 1)
        columns: dict[str, Any] = {
            "aircraft": rng.integers(0, n_tasks, rows),
            "carrier": pa.array(CARRIERS[rng.integers(0, len(CARRIERS), rows)]),
            "delay": rng.standard_normal(rows),
        }
        for j in range(N_FEATURES):
            columns[f"x{j}"] = rng.standard_normal(rows)
        file = folder / f"part-{n_rows:012d}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=1 << 16)
        n_rows += rows
        written += file.stat().st_size
    return n_rows


def make_sorted(unsorted: Path, folder: Path, spill: Path) -> None:
    """Write the same rows by task; those of a task keep their order."""
    folder.mkdir()
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(spill)}) as connection:
        connection.execute(
            f"COPY (SELECT * EXCLUDE (place) FROM (SELECT *, file_index * 1000000000 + "
            f"file_row_number AS place FROM read_parquet('{unsorted}/*.parquet')) "
            f"ORDER BY aircraft, place) TO '{folder}/all.parquet' (ROW_GROUP_SIZE 65536)"
        )


def ingest_limited(inputs: Path, out: Path, limit: int, timeout: float) -> dict[str, Any]:
    """Ingest in a process that may use `limit` bytes; say what it used."""
    spill = out.with_name(f"{out.name}-spill")
    spill.mkdir()
    command = [
        *(sys.executable, "-m", "daskmlr", "ingest", str(inputs), str(out)),
        *("--task", "aircraft", "--target", "delay", "--json"),
        *("--memory-limit", str(limit), "--temporary-directory", str(spill)),
    ]
    usage = run_limited(command, limit=limit, watch=spill, timeout=timeout)
    if usage.returncode:
        raise SystemExit(f"ingest failed ({usage.returncode}): {usage.stderr[-2000:]}")
    left = list(spill.iterdir())
    if left:
        raise SystemExit(f"ingest left temporary files: {left}")
    spill.rmdir()
    return {
        "seconds": round(usage.seconds, 1),
        "peak_memory": format_bytes(usage.peak_rss),
        "limit": f"{format_bytes(limit)} ({usage.enforced})",
        "oom_kills": usage.oom_kills,
        "temporary_disk": format_bytes(usage.peak_disk),
    }


def same_files(first: Path, second: Path) -> int:
    """Compare two stores byte by byte; count the files.

    Raises
    ------
    AssertionError
        Naming the first files that differ.
    """
    names = sorted(str(file.relative_to(first)) for file in first.rglob("*") if file.is_file())
    others = sorted(str(file.relative_to(second)) for file in second.rglob("*") if file.is_file())
    assert names == others, f"not the same files: {set(names) ^ set(others)}"
    _, different, unreadable = filecmp.cmpfiles(first, second, names, shallow=False)
    assert not different + unreadable, f"differ: {different + unreadable}"
    return len(names)


def measure(scratch: Path, n_bytes: int, limit: int, timeout: float) -> None:
    """Print one JSON line for each step."""
    unsorted, in_order = scratch / "unsorted", scratch / "sorted"
    start = time.perf_counter()
    n_rows = make_unsorted(unsorted, n_bytes)
    make_sorted(unsorted, in_order, scratch / "spill")
    show("made", rows=n_rows, seconds=round(time.perf_counter() - start, 1))
    for folder in (unsorted, in_order):
        used = ingest_limited(folder, scratch / f"{folder.name}.daskmlr", limit, timeout)
        show(folder.name, input=format_bytes(folder_bytes(folder)), **used)
    first, second = (scratch / f"{name}.daskmlr" for name in ("unsorted", "sorted"))
    tasks = open_tasks(first)
    tasks.validate(deep=True)
    assert tasks.n_rows == n_rows, f"{tasks.n_rows} of {n_rows} rows"
    show(
        "equal",
        files=same_files(first, second),
        store=format_bytes(folder_bytes(first)),
        tasks=tasks.n_tasks,
        blocks=tasks.n_blocks,
    )


def show(step: str, **facts: Any) -> None:
    """Print a JSON line."""
    print(json.dumps({"step": step, **facts}), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the Parquet folder")
    parser.add_argument("--limit", default="1GB")
    parser.add_argument("--scratch", default=None, help="folder for inputs, spill and stores")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each ingest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        n_bytes, limit = int(arguments.gigabytes * 1e9), parse_bytes(arguments.limit)
        measure(Path(scratch), n_bytes, limit, arguments.timeout)


if __name__ == "__main__":
    main()
