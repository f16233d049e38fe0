"""What the record of a run says of its passes."""

import sys
from datetime import datetime

import cloudpickle
import numpy as np
import pytest

from daskmlr import create_tasks, open_tasks, plan, reduce_tasks
from daskmlr.graph.execute import connect
from daskmlr.record import RunRecord

# worker processes cannot import this module
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Forty blocks: several runs in a tree of three levels."""
    path = tmp_path_factory.mktemp("record") / "tasks"
    rng = np.random.default_rng(0)
    with create_tasks(path, feature_names=["a", "b"], block_bytes=24_000) as writer:
        writer.write(rng.normal(size=(40_000, 2)), rng.normal(size=40_000), np.full(8000, 5))
    return open_tasks(path)


def squares(block):
    return float(block.y @ block.y)


def add(left, right):
    return left + right


@pytest.mark.parametrize("where", ["sync", "threads", None])
def test_a_pass_says_what_it_read_and_how_long_that_took(tasks, where):
    record = RunRecord()
    with connect(where) as runner:
        for _ in range(2):
            total = record.reduce("squares", tasks, squares, add, args=(), runner=runner)
    assert total == reduce_tasks(tasks, squares, add, client="sync")
    assert len(record.entries) == 2
    for entry in record.entries:
        assert entry["bytes_read"] == tasks.nbytes
        assert entry["graph_tasks"] == plan.plan_pass(tasks, 8).n_graph_tasks > tasks.n_blocks / 2
        assert 0 < entry["reading_seconds"] < entry["thread_seconds"]
        assert datetime.fromisoformat(entry["at"]).utcoffset().total_seconds() == 0


def test_what_a_pass_of_new_blocks_alone_read(tasks):
    record = RunRecord()
    with connect("sync") as runner:
        record.reduce("new", tasks, squares, add, args=(), runner=runner, first_block=30)
    rows = sum(tasks.read_block(i).n_rows for i in range(30, tasks.n_blocks))
    assert record.entries[0]["bytes_read"] == rows * 24


def test_a_stage_without_a_pass_read_nothing():
    record = RunRecord()
    assert record.timed("cluster", lambda: 3, inputs=()) == 3
    assert "bytes_read" not in record.entries[0]


def test_worker_processes_tell_too(tasks, process_client):
    record = RunRecord()
    with connect(process_client) as runner:
        record.reduce("squares", tasks, squares, add, args=(), runner=runner)
    assert record.entries[0]["bytes_read"] == tasks.nbytes
    assert record.entries[0]["reading_seconds"] > 0
