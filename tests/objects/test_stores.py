"""Task stores, models and tables on real object stores: whole, or not there."""

import json
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.dataset
import pytest
import zarr
from obstore import list as list_objects
from obstore.fsspec import FsspecStore

from daskmlr import open_tasks, simulate
from daskmlr.errors import (
    AccessError,
    DamagedStoreError,
    IncompleteStoreError,
    PathExistsError,
    StoreError,
)
from daskmlr.graph.leaf import read_run
from daskmlr.storage.groups import load_group, save_group
from daskmlr.storage.location import locate
from daskmlr.storage.publish import CLAIM, MANIFEST, what_is
from daskmlr.storage.rows import (
    abandon_rows,
    finish_rows,
    read_column,
    start_rows,
    write_rows_part,
)
from daskmlr.storage.writing import append_tasks, create_tasks
from daskmlr.synthetic import load_truth, truth_path

DRAW = {
    "n_components": 2,
    "n_features": 3,
    "task_groups": [(500, (1, 12))],
    "random_state": 1,
    "dtype": "float64",
    "block_bytes": 40 * 300,
}


def objects(url):
    """Every object below a URL, by its place."""
    place = locate(url)
    keys = [each["path"] for page in list_objects(place.client) for each in page]
    return {key: place.read(key) for key in keys}


def files(folder):
    """Every file below a folder, by its place."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def read_all(store):
    """Read blocks, ahead, and the keys of their tasks."""
    damaged = []
    for block in read_run(store, (0, store.n_blocks), (), damaged):
        store.task_ids(block.first_task, block.first_task + block.n_tasks)
    for damage in damaged:
        raise DamagedStoreError(damage.said)


def append(path, first, n_tasks=3):
    with append_tasks(path) as writer:
        writer.write(
            np.full((n_tasks, 3), 0.5),
            np.ones(n_tasks),
            [1] * n_tasks,
            range(first, first + n_tasks),
        )


def test_a_store_is_the_same_objects_as_files(bucket, tmp_path):
    here, there = tmp_path / "tasks", f"{bucket}/deep/tasks"
    for path in (here, there):
        simulate(path, **DRAW)
        append(path, 9000)
    assert objects(there) == files(here)
    assert objects(str(truth_path(there))) == files(truth_path(here))
    np.testing.assert_array_equal(load_truth(there)[1], load_truth(here)[1])
    store, local = open_tasks(there), open_tasks(here)
    store.validate(deep=True)
    assert store.facts == local.facts
    assert store.nbytes_stored == local.nbytes_stored
    assert what_is(there) == "task store"
    assert open_tasks(f"{there}/") is store
    assert pickle.loads(pickle.dumps(store)) is store
    plain = zarr.open_group(locate(there).zarr_store(), mode="r")
    np.testing.assert_array_equal(plain["task_size"][:], store.task_sizes())
    # what is read belongs to the caller, ahead or not
    for block, expected in zip(
        read_run(store, (0, store.n_blocks), (), []),
        read_run(local, (0, store.n_blocks), (), []),
        strict=True,
    ):
        np.testing.assert_array_equal(block.X, expected.X)
        np.testing.assert_array_equal(block.y, expected.y)
        block.X[:] = 0
    assert store.read_block(0).X.any()


def test_text_ids(bucket):
    with create_tasks(f"{bucket}/t", feature_names=["a"]) as writer:
        writer.write([[1.0], [2.0]], [0.0, 1.0], [1, 1], ["ann", "bob"])
    assert open_tasks(f"{bucket}/t").task_ids().tolist() == ["ann", "bob"]


def test_what_exists_is_not_overwritten(bucket):
    url = f"{bucket}/tasks"
    simulate(url, **DRAW)
    before = objects(bucket)
    with pytest.raises(PathExistsError, match=f"{url} exists and is a task store"):
        create_tasks(url, feature_names=["a"])
    with pytest.raises(PathExistsError, match="tasks exists and is a task store"):
        save_group(url, kind="daskmlr-model", version=1, arrays={}, facts={})
    locate(url).parent.write("tasks.parquet/x", b"1")
    with pytest.raises(PathExistsError, match=r"tasks\.parquet exists and is a folder"):
        start_rows(f"{url}.parquet")
    locate(url).parent.remove("tasks.parquet/x")
    locate(bucket).write("file", b"1")
    with pytest.raises(PathExistsError, match="file exists and is a file"):
        create_tasks(f"{bucket}/file", feature_names=["a"])
    locate(bucket).remove("file")
    assert objects(bucket) == before


def test_nothing_there(bucket):
    with pytest.raises(StoreError, match=f"no task store at {bucket}/t: it does not exist"):
        open_tasks(f"{bucket}/t")
    with pytest.raises(StoreError, match=f"there is no model at {bucket}/t"):
        load_group(f"{bucket}/t", kind="model", version=1)
    locate(bucket).write("t/readme.txt", b"hello")
    with pytest.raises(StoreError, match="it is not a Zarr v3 group"):
        open_tasks(f"{bucket}/t")
    save_group(f"{bucket}/m", kind="daskmlr-model", version=1, arrays={}, facts={})
    with pytest.raises(StoreError, match="is a model, a task store is wanted: write one with"):
        open_tasks(f"{bucket}/m")


@pytest.mark.parametrize("name", ["x", "task_size", "task_id"])
def test_damage_is_named(bucket, name):
    simulate(f"{bucket}/t", **DRAW)
    place = locate(f"{bucket}/t")
    key = f"{name}/c/0/0" if name == "x" else f"{name}/c/0"
    data = bytearray(place.read(key))
    data[5] ^= 1
    place.write(key, bytes(data))
    with pytest.raises(DamagedStoreError, match=f"0 of {bucket}/t/{name} is damaged: its .* match"):
        read_all(open_tasks(f"{bucket}/t"))
    place.remove(key)
    with pytest.raises(DamagedStoreError, match=f"{bucket}/t/{name} is damaged: it is missing"):
        read_all(open_tasks(f"{bucket}/t"))


def test_a_write_that_fails_leaves_nothing(bucket):
    with (  # noqa: PT012 - leaving the writer raises
        pytest.raises(ZeroDivisionError),
        create_tasks(f"{bucket}/t", feature_names=["a"]) as writer,
    ):
        writer.write([[1.0]], [1.0], [1])
        raise ZeroDivisionError
    assert objects(bucket) == {}
    simulate(f"{bucket}/t", **DRAW)
    before = objects(f"{bucket}/t")
    with pytest.raises(ZeroDivisionError), append_tasks(f"{bucket}/t") as writer:  # noqa: PT012
        for task in range(9000, 9400):
            writer.write(np.ones((12, 3)), np.ones(12), [12], [task])
        raise ZeroDivisionError
    store = open_tasks(f"{bucket}/t")
    store.validate(deep=True)
    assert store.n_tasks == 500
    assert objects(f"{bucket}/t") == before


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_a_table_appears_whole(bucket, tmp_path, suffix):
    out = f"{bucket}/labels.{suffix}"
    staging = start_rows(out)
    columns = {
        "label": np.arange(5),
        "posterior": np.eye(5)[:, :2],
        "name": np.array(list("abcde")),
    }
    for part in (1, 0, 1):  # one is written again
        write_rows_part(
            staging, part, [{k: v + part if k == "label" else v for k, v in columns.items()}]
        )
    with pytest.raises(
        IncompleteStoreError, match=f"{out} is no complete table of tasks but being"
    ):
        list(read_column(out, "label"))
    with pytest.raises(PathExistsError, match="being written by another process"):
        start_rows(out)
    with pytest.raises(StoreError, match=r"1 of 3 parts of .* are missing: \[2\]"):
        finish_rows(staging, out, 3)
    finish_rows(staging, out, 2)
    expected = [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert np.concatenate(list(read_column(out, "label"))).tolist() == expected
    assert what_is(out) == "table of tasks"
    names = locate(out).names()
    if suffix == "zarr":
        assert names == ["label", "name", "posterior_0", "posterior_1", "zarr.json"]
        assert zarr.open_group(locate(out).zarr_store(), mode="r")["name"][4] == "e"
        return
    assert names == [MANIFEST, "part-0000000.parquet", "part-0000001.parquet"]
    # other readers of Parquet folders take the parts and leave the manifest alone
    table = pyarrow.dataset.dataset(
        out.removeprefix("s3://"), filesystem=FsspecStore("s3"), format="parquet"
    ).to_table()
    assert table.column("label").to_pylist() == expected


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_a_table_that_is_given_up_leaves_nothing(bucket, suffix):
    staging = start_rows(f"{bucket}/labels.{suffix}")
    write_rows_part(staging, 0, [{"label": np.arange(5)}])
    abandon_rows(staging)
    assert objects(bucket) == {}


def compete(write, n=4):
    """Run writers at once; the errors of those that lost."""

    def attempt(number):
        try:
            write(number)
        except StoreError as error:
            return error
        return None

    with ThreadPoolExecutor(n) as pool:
        lost = [error for error in pool.map(attempt, range(n)) if error is not None]
    assert len(lost) == n - 1
    return lost


def test_of_writers_of_a_new_store_one_wins(bucket):
    def write(number):
        with create_tasks(f"{bucket}/t", feature_names=["a"], block_bytes=160) as writer:
            for task in range(40):
                writer.write(np.full((5, 1), number), np.full(5, number), [5], [task])

    for error in compete(write):
        assert isinstance(error, PathExistsError)
    store = open_tasks(f"{bucket}/t")
    store.validate(deep=True)
    values = {float(v) for i in range(store.n_blocks) for v in store.read_block(i).y}
    assert len(values) == 1  # nothing of the others is in it
    assert CLAIM not in locate(f"{bucket}/t").names()


def test_of_writers_of_a_model_or_table_one_wins(bucket):
    def model(number):
        save_group(
            f"{bucket}/m",
            kind="m",
            version=1,
            arrays={"a": np.full(9, number)},
            facts={"b": number},
        )

    def table(number):
        staging = start_rows(f"{bucket}/t.parquet")
        write_rows_part(staging, 0, [{"label": np.full(3, number)}])
        finish_rows(staging, f"{bucket}/t.parquet", 1)

    for write in (model, table):
        assert all(isinstance(error, PathExistsError) for error in compete(write))
    found = load_group(f"{bucket}/m", kind="m", version=1)
    assert found["a"].tolist() == [found["b"]] * 9
    assert len(objects(f"{bucket}/t.parquet")) == 2


def test_of_appends_at_once_one_wins(bucket):
    simulate(f"{bucket}/t", **DRAW)
    with append_tasks(f"{bucket}/t") as writer:
        with pytest.raises(StoreError, match=r"appending to .* \(process \d+ of .*, since"):
            append(f"{bucket}/t", 8000)
        writer.write(np.ones((1, 3)), np.ones(1), [1], [7000])
    append(f"{bucket}/t", 8000)
    assert open_tasks(f"{bucket}/t").task_ids(500).tolist() == [7000, 8000, 8001, 8002]


def test_an_append_does_not_replace_what_it_did_not_open(bucket):
    simulate(f"{bucket}/t", **DRAW)
    place = locate(f"{bucket}/t")
    with (  # noqa: PT012 - leaving the writer raises
        pytest.raises(PathExistsError, match="written by another process in the meantime"),
        append_tasks(f"{bucket}/t") as writer,
    ):
        writer.write(np.ones((1, 3)), np.ones(1), [1], [7000])
        document = json.loads(place.read("zarr.json"))
        document["attributes"]["other"] = 1
        place.write("zarr.json", json.dumps(document).encode())
    store = open_tasks(f"{bucket}/t")
    store.validate(deep=True)
    assert store.n_tasks == 500


WRITER = """
import sys
import numpy as np
from daskmlr.storage.rows import start_rows, write_rows_part
from daskmlr.storage.writing import append_tasks, create_tasks

what, url = sys.argv[1:]
if what == "table":
    staging = start_rows(url)
    write_rows_part(staging, 0, [{"label": np.arange(5)}])
    print("under way", flush=True)
    sys.stdin.read()
begin = append_tasks if what == "append" else create_tasks
options = {} if what == "append" else {"feature_names": ["a", "b", "c"], "block_bytes": 40 * 300}
with begin(url, **options) as writer:
    for task in range(10**6, 2 * 10**6):
        writer.write(np.ones((100, 3)), np.ones(100), [100], [task])
        if task == 10**6 + 20:
            print("under way", flush=True)
"""


def kill_writer(server, what, url):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, what, url],
        env=server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "under way\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_writer_leaves_what_is_refused(server, bucket):
    url = f"{bucket}/t"
    kill_writer(server, "create", url)
    left = objects(url)
    assert {CLAIM, "x/zarr.json", "x/c/3/0"} <= set(left)
    assert "zarr.json" not in left
    said = rf"process \d+ of .*, since .*if it was stopped, remove all of {url}"
    with pytest.raises(IncompleteStoreError, match=said):
        open_tasks(url)
    with pytest.raises(IncompleteStoreError, match="no complete model"):
        load_group(url, kind="daskmlr-model", version=1)
    with pytest.raises(PathExistsError, match=said):
        create_tasks(url, feature_names=["a"])
    with pytest.raises(PathExistsError, match=said):
        save_group(url, kind="m", version=1, arrays={}, facts={})
    assert objects(url) == left
    locate(url).remove()
    simulate(url, **DRAW)
    open_tasks(url).validate(deep=True)


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_a_killed_writer_of_a_table_leaves_what_is_refused(server, bucket, suffix):
    url = f"{bucket}/labels.{suffix}"
    kill_writer(server, "table", url)
    with pytest.raises(IncompleteStoreError, match=f"remove all of {url}"):
        list(read_column(url, "label"))
    with pytest.raises(PathExistsError, match=f"remove all of {url}, or choose another"):
        start_rows(url)


def test_a_killed_append_leaves_the_old_store(server, bucket):
    url = f"{bucket}/t"
    simulate(url, **DRAW)
    kill_writer(server, "append", url)
    store = open_tasks(url)
    store.validate(deep=True)
    assert store.n_tasks == 500
    with pytest.raises(StoreError, match=f"if it was killed, remove {url}/{CLAIM}"):
        append(url, 9000)
    locate(url).remove(CLAIM)
    append(url, 9000)
    store = open_tasks(url)
    store.validate(deep=True)
    assert store.task_ids(500).tolist() == [9000, 9001, 9002]


def test_a_bucket_that_is_not_there(moto, use):
    use(moto)
    said = "no bucket 'nowhere': create it"
    for act in (
        lambda: open_tasks("s3://nowhere/t"),
        lambda: simulate("s3://nowhere/t", **DRAW),
        lambda: load_group("s3://nowhere/t", kind="m", version=1),
        lambda: start_rows("s3://nowhere/t.parquet"),
    ):
        with pytest.raises(AccessError, match=said):
            act()


def test_a_key_that_is_taken_away_while_a_store_is_open(seaweed, use):
    use(seaweed)
    url = seaweed.make_bucket("taken-away")
    store = simulate(f"{url}/t", **DRAW)
    use(seaweed, AWS_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(AccessError, match=f"access to {url}/t/.* refused .*SignatureDoesNotMatch"):
        store.read_block(0)
    with pytest.raises(AccessError, match="refused"):
        read_all(store)
    with pytest.raises(AccessError, match="refused"):
        open_tasks(f"{url}/t")
