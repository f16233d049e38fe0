"""Ingest of an input larger than the memory it may use: the benchmark, in small."""

from dask.utils import parse_bytes

from daskmlr import open_tasks
from tests.benchmarks.ingest_memory import ingest_limited, make_sorted, make_unsorted, same_files

# of which Python and the blocks take 308 MiB, so that the sort cannot stay in memory
LIMIT = parse_bytes("440MB")
N_BYTES = parse_bytes("100MB")


def test_memory_is_bounded_and_the_order_of_the_input_does_not_show(tmp_path):
    n_rows = make_unsorted(tmp_path / "unsorted", N_BYTES)
    make_sorted(tmp_path / "unsorted", tmp_path / "sorted", tmp_path / "spill")
    for name in ("unsorted", "sorted"):
        used = ingest_limited(tmp_path / name, tmp_path / f"{name}.daskmlr", LIMIT, timeout=60)
        assert used["oom_kills"] == 0
        assert parse_bytes(used["peak_memory"]) <= LIMIT
        assert parse_bytes(used["temporary_disk"]) > 0
    assert open_tasks(tmp_path / "unsorted.daskmlr").n_rows == n_rows
    same_files(tmp_path / "unsorted.daskmlr", tmp_path / "sorted.daskmlr")
