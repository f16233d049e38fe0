"""Rows written in parts, in any order and more than once, are one table."""

import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskmlr.errors import (
    IncompleteStoreError,
    InputError,
    NoSpaceError,
    PathExistsError,
    StoreError,
)
from daskmlr.storage import rows
from daskmlr.storage.rows import (
    abandon_rows,
    finish_rows,
    read_column,
    start_rows,
    write_rows_part,
)
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
        f"part-000000{i}.parquet" for i in range(3)
    ]
    same(pd.read_parquet(tmp_path / "r.parquet"), expected(n))
    same(pyarrow.dataset.dataset(tmp_path / "r.parquet").to_table().to_pandas(), expected(n))


def test_the_order_of_many_parts_is_that_of_their_names():
    names = [rows._part(part) for part in (0, 9, 10, 99_999, 100_000, 1_234_567)]
    assert names == sorted(names)


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
    # chunks equal to the fill value too, so that one that is missing is one that was lost
    for array in group.array_values():
        assert array.nchunks_initialized == array.nchunks
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
        with pytest.raises(StoreError, match="is a table of tasks, a task store is wanted") as e:
            open_tasks(tmp_path / "r.zarr")
        assert not isinstance(e.value, IncompleteStoreError)


def test_staging_is_a_hidden_sibling(tmp_path):
    staging = Path(start_rows(tmp_path / "r.parquet"))
    assert staging.parent == tmp_path
    assert staging.name.startswith(".r.parquet.staging-")


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
def test_a_part_written_again_replaces_itself(tmp_path, suffix):
    out = tmp_path / f"r{suffix}"
    staging = start_rows(out)
    for part, start in [(0, 90), (1, 90), (1, 3), (0, 0)]:
        write_rows_part(staging, part, [batch(start, start + 3)])
    finish_rows(staging, out, 2)
    same(pd.read_parquet(out) if suffix == ".parquet" else read_zarr(out), expected(6))


def test_an_attempt_that_fails_leaves_the_part_as_it_was(tmp_path):
    staging = start_rows(tmp_path / "r.parquet")
    write_rows_part(staging, 0, [batch(0, 5)])

    def failing():
        yield batch(7, 9)
        raise RuntimeError("the worker died")

    for part in (0, 1):
        with pytest.raises(RuntimeError, match="the worker died"):
            write_rows_part(staging, part, failing())
    assert [entry.name for entry in Path(staging).iterdir()] == ["part-0000000.parquet"]
    finish_rows(staging, tmp_path / "r.parquet", 1)
    same(pd.read_parquet(tmp_path / "r.parquet"), expected(5))


def test_abandon_leaves_nothing_and_late_parts_fail(tmp_path):
    staging = start_rows(tmp_path / "r.parquet")
    write_rows_part(staging, 0, [batch(0, 2)])
    for _ in range(2):
        abandon_rows(staging)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(FileNotFoundError):
            write_rows_part(staging, 1, [batch(0, 2)])


def test_wide_columns_of_any_shape_and_layout(tmp_path):
    staging = start_rows(tmp_path / "r.parquet")
    cube = np.arange(12.0).reshape(2, 3, 2)
    write_rows_part(staging, 0, [{"c": cube, "s": np.asfortranarray(cube[:, :, 0])}])
    finish_rows(staging, tmp_path / "r.parquet", 1)
    frame = pd.read_parquet(tmp_path / "r.parquet")
    np.testing.assert_array_equal(frame.filter(like="c_"), cube.reshape(2, 6))
    np.testing.assert_array_equal(frame.filter(like="s_"), cube[:, :, 0])


def test_batches_are_held_one_at_a_time(tmp_path):
    alive = []

    def batches():
        for start in range(0, 50_000, 1000):
            yield {"v": (values := np.arange(start, start + 1000.0))}
            alive.append(weakref.ref(values))
            assert sum(ref() is not None for ref in alive) <= 2

    write_rows_part(start_rows(tmp_path / "r.parquet"), 0, batches())
    assert len(alive) == 50


def test_publishing_zarr_holds_few_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ZARR_CHUNK", 10_000)
    staging = start_rows(tmp_path / "r.zarr")
    for part in range(40):
        values = np.random.default_rng(part).normal(size=20_001)
        write_rows_part(staging, part, [{"v": values}])
    held = []
    real = rows._regrouped

    def watched(*arguments):
        for table in real(*arguments):
            held.append(pa.total_allocated_bytes())
            yield table

    monkeypatch.setattr(rows, "_regrouped", watched)
    before = pa.total_allocated_bytes()
    finish_rows(staging, tmp_path / "r.zarr", 40)
    assert len(held) == 81
    assert max(held) - before < 40 * 20_001 * 8 / 5  # a fifth of the table


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
def test_a_full_disk(small_disk, suffix):
    out = small_disk / f"r{suffix}"
    staging = start_rows(out)
    noise = np.random.default_rng(0).normal(size=(20, 50_000))
    with pytest.raises(NoSpaceError, match="no space left on the disk while writing"):
        write_rows_part(staging, 0, ({"v": values} for values in np.tile(noise, (2, 1))))
    # parts that fit, but not twice: a Zarr group is written beside them
    write_rows_part(staging, 0, ({"v": values} for values in noise[:12]))
    if suffix == ".zarr":
        with pytest.raises(NoSpaceError, match=f"while writing {out}"):
            finish_rows(staging, out, 1)
    abandon_rows(staging)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
@pytest.mark.parametrize("at_once", [3, 100])
def test_a_column_is_read_back_in_order(tmp_path, suffix, at_once, monkeypatch):
    out = tmp_path / f"t{suffix}"
    n = write(out, [5, 11, 4], order=[2, 0, 1])
    monkeypatch.setattr(rows, "ZARR_CHUNK", at_once)
    parts = list(read_column(out, "posterior_1"))
    assert max(map(len, parts)) <= at_once
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(n) / 7)
    with pytest.raises(StoreError, match=r"no column 'p_value' in .*: it has task, label"):
        next(read_column(out, "p_value"))
