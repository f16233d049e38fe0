"""Memory that is read into again: never while somebody holds what was read."""

import numpy as np
import pytest

from daskmlr import map_tasks, reduce_tasks, simulate
from daskmlr.graph import leaf
from daskmlr.storage.chunks import MOST_BUFFERS, Buffers
from daskmlr.storage.tasks import BLOCKS_AHEAD, TaskStore


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
