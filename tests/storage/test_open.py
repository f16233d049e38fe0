"""What opens as a task store and what does not; opened once per process; pickled by path."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from daskmlr.errors import DamagedStoreError, IncompleteStoreError, StoreError
from daskmlr.storage.groups import save_group
from daskmlr.storage.tasks import open_tasks


@pytest.fixture
def store_path(tasks, tmp_path):
    return tasks.write(tmp_path / "t", tasks.table([2, 3, 1, 2]), block_rows=4)


def edit_facts(path, **changes):
    document = json.loads((path / "zarr.json").read_text())
    facts = document["attributes"]["daskmlr"]
    for name, value in changes.items():
        if value is None:
            del facts[name]
        else:
            facts[name] = value
    (path / "zarr.json").write_text(json.dumps(document))


def refused(path, match, kind=StoreError):
    with pytest.raises(kind, match=match) as caught:
        open_tasks(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)


def test_nothing_there(tmp_path):
    refused(tmp_path / "nothing", "does not exist")


def test_a_folder_of_something(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    refused(tmp_path, "is not a Zarr v3 group")


def test_a_file(tmp_path):
    (tmp_path / "table.csv").write_text("a,b")
    refused(tmp_path / "table.csv", "is a file")


def test_a_model(tmp_path):
    save_group(tmp_path / "m", kind="daskmlr-model", version=1, arrays={"a": np.ones(2)}, facts={})
    refused(tmp_path / "m", "is a model, a task store is wanted: write one with")


def test_a_zarr_array(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(3,), dtype="f8")
    refused(tmp_path / "a", "not a task store")


@pytest.mark.parametrize("attrs", [{}, {"title": "elevation"}, {"daskmlr": 3}])
def test_another_zarr_group(tmp_path, attrs):
    group = zarr.create_group(tmp_path / "g", attributes=attrs)
    group.create_array("elevation", shape=(3,), dtype="f8")
    refused(tmp_path / "g", "some other Zarr group")


def test_a_group_whose_attributes_were_never_written(store_path):
    document = json.loads((store_path / "zarr.json").read_text())
    document["attributes"] = {}
    (store_path / "zarr.json").write_text(json.dumps(document))
    refused(store_path, "writer was stopped before it published", IncompleteStoreError)


def test_a_group_that_was_only_begun(tmp_path):
    zarr.create_group(tmp_path / "g")
    refused(tmp_path / "g", "writer was stopped before it published", IncompleteStoreError)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version(store_path, version):
    edit_facts(store_path, format_version=version)
    refused(store_path, f"format version {version}, this daskmlr reads 1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_tasks", None),
        ("n_rows", -3),
        ("n_blocks", "2"),
        ("block_rows", 0),
        ("dtype", "int8"),
        ("codec", "snappy"),
        ("feature_names", 7),
        ("feature_names", ["a"]),
        ("feature_mean", [1.0]),
        ("feature_scale", "wide"),
    ],
)
def test_attributes_that_no_writer_wrote(store_path, name, value):
    edit_facts(store_path, **{name: value})
    refused(store_path, f"no usable attributes .*'?{'feature_' if 'feature' in name else name}")


@pytest.mark.parametrize(
    "garbage", [b"", b'{"zarr_format": 3, "node', b"\xff\xfe\x00", b"[]", b"7"]
)
def test_metadata_of_the_group_cut_short_or_garbage(store_path, garbage):
    (store_path / "zarr.json").write_bytes(garbage)
    refused(store_path, "not a task store")


@pytest.mark.parametrize("garbage", [b"", b'{"zarr_format": 3, "node', b"\xff\xfe\x00", b"{}"])
@pytest.mark.parametrize("name", ["x", "y", "task_size", "task_id", "block_tasks"])
def test_metadata_of_an_array_cut_short_or_garbage(store_path, name, garbage):
    (store_path / name / "zarr.json").write_bytes(garbage)
    store = open_tasks(store_path)
    with pytest.raises(StoreError, match=f"{store_path}/{name}"):
        store.validate()
    with pytest.raises(StoreError, match=f"{store_path}/{name}"):
        _ = store.read_block(0), store.task_ids()


@pytest.mark.parametrize("name", ["x", "y", "task_size", "task_id", "block_tasks"])
@pytest.mark.parametrize("what", ["gone", "no metadata", "shorter", "other dtype", "other chunks"])
def test_an_array_that_is_not_the_one_the_attributes_speak_of(store_path, name, what):
    folder = store_path / name
    document = json.loads((folder / "zarr.json").read_text())
    if what == "shorter":
        document["shape"][0] -= 1
    if what == "other dtype":
        document["data_type"] = {"x": "float32", "y": "float32"}.get(name, "uint16")
        document["fill_value"] = 0
    if what == "other chunks":
        document["chunk_grid"]["configuration"]["chunk_shape"][0] += 1
    (folder / "zarr.json").write_text(json.dumps(document))
    if what == "gone":
        shutil.rmtree(folder)
    if what == "no metadata":
        (folder / "zarr.json").unlink()
    with pytest.raises(DamagedStoreError, match=f"{store_path}/{name} "):
        open_tasks(store_path).validate()


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"n_rows": 9}, "task_size adds up to 8, not 9"),
        ({"n_tasks": 3}, "block_tasks does not cut 3 tasks"),
        ({"n_blocks": 1}, "block_tasks does not cut 4 tasks"),
    ],
)
def test_counts_that_do_not_fit_the_arrays(store_path, facts, match):
    edit_facts(store_path, **facts)
    with pytest.raises(DamagedStoreError, match=match):
        open_tasks(store_path).validate()


@pytest.mark.parametrize(
    ("sizes", "match"), [([9, 1, 1, 1], "block 0 9 rows"), ([0, 4, 2, 2], "0")]
)
def test_sizes_that_do_not_fit_the_blocks(tasks, tmp_path, sizes, match):
    path = tasks.write(tmp_path / "t", tasks.table([4, 4, 2, 2]), block_rows=4)
    zarr.open_array(path / "task_size", mode="r+")[:] = sizes
    for act in (lambda store: store.validate(), lambda store: store.read_block(0)):
        with pytest.raises(DamagedStoreError, match=f"task_size gives {match}|in tasks of {match}"):
            act(open_tasks(path))


def test_opened_once_per_process_until_it_changes(tasks, store_path, monkeypatch):
    store = open_tasks(store_path)
    assert open_tasks(store_path) is store
    assert open_tasks(str(store_path)) is store
    monkeypatch.chdir(store_path.parent)
    assert open_tasks("t") is store
    for count in range(5, 15):  # faster than the clock of many file systems
        tasks.append(store_path, tasks.table([1], ids=[count]))
        assert open_tasks(store_path).n_tasks == count
    assert store.n_tasks == 4
    assert store.task_sizes().tolist() == [2, 3, 1, 2]  # what it saw when it was opened
    assert store.read_block(0).n_tasks == 1


def test_an_append_within_one_tick_of_the_clock_is_noticed(tasks, store_path):
    assert open_tasks(store_path).n_tasks == 4
    tick = (store_path / "zarr.json").stat().st_mtime_ns
    tasks.append(store_path, tasks.table([1], ids=[9]))
    os.utime(store_path / "zarr.json", ns=(tick, tick))
    assert open_tasks(store_path).n_tasks == 5


def test_a_store_written_again_under_the_same_name_is_opened_anew(tasks, store_path):
    assert open_tasks(store_path).n_tasks == 4
    shutil.rmtree(store_path)
    tasks.write(store_path, tasks.table([1]))
    assert open_tasks(store_path).n_tasks == 1


def test_a_relative_path_is_made_absolute(tasks, store_path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(store_path.parent)
    store = open_tasks("t")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert store.path == str(store_path)
    assert pickle.loads(pickle.dumps(store)).n_tasks == 4
    assert store.read_block(0).n_tasks == 1


def test_threads_may_share_a_store(tasks, tmp_path):
    table = tasks.table([3] * 200, d=5, ids=[f"task {i}" for i in range(200)])
    path = tasks.write(tmp_path / "t", table, block_rows=6)
    store = open_tasks(path)  # nothing of it is opened yet
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(store.read_block, range(store.n_blocks)))
        ids = list(pool.map(lambda i: store.task_ids(i, i + 1)[0], range(200)))
    np.testing.assert_array_equal(np.concatenate([block.X for block in blocks]), table.X)
    assert ids == table.ids.tolist()


def test_what_is_read_belongs_to_the_caller(tasks, store_path):
    store = open_tasks(store_path)
    for _ in range(2):
        block, sizes, ids = store.read_block(1), store.task_sizes(), store.task_ids()
        assert sizes.tolist() == [2, 3, 1, 2]
        assert ids.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(block.X, tasks.table([2, 3, 1, 2]).X[2:6])
        block.X[:], block.y[:], sizes[:], ids[:] = 7, 7, 7, 7


def test_a_pickle_is_small_and_opens_the_store_in_another_process(store_path):
    data = pickle.dumps(open_tasks(store_path))
    assert len(data) < 300 + len(str(store_path))
    program = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer); "
        "print(s.n_tasks, s.read_block(1).y.sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, check=True
    )
    expected = open_tasks(store_path).read_block(1).y.sum()
    assert done.stdout.decode().split() == ["4", str(expected)]


@pytest.mark.skipif(os.name == "nt", reason="permissions of files are of POSIX")
def test_the_published_folder_has_the_permissions_that_the_user_asked_for(tasks, tmp_path):
    before = os.umask(0o027)
    try:
        path = tasks.write(tmp_path / "t", tasks.table([1]))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o750
