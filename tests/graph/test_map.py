"""One row per task: in memory, to Parquet, to Zarr; nothing half-written."""

import sys

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import zarr

from daskmlr import InputError, map_tasks
from daskmlr.errors import PathExistsError, WorkerError

# worker processes cannot import a test module: what is defined here travels whole
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def summary(block, power=1):
    starts = block.offsets[:-1]
    return {
        "first": block.X[starts, 0] ** power,
        "size": block.sizes,
        "pair": np.column_stack([block.y[starts], -block.y[starts]]),
    }


@pytest.fixture(scope="module")
def expected(easy_tasks):
    blocks = [summary(easy_tasks.read_block(i), 2) for i in range(easy_tasks.n_blocks)]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def test_in_memory(easy_tasks, expected):
    rows = map_tasks(easy_tasks, summary, None, args=(2,), client="threads")
    np.testing.assert_array_equal(rows["task"], easy_tasks.task_ids())
    for key, values in expected.items():
        np.testing.assert_array_equal(rows[key], values)


@pytest.mark.parametrize("where", ["sync", "processes"])
def test_to_parquet(easy_tasks, expected, tmp_path, process_client, where):
    client = process_client if where == "processes" else "sync"
    out = tmp_path / "rows.parquet"
    assert map_tasks(easy_tasks, summary, out, args=(2,), client=client) is None
    frame = pd.read_parquet(out)
    assert list(frame) == ["task", "first", "size", "pair_0", "pair_1"]
    np.testing.assert_array_equal(frame["task"], easy_tasks.task_ids())
    np.testing.assert_array_equal(frame["first"], expected["first"])
    np.testing.assert_array_equal(frame["pair_1"], expected["pair"][:, 1])


def test_to_zarr(easy_tasks, expected, tmp_path):
    map_tasks(easy_tasks, summary, tmp_path / "rows.zarr", args=(2,), client="sync")
    group = zarr.open_group(tmp_path / "rows.zarr", mode="r")
    np.testing.assert_array_equal(group["task"][:], easy_tasks.task_ids())
    np.testing.assert_array_equal(group["size"][:], expected["size"])


def test_a_function_that_fails_leaves_nothing(easy_tasks, tmp_path):
    def fail(block):
        if block.first_task > 1000:
            raise RuntimeError("the 1001st")
        return summary(block)

    with pytest.raises(WorkerError, match=r"RuntimeError: the 1001st \(in fail, line"):
        map_tasks(easy_tasks, fail, tmp_path / "rows.parquet", client="sync")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_not_one_per_task_are_refused(easy_tasks, tmp_path):
    with pytest.raises(InputError, match=r"'y' has \d+ rows for a block of"):
        map_tasks(easy_tasks, lambda b: {"y": b.y}, tmp_path / "rows.parquet", client="sync")
    assert list(tmp_path.iterdir()) == []


def test_a_column_named_like_the_tasks_key_is_refused(easy_tasks):
    with pytest.raises(InputError, match="column 'task', which is the name of the task's key"):
        map_tasks(easy_tasks, lambda b: {"task": np.zeros(b.n_tasks)}, None, client="sync")


def test_an_existing_output_is_refused_before_any_work(easy_tasks, tmp_path):
    (tmp_path / "rows.parquet").mkdir()
    with pytest.raises(PathExistsError, match=r"rows\.parquet exists"):
        map_tasks(easy_tasks, lambda block: 1 / 0, tmp_path / "rows.parquet")


def test_another_suffix_is_refused(easy_tasks, tmp_path):
    with pytest.raises(InputError, match=r"\.parquet or \.zarr, got .*rows\.xlsx"):
        map_tasks(easy_tasks, summary, tmp_path / "rows.xlsx")
