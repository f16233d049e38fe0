"""Rows written in parts, in any order and more than once, are one table."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskmlr.errors import IncompleteStoreError, InputError, PathExistsError, StoreError
from daskmlr.storage import rows
from daskmlr.storage.rows import abandon_rows, finish_rows, start_rows, write_rows_part
from daskmlr.storage.tasks import open_tasks


def batch(start, stop):
    values = np.arange(start, stop)
    return {
        "task": np.array([f"N{i}" for i in values], dtype=object),
        "label": values.astype(np.int32) % 3,
        "posterior": np.stack([values / 10, values / 7, values / 3], axis=1),
        "odd": values % 2 == 1,
    }


def expected(n):
    flat = batch(0, n)
    wide = flat.pop("posterior")
    frame = pd.DataFrame(flat)
    for j in range(3):
        frame.insert(2 + j, f"posterior_{j}", wide[:, j])
    return frame


def write(out, lengths, order=None):
    """Parts of given lengths, each in batches of at most 4 rows, written in `order`."""
    staging = start_rows(out)
    ends = np.cumsum([0, *lengths])
    for part in order or range(len(lengths)):
        cuts = [*range(ends[part], ends[part + 1], 4), ends[part + 1]]
        write_rows_part(staging, part, (batch(a, b) for a, b in pairwise(cuts)))
    finish_rows(staging, out, len(lengths))
    return int(ends[-1])


def read_zarr(out):
    group = zarr.open_group(out, mode="r")
    return pd.DataFrame({n: group[n][:] for n in group.attrs["daskmlr"]["columns"]})


def same(got, want):
    pd.testing.assert_frame_equal(got, want, check_dtype=False)
    for name in want:
        assert got[name].dtype.kind == want[name].dtype.kind or name == "task"


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0, 2, 0]])
def test_parquet(tmp_path, order):
    n = write(tmp_path / "r.parquet", [5, 1, 9], order)
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]
    assert sorted(p.name for p in (tmp_path / "r.parquet").iterdir()) == [
        f"part-0000{i}.parquet" for i in range(3)
    ]
    same(pd.read_parquet(tmp_path / "r.parquet"), expected(n))


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    chunk=st.integers(1, 15),
)
def test_zarr(tmp_path_factory, lengths, chunk):
    out = tmp_path_factory.mktemp("rows") / "r.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "ZARR_CHUNK", chunk)
        n = write(out, lengths)
    same(read_zarr(out), expected(n))
    group = zarr.open_group(out, mode="r")
    assert group["label"].chunks == (min(chunk, n),)
    assert group["label"].dtype == np.int32
    assert group["odd"].dtype == np.bool_
    assert type(group["task"].metadata.codecs[-1]).__name__ == "Crc32cCodec"


def test_zarr_chunks_of_a_wide_table_are_short(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ZARR_BYTES", 16_000)
    staging = start_rows(tmp_path / "r.zarr")
    wide = np.random.default_rng(0).normal(size=(500, 20))
    write_rows_part(staging, 0, [{"w": wide}])
    finish_rows(staging, tmp_path / "r.zarr", 1)
    group = zarr.open_group(tmp_path / "r.zarr", mode="r")
    assert 20 <= group["w_0"].chunks[0] <= 100
    np.testing.assert_array_equal(group["w_19"][:], wide[:, 19])


def test_missing_parts_are_listed(tmp_path):
    staging = start_rows(tmp_path / "r.parquet")
    write_rows_part(staging, 1, [batch(0, 3)])
    with pytest.raises(StoreError, match=r"3 of 4 parts of .*r\.parquet are missing: \[0, 2, 3\]"):
        finish_rows(staging, tmp_path / "r.parquet", 4)
    assert not (tmp_path / "r.parquet").exists()
    abandon_rows(staging)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_is_not_there(tmp_path):
    staging = start_rows(tmp_path / "r.parquet")

    def fail_on_the_second():
        yield batch(0, 3)
        raise RuntimeError("the function failed")

    with pytest.raises(RuntimeError, match="the function failed"):
        write_rows_part(staging, 0, fail_on_the_second())
    with pytest.raises(StoreError, match=r"missing: \[0\]"):
        finish_rows(staging, tmp_path / "r.parquet", 1)
    write_rows_part(staging, 0, [batch(0, 5)])
    finish_rows(staging, tmp_path / "r.parquet", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]
    assert len(pq.read_table(tmp_path / "r.parquet")) == 5


class TestRefusals:
    def test_exists(self, tmp_path):
        (tmp_path / "r.parquet").mkdir()
        with pytest.raises(PathExistsError, match=r"r\.parquet exists"):
            start_rows(tmp_path / "r.parquet")

    def test_comes_to_exist(self, tmp_path):
        staging = start_rows(tmp_path / "r.parquet")
        write_rows_part(staging, 0, [batch(0, 3)])
        (tmp_path / "r.parquet").mkdir()
        with pytest.raises(PathExistsError, match=r"r\.parquet exists"):
            finish_rows(staging, tmp_path / "r.parquet", 1)

    @pytest.mark.parametrize("name", ["r.csv", "r"])
    def test_suffix(self, tmp_path, name):
        with pytest.raises(InputError, match=rf"in \.parquet or \.zarr, got .*{name}"):
            start_rows(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("other", "match"),
        [
            ({"a": np.zeros(2)}, "column 'a' is int64 in .* but double in"),
            ({"b": np.zeros(2, int)}, "column 'a' is int64 in .* but absent in"),
            ({"a": np.zeros(2, int), "b": np.zeros(2)}, "column 'b' is absent in .* but double in"),
        ],
    )
    def test_columns_that_change(self, tmp_path, other, match):
        first = {"a": np.zeros(2, int)}
        staging = start_rows(tmp_path / "r.zarr")
        with pytest.raises(InputError, match=match + " the next"):
            write_rows_part(staging, 0, [first, other])
        write_rows_part(staging, 0, [first])
        write_rows_part(staging, 1, [other])
        with pytest.raises(InputError, match=match + " part 1 of"):
            finish_rows(staging, tmp_path / "r.zarr", 2)
        assert not (tmp_path / "r.zarr").exists()

    def test_two_columns_of_one_name(self, tmp_path):
        staging = start_rows(tmp_path / "r.parquet")
        with pytest.raises(InputError, match="two columns are called 'a_0'"):
            write_rows_part(staging, 0, [{"a_0": np.zeros(2), "a": np.zeros((2, 2))}])

    def test_no_batch(self, tmp_path):
        with pytest.raises(InputError, match="part 3 has no rows"):
            write_rows_part(start_rows(tmp_path / "r.parquet"), 3, [])

    def test_a_table_is_not_a_task_store(self, tmp_path):
        write(tmp_path / "r.zarr", [3])
        with pytest.raises(StoreError, match="but a daskmlr-rows") as e:
            open_tasks(tmp_path / "r.zarr")
        assert not isinstance(e.value, IncompleteStoreError)


def test_staging_is_a_hidden_sibling(tmp_path):
    staging = Path(start_rows(tmp_path / "r.parquet"))
    assert staging.parent == tmp_path
    assert staging.name.startswith(".r.parquet.staging-")
