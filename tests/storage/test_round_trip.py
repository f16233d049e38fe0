"""What is written comes back, however it was cut; any Zarr reader sees the same."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskmlr.storage import layout
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import append_tasks, create_tasks

# Every example writes files: slow on a busy disk, so there is no deadline.
ON_DISK = settings(deadline=None, max_examples=20)
INTS = st.integers(-(2**63) + 1, 2**63 - 1)


@st.composite
def cut_tables(draw):
    """Ragged tasks, rows of a block, and where the calls of write() cut (twice: an empty call)."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=30))
    n = len(sizes)
    ids = draw(
        st.one_of(
            st.none(),
            st.lists(INTS, min_size=n, max_size=n, unique=True),
            st.lists(st.text(min_size=1, max_size=4), min_size=n, max_size=n, unique=True),
        )
    )
    if ids is not None and isinstance(ids[0], str):
        ids = np.array(ids, dtype=object)
    return {
        "sizes": sizes,
        "ids": ids,
        "d": draw(st.integers(1, 3)),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "rounded": draw(st.booleans()),
        "seed": draw(st.integers(0, 9)),
        "block_rows": draw(st.integers(max(sizes), sum(sizes) + 2)),
        "cuts": draw(st.lists(st.integers(0, n), max_size=5)),
    }


@ON_DISK
@given(cut_tables())
def test_any_cut_of_the_calls_gives_the_same_bytes_and_they_come_back(tasks, drawn):
    cuts, block_rows = drawn.pop("cuts"), drawn.pop("block_rows")
    table = tasks.table(**drawn)
    with tempfile.TemporaryDirectory() as folder:
        once = tasks.write(Path(folder, "once"), table, block_rows=block_rows)
        often = tasks.write(Path(folder, "often"), table, block_rows=block_rows, cuts=cuts)
        assert tasks.files(once) == tasks.files(often)
        store = open_tasks(often)
        tasks.assert_holds(store, table)
        assert store.block_tasks.tolist() == table.greedy_blocks(block_rows)
        values = np.column_stack([table.X, table.y]).astype(np.float64)
        mean = np.append(store.feature_mean, store.target_mean)
        scale = np.append(store.feature_scale, store.target_scale)
        np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(scale, values.std(axis=0), rtol=1e-12, atol=1e-12)
        store.validate(deep=True)
        _assert_plain_zarr_agrees(often, store, table)


def _assert_plain_zarr_agrees(path, store, table):
    group = zarr.open_group(path, mode="r")
    assert set(group.array_keys()) == {"x", "y", "task_size", "task_id", "block_tasks"}
    assert group["x"].shape == (store.n_blocks * store.block_rows, store.n_features)
    assert group["x"].chunks == (store.block_rows, store.n_features)
    X, y = group["x"][:], group["y"][:]
    for i, first in enumerate(store.block_tasks[:-1]):
        part = table.part(first, store.block_tasks[i + 1])
        rows = slice(i * store.block_rows, (i + 1) * store.block_rows)
        np.testing.assert_array_equal(X[rows][: len(part.y)], part.X)
        np.testing.assert_array_equal(y[rows][: len(part.y)], part.y)
        assert not X[rows][len(part.y) :].any()
        assert not y[rows][len(part.y) :].any()
    assert group["task_size"].dtype == np.int32
    assert group["task_size"][:].tolist() == table.sizes.tolist()
    assert group["task_id"][:].tolist() == table.ids.tolist()
    assert group["block_tasks"][:].tolist() == store.block_tasks.tolist()
    facts = group.attrs["daskmlr"]
    assert (facts["format_version"], facts["n_tasks"]) == (1, store.n_tasks)


@ON_DISK
@given(st.lists(cut_tables(), min_size=2, max_size=4), st.integers(0, 1))
def test_appends_begin_new_blocks_and_merge_the_moments(tasks, drawn, text):
    first, block_rows = drawn[0], max(max(part["sizes"]) for part in drawn) + 3
    tables, start = [], 0
    for part in drawn:
        ids = np.arange(start, start + len(part["sizes"]))
        ids = ids.astype(str).astype(object) if text else ids
        start += len(ids)
        options = {"d": first["d"], "dtype": first["dtype"], "seed": part["seed"]}
        tables.append(tasks.table(part["sizes"], ids=ids, **options))
    with tempfile.TemporaryDirectory() as folder:
        path = tasks.write(Path(folder, "t"), tables[0], block_rows=block_rows)
        blocks = tables[0].greedy_blocks(block_rows)
        for table, part in zip(tables[1:], drawn[1:], strict=True):
            tasks.append(path, table, cuts=part["cuts"])
            blocks += [blocks[-1] + task for task in table.greedy_blocks(block_rows)[1:]]
        whole = type(tables[0])(
            *(np.concatenate([getattr(t, f) for t in tables]) for f in ("X", "y", "sizes", "ids"))
        )
        store = open_tasks(path)
        tasks.assert_holds(store, whole)
        assert store.block_tasks.tolist() == blocks
        store.validate(deep=True)
        _assert_plain_zarr_agrees(path, store, whole)
        X = whole.X.astype(np.float64)
        np.testing.assert_allclose(store.feature_mean, X.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(store.feature_scale, X.std(axis=0), rtol=1e-12, atol=1e-12)
        assert len(store.provenance) == len(tables)


def test_appending_whole_blocks_equals_writing_them_at_once(tasks, tmp_path):
    table = tasks.table([4] * 9)
    at_once = tasks.write(tmp_path / "once", table, block_rows=12)
    grown = tasks.write(tmp_path / "grown", table.part(0, 3), block_rows=12)
    for start in (3, 6):
        tasks.append(grown, table.part(start, start + 3))
    one, other = tasks.files(at_once), tasks.files(grown)
    assert one.keys() == other.keys()
    # the group's attributes differ by provenance, and by rounding in the last digit of a mean
    assert {name for name in one if one[name] != other[name]} == {"zarr.json"}
    np.testing.assert_allclose(
        open_tasks(at_once).feature_scale, open_tasks(grown).feature_scale, rtol=1e-14
    )


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12])
def test_a_block_exactly_full(tasks, tmp_path, sizes):
    table = tasks.table(sizes)
    store = open_tasks(tasks.write(tmp_path / "t", table, block_rows=12))
    assert (store.n_blocks, store.block_rows) == (1, 12)
    tasks.assert_holds(store, table)
    store.validate(deep=True)


def test_blocks_of_one_task_of_one_row(tasks, tmp_path):
    table = tasks.table([1] * 5, d=1)
    store = open_tasks(tasks.write(tmp_path / "t", table, block_rows=1))
    assert store.n_blocks == 5
    tasks.assert_holds(store, table)


def test_a_small_store_is_small_to_read_and_can_be_appended_to(tasks, tmp_path):
    table = tasks.table([2, 3])
    path = tasks.write(tmp_path / "t", table)
    store = open_tasks(path)
    assert store.block_rows * 4 * 8 < layout.BLOCK_BYTES / 32
    assert sum(map(len, tasks.files(path).values())) < 2 << 20
    larger = tasks.table([100, 1000], ids=[5, 6])  # much larger than the first tasks
    tasks.append(path, larger)
    assert open_tasks(path).task_sizes().tolist() == [2, 3, 100, 1000]


def test_the_defaults_fill_blocks_of_the_documented_size(tasks, tmp_path):
    row_bytes = 4 * 8
    rows = layout.BLOCK_BYTES // row_bytes
    store = open_tasks(tasks.write(tmp_path / "t", tasks.table([rows // 2] * 3)))
    assert (store.block_rows, store.n_blocks) == (rows, 2)


@pytest.mark.parametrize("text", [False, True])
def test_per_task_arrays_of_several_chunks(tasks, tmp_path, text):
    n = layout.TASK_CHUNK * 2 + 17
    ids = np.arange(n)
    table = tasks.table([1] * n, d=1, ids=ids.astype(str).astype(object) if text else ids)
    first = layout.TASK_CHUNK - 3
    path = tasks.write(tmp_path / "t", table.part(0, first), cuts=[1, 7000], block_rows=40_000)
    tasks.append(path, table.part(first, first + 3))  # to the very end of the chunk
    tasks.append(path, table.part(first + 3, n), cuts=[50_000])
    store = open_tasks(path)
    tasks.assert_holds(store, table)
    edge = layout.TASK_CHUNK
    assert store.task_ids(edge - 2, edge + 2).tolist() == table.ids[edge - 2 : edge + 2].tolist()
    store.validate(deep=True)


def test_block_tasks_of_several_chunks(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_CHUNK", 8)
    n = 2 * layout.BLOCK_CHUNK - 1
    table = tasks.table([1] * (n + 3), d=1)
    path = tasks.write(tmp_path / "t", table.part(0, n), block_rows=1)
    tasks.append(path, table.part(n, n + 3))
    store = open_tasks(path)
    assert store.block_tasks.tolist() == list(range(n + 4))
    assert store.read_block(n + 1).y[0] == table.y[n + 1]


def test_slices_of_tasks_are_those_of_a_sequence(tasks, tmp_path):
    table = tasks.table([2, 1, 3], ids=["a", "b", "c"])
    store = open_tasks(tasks.write(tmp_path / "t", table))
    for piece in [(0, None), (1, 2), (-2, None), (0, -1), (2, 99), (2, 1), (3, 3), (99, None)]:
        assert store.task_ids(*piece).tolist() == table.ids.tolist()[slice(*piece)]
        assert store.task_sizes(*piece).tolist() == table.sizes.tolist()[slice(*piece)]


@pytest.mark.parametrize("index", [-1, 2])
def test_no_such_block(tasks, tmp_path, index):
    store = open_tasks(tasks.write(tmp_path / "t", tasks.table([2, 2]), block_rows=2))
    with pytest.raises(IndexError, match=f"block {index}"):
        store.read_block(index)


def test_the_callers_arrays_may_be_used_again(tasks, tmp_path):
    table = tasks.table([1] * 50)
    X, y, sizes, ids = np.empty((1, 3)), np.empty(1), np.array([1]), np.empty(1, dtype=np.int64)
    with create_tasks(tmp_path / "t", feature_names=["a", "b", "c"]) as writer:
        for i in range(50):
            X[0], y[0], ids[0] = table.X[i], table.y[i], table.ids[i]
            writer.write(X, y, sizes, ids)
    tasks.assert_holds(open_tasks(tmp_path / "t"), table)


def test_any_layout_and_dtype_of_numbers(tasks, tmp_path):
    table = tasks.table([3, 4], rounded=True)
    y = table.y.round() + 0.0
    variants = [
        (np.asfortranarray(table.X), y),
        (table.X.astype(">f8"), y.astype(">f4")),
        (table.X.astype(np.int8), y.astype(np.float16)),
        (table.X.tolist(), y.tolist()),
        (np.repeat(table.X, 2, axis=1)[:, ::2], y[::-1].copy()[::-1]),
        (table.X.astype(np.longdouble), y.astype(np.int64)),
    ]
    for i, (X, target) in enumerate(variants):
        with create_tasks(tmp_path / f"{i}", feature_names=["a", "b", "c"]) as writer:
            writer.write(X, target, [3, 4])
        assert tasks.files(tmp_path / f"{i}") == tasks.files(tmp_path / "0")
    tasks.assert_holds(open_tasks(tmp_path / "0"), type(table)(table.X, y, table.sizes, table.ids))


def test_integers_and_booleans_are_numbers(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a"], dtype="float32") as writer:
        writer.write(np.array([[True], [False]]), np.array([3, 4], dtype=np.uint8), [1, 1])
    block = open_tasks(tmp_path / "t").read_block(0)
    assert (block.X.tolist(), block.y.tolist()) == ([[1.0], [0.0]], [3.0, 4.0])


def test_ids_by_default_count_on(tasks, tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a"]) as writer:
        for _ in range(3):
            writer.write([[1.0], [2.0]], [1.0, 2.0], [1, 1])
    with append_tasks(tmp_path / "t") as writer:
        writer.write([[1.0]], [1.0], [1])
        writer.write([[1.0]], [1.0], [1])
    assert open_tasks(tmp_path / "t").task_ids().tolist() == list(range(8))


@pytest.mark.parametrize("kind", ["list", "object", "U", "StringDType"])
def test_string_ids_of_any_kind_come_back_as_str(tmp_path, kind):
    ids = ["ann", "Zoë", "日本", " "]
    given_ids = {
        "list": ids,
        "object": np.array(ids, dtype=object),
        "U": np.array(ids),
        "StringDType": np.array(ids, dtype=np.dtypes.StringDType()),
    }[kind]
    with create_tasks(tmp_path / "t", feature_names=["a"]) as writer:
        writer.write(np.ones((4, 1)), np.ones(4), [1, 1, 1, 1], given_ids)
    found = open_tasks(tmp_path / "t").task_ids()
    assert found.tolist() == ids
    assert all(type(key) is str for key in found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_and_scale_far_from_zero(tasks, tmp_path, dtype):
    rng = np.random.default_rng(3)
    spread = 2.0 if dtype == "float32" else 1e-3
    X = (1e6 + spread * rng.normal(size=(5000, 2))).astype(dtype)
    y = (-1e6 + spread * rng.normal(size=5000)).astype(dtype)
    table = type(tasks.table([1]))(X, y, np.full(500, 10), np.arange(500))
    path = tasks.write(tmp_path / "t", table.part(0, 200), block_rows=90)
    tasks.append(path, table.part(200, 500))
    store = open_tasks(path)
    exact = np.column_stack([X, y]).astype(np.float64)
    mean = np.append(store.feature_mean, store.target_mean)
    scale = np.append(store.feature_scale, store.target_scale)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(scale, (exact - exact.mean(axis=0)).std(axis=0), rtol=1e-8)


def test_a_constant_feature_has_scale_zero(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a"], block_bytes=16 * 3) as writer:
        writer.write(np.full((9, 1), 0.1), np.arange(9.0), [3, 3, 3])
    assert open_tasks(tmp_path / "t").feature_scale[0] == pytest.approx(0, abs=1e-15)


def test_names_and_facts_come_back(tmp_path):
    facts = {"columns": ["a"], "deep": {"n": 1, "none": None}}
    with create_tasks(
        tmp_path / "t",
        feature_names=["carrier=UA", "Größe"],
        target_name="delay",
        task_name="aircraft",
        encoding=facts,
        provenance={"from": "a table"},
    ) as writer:
        writer.write([[1.0, 2.0]], [3.0], [1])
    with append_tasks(tmp_path / "t", provenance={"from": "another"}) as writer:
        writer.write([[1.0, 2.0]], [3.0], [1], [7])
    store = open_tasks(tmp_path / "t")
    assert store.feature_names == ("carrier=UA", "Größe")
    assert (store.target_name, store.task_name) == ("delay", "aircraft")
    assert store.encoding == facts
    assert store.provenance == [{"from": "a table"}, {"from": "another"}]
    assert store.nbytes == 2 * 3 * 8
    assert store.nbytes_stored > 0
    assert repr(tmp_path / "t")[11:-2] in repr(store)
    assert "2 tasks, 2 examples, 2 features, float64" in repr(store)
