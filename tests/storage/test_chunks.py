"""Memory that is read into again: never while somebody holds what was read."""

import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest

from daskmlr import (
    MixedLinearRegression,
    create_tasks,
    map_tasks,
    open_tasks,
    reduce_tasks,
    simulate,
)
from daskmlr.graph import leaf
from daskmlr.storage import chunks
from daskmlr.storage.chunks import MOST_BUFFERS, Buffers
from daskmlr.storage.tasks import BLOCKS_AHEAD, TaskStore
from tests.benchmarks.bitwise import different


def address(array) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_nobody_holds_it():
    buffers = Buffers()
    first = buffers.take(1000)
    place = address(first)
    del first
    assert address(buffers.take(1000)) == place


def test_a_view_of_a_view_keeps_memory_in_use():
    buffers = Buffers()
    taken = buffers.take(1000)
    view = taken.view(np.uint32).reshape(50, 5)[3:, 1:2].T
    view[:] = 7
    del taken
    other = buffers.take(1000)
    other[:] = 1
    assert not np.shares_memory(other, view)
    assert (view == 7).all()


def test_sizes_that_vary_take_bounded_memory():
    buffers = Buffers()
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 1_000_000, 500):
        assert buffers.take(int(size)).size == size
    assert len(buffers._kept) <= MOST_BUFFERS


@pytest.fixture(scope="module")
def several_blocks(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("several") / "tasks.daskmlr",
        n_components=2,
        n_features=3,
        task_groups=[(900, (1, 9))],
        random_state=0,
        block_bytes=2000,
    )


def test_blocks_are_the_same_with_and_without(several_blocks):
    buffers = Buffers()
    for index in range(several_blocks.n_blocks):
        found, plain = several_blocks.read_block(index, buffers), several_blocks.read_block(index)
        np.testing.assert_array_equal(found.X, plain.X)
        np.testing.assert_array_equal(found.y, plain.y)
    assert len(buffers._kept) <= 4


def test_a_pass_may_keep_views_of_its_blocks(several_blocks):
    n = several_blocks.n_blocks
    assert n > 20
    expected = np.concatenate([several_blocks.read_block(i).y for i in range(n)])
    parts = reduce_tasks(
        several_blocks, lambda block: [block.y], lambda left, right: left + right, client="sync"
    )
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    first = map_tasks(
        several_blocks, lambda block: {"first": block.y[block.offsets[:-1]]}, None, client="sync"
    )
    rows = np.cumsum(np.concatenate([[0], several_blocks.task_sizes()[:-1]]))
    np.testing.assert_array_equal(first["first"], expected[rows])


def test_what_will_be_needed_is_told_once_and_in_order(several_blocks, monkeypatch):
    told = []
    monkeypatch.setattr(TaskStore, "will_need", lambda _, index, buffers: told.append(index))
    n = several_blocks.n_blocks
    list(leaf.read_run(several_blocks, (0, n), (), []))
    assert told[:n] == list(range(1, n + 1))
    told.clear()
    list(
        leaf.read_run(several_blocks, (3, 4), (), [])
    )  # a run of one block: others are told of too
    assert told == list(range(4, 4 + BLOCKS_AHEAD))


def test_telling_of_no_block_is_no_error(several_blocks):
    several_blocks.will_need(several_blocks.n_blocks, Buffers())
    several_blocks.will_need(0, Buffers())


@pytest.fixture
def larger_than_memory(monkeypatch):
    monkeypatch.setattr(leaf, "CACHED_SHARE", 0)


def shared_memory() -> Path | None:
    """Return a folder in memory, where no reading goes past the page cache."""
    place = Path("/dev/shm")
    return place if place.is_dir() else None


@pytest.mark.parametrize("size", [4, 5, 4095, 4096, 4100, 8196, 3_000_004])
@pytest.mark.parametrize("elsewhere", [None, shared_memory()])
def test_files_read_past_the_cache_are_what_they_are(tmp_path, size, elsewhere):
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    path = Path(tempfile.mkstemp(dir=elsewhere or tmp_path)[1])
    try:
        content.tofile(path)
        buffers = Buffers(past_cache=True)
        for _ in range(2):  # the second time into memory used before
            buffers.begin_file("key", path)
            np.testing.assert_array_equal(buffers.finish("key"), content)
        assert len(buffers._kept) == 1
        assert buffers.finish("key") is None
    finally:
        path.unlink()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_store_larger_than_memory_gives_the_same_blocks(tmp_path, larger_than_memory, compressed):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5000, 3)), rng.normal(size=5000)
    if compressed:
        X[:] = 1.0
    with create_tasks(
        tmp_path / "tasks.daskmlr", feature_names=["a", "b", "c"], block_bytes=4000
    ) as writer:
        writer.write(X, y, np.full(1000, 5))
    tasks = open_tasks(tmp_path / "tasks.daskmlr")
    assert (tasks.facts.codec != "none") == compressed
    wanted = [0, 1, *range(3, tasks.n_blocks)]
    damaged = []
    blocks = list(leaf.read_run(tasks, (0, tasks.n_blocks), {2}, damaged))
    for index, block in zip(wanted, blocks, strict=True):
        plain = tasks.read_block(index)
        assert block.first_task == plain.first_task
        np.testing.assert_array_equal(block.X, plain.X)
        np.testing.assert_array_equal(block.y, plain.y)
    assert not damaged


def test_damage_past_the_cache_is_named(tmp_path, larger_than_memory):
    tasks = simulate(
        tmp_path / "tasks.daskmlr", n_components=2, n_features=3, task_groups=[(400, 5)],
        random_state=0, block_bytes=2000,
    )  # fmt: skip
    changed, short, missing = (Path(tasks.path, tasks._chunk_key("x", i)) for i in (1, 3, 4))
    data = changed.read_bytes()
    changed.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    short.write_bytes(short.read_bytes()[:-3])
    missing.unlink()
    damaged = []
    found = [block.first_task for block in leaf.read_run(tasks, (0, 6), (), damaged)]
    assert found == tasks.block_tasks[[0, 2, 5]].tolist()
    assert [one.block for one in damaged] == [1, 3, 4]
    assert "checksum" in damaged[0].said
    assert "missing" in damaged[2].said


def test_an_error_of_the_machine_past_the_cache_is_tried_again(
    several_blocks, larger_than_memory, monkeypatch
):
    failed = []

    def fails_once(path, *args):
        if not failed:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return whole(path, *args)

    whole = chunks._whole
    monkeypatch.setattr(chunks, "_whole", fails_once)
    blocks = list(leaf.read_run(several_blocks, (0, 5), (), []))
    assert len(blocks) == 5
    assert failed


def test_a_fit_past_the_cache_is_the_same_bit_for_bit(several_blocks, monkeypatch):
    def fitted():
        return MixedLinearRegression(2, random_state=0).fit(several_blocks, client="threads").model_

    plain = fitted()
    monkeypatch.setattr(leaf, "CACHED_SHARE", 0)
    assert not different(plain, fitted())
