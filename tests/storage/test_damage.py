"""A chunk that is missing, cut short or altered is an error that names it; nothing else is hurt."""

import re
import shutil

import pytest

from daskmlr.errors import DamagedStoreError
from daskmlr.storage import layout
from daskmlr.storage.tasks import open_tasks

ARRAYS = ["x", "y", "task_size", "task_id", "block_tasks"]


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def truncate_to_nothing(path):
    path.write_bytes(b"")


def truncate_to_two_bytes(path):
    path.write_bytes(path.read_bytes()[:2])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def flip_one_bit(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def flip_first(path):
    flip_one_bit(path, 0)


def flip_in_checksum(path):
    flip_one_bit(path, 1)


DAMAGES = [
    remove,
    truncate,
    truncate_to_nothing,
    truncate_to_two_bytes,
    lengthen,
    flip_one_bit,
    flip_first,
    flip_in_checksum,
]


@pytest.fixture(scope="module", params=["uncompressed", "compressed", "text ids"])
def store_path(request, tasks, tmp_path_factory):
    """Three chunks of every per-task array, 20 blocks of at most 6 rows."""
    sizes = [2, 3, 1, 4, 5] * 8
    ids = [f"task {i}" for i in range(40)] if request.param == "text ids" else range(-5, 35)
    d = 40 if request.param == "compressed" else 2
    table = tasks.table(sizes, ids=list(ids), d=d, rounded=request.param == "compressed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "TASK_CHUNK", 16)
        patch.setattr(layout, "BLOCK_CHUNK", 10)
        path = tasks.write(tmp_path_factory.mktemp("damage") / "t", table, block_rows=6)
        assert ("uncompressed" in open_tasks(path).codec) == (request.param != "compressed")
        open_tasks(path).validate(deep=True)
        yield path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ARRAYS)
def test_damage_is_named_and_the_rest_is_readable(store_path, tmp_path, name, damage):
    path = shutil.copytree(store_path, tmp_path / "t")
    chunk = 7 if name in ("x", "y") else 1
    damage(path / name / "c" / str(chunk) / ("0" if name == "x" else ""))
    what = "block" if name in ("x", "y") else "chunk"
    named = f"{what} {chunk} of {re.escape(str(path))}/{name} is damaged: "
    named += "it is missing" if damage is remove else ".*(checksum|Checksum)"

    whole, store = open_tasks(store_path), open_tasks(path)
    store_blocks = _readable_blocks(store, named)
    if name in ("x", "y"):
        assert store_blocks == set(range(store.n_blocks)) - {7}
    if name == "task_size":
        with pytest.raises(DamagedStoreError, match=named):
            store.task_sizes()
        assert store.task_sizes(0, 16).tolist() == whole.task_sizes(0, 16).tolist()
        assert store.task_sizes(32).tolist() == whole.task_sizes(32).tolist()
        first = whole.block_tasks
        hurt = {i for i in range(store.n_blocks) if first[i] < 32 and first[i + 1] > 16}
        assert store_blocks == set(range(store.n_blocks)) - hurt
    if name == "task_id":
        for piece in [(), (16, 17), (31, 32), (0, 17)]:
            with pytest.raises(DamagedStoreError, match=named):
                store.task_ids(*piece)
        assert store.task_ids(0, 16).tolist() == whole.task_ids(0, 16).tolist()
        assert store_blocks == set(range(store.n_blocks))
    if name == "block_tasks":
        assert store_blocks == set()
        assert store.task_ids().tolist() == whole.task_ids().tolist()
    with pytest.raises(DamagedStoreError, match=named):
        open_tasks(path).validate(deep=True)


def _readable_blocks(store, named):
    readable = set()
    for index in range(store.n_blocks):
        try:
            store.read_block(index)
        except DamagedStoreError as error:
            assert re.search(named, str(error)), str(error)  # noqa: PT017 - some are to succeed
        else:
            readable.add(index)
    return readable


def test_an_append_after_damage_refuses_instead_of_covering_it(tasks, store_path, tmp_path):
    path = shutil.copytree(store_path, tmp_path / "t")
    flip_one_bit(path / "task_id" / "c" / "2")
    before = tasks.files(path)
    text = isinstance(open_tasks(path).task_ids(0, 1)[0], str)
    more = tasks.table([1], ids=["new"] if text else [99], d=open_tasks(path).n_features)
    with pytest.raises(DamagedStoreError, match=r"chunk 2 of .*/task_id"):
        tasks.append(path, more)
    assert tasks.files(path) == before


@pytest.mark.parametrize("rounded", [False, True])
def test_a_chunk_of_another_store_has_a_good_checksum_and_the_wrong_size(tasks, tmp_path, rounded):
    table = tasks.table([4] * 80, d=40, rounded=rounded)
    one, other = (tasks.write(tmp_path / f"{rows}", table, block_rows=rows) for rows in (80, 100))
    assert open_tasks(one).codec == open_tasks(other).codec
    shutil.copy(other / "x" / "c" / "2" / "0", one / "x" / "c" / "2" / "0")
    with pytest.raises(DamagedStoreError, match=f"block 2 of {one}/x is damaged"):
        open_tasks(one).read_block(2)
    shutil.copy(one / "x" / "c" / "1" / "0", other / "x" / "c" / "1" / "0")
    with pytest.raises(DamagedStoreError, match=f"block 1 of {other}/x is damaged"):
        open_tasks(other).read_block(1)


def test_an_error_of_the_machine_is_not_called_damage(store_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("daskmlr.storage.tasks.read_chunk", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        open_tasks(store_path).read_block(3)
    assert not isinstance(caught.value, DamagedStoreError)


def test_a_flipped_bit_anywhere_in_a_chunk_of_megabytes(tasks, tmp_path):
    table = tasks.table([50_000], d=8)
    path = tasks.write(tmp_path / "t", table)
    tasks.assert_holds(open_tasks(path), table)
    for where in (0.2, 0.5, 0.9):
        flip_one_bit(path / "x" / "c" / "0" / "0", where)
        with pytest.raises(DamagedStoreError, match=f"block 0 of {path}/x is damaged"):
            open_tasks(path).read_block(0)
        flip_one_bit(path / "x" / "c" / "0" / "0", where)
    tasks.assert_holds(open_tasks(path), table)
