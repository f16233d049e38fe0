"""Ingest of an input larger than the memory it may use: the benchmark, in small."""

import sys

import pandas as pd
import pytest
from dask.utils import parse_bytes

from daskmlr import ingest, open_tasks
from tests.benchmarks.ingest_memory import ingest_limited, make_sorted, make_unsorted, same_files
from tests.benchmarks.limited import run_limited

# of which Python and the blocks take 308 MiB, so that the sort cannot stay in memory
LIMIT = parse_bytes("440MB")
N_BYTES = parse_bytes("100MB")


@pytest.fixture(scope="module")
def unsorted(tmp_path_factory):
    """A folder of Parquet files."""
    folder = tmp_path_factory.mktemp("large") / "unsorted"
    make_unsorted(folder, N_BYTES)
    return folder


def test_memory_is_bounded_and_the_order_of_the_input_does_not_show(tmp_path, unsorted):
    make_sorted(unsorted, tmp_path / "sorted", tmp_path / "spill")
    for folder in (unsorted, tmp_path / "sorted"):
        used = ingest_limited(folder, tmp_path / f"{folder.name}.daskmlr", LIMIT, timeout=60)
        assert used["oom_kills"] == 0
        assert parse_bytes(used["peak_memory"]) <= LIMIT
        assert parse_bytes(used["temporary_disk"]) > 0
    n_rows = len(pd.read_parquet(unsorted, columns=["delay"]))
    assert open_tasks(tmp_path / "unsorted.daskmlr").n_rows == n_rows
    same_files(tmp_path / "unsorted.daskmlr", tmp_path / "sorted.daskmlr")


def test_an_append_is_held_to_its_memory_too(tmp_path, unsorted):
    some = pd.read_parquet(next(iter(unsorted.iterdir()))).head(1000)
    columns = {"task": "aircraft", "target": "delay"}
    ingest(some.assign(aircraft=-1), tmp_path / "t", block_bytes=16 << 20, **columns)
    spill = tmp_path / "spill"
    spill.mkdir()
    command = [
        *(sys.executable, "-m", "daskmlr", "append", str(tmp_path / "t"), str(unsorted), "--json"),
        *("--memory-limit", str(LIMIT), "--temporary-directory", str(spill)),
    ]
    used = run_limited(command, limit=LIMIT, watch=spill, timeout=60)
    assert (used.returncode, used.oom_kills) == (0, 0), used.stderr
    assert used.peak_rss <= LIMIT
    assert used.peak_disk > 0
    assert list(spill.iterdir()) == []
    n_rows = 1000 + len(pd.read_parquet(unsorted, columns=["delay"]))
    assert open_tasks(tmp_path / "t").n_rows == n_rows
