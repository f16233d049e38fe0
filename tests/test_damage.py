"""Damaged blocks: all named at the end of a pass, or left out of every pass when asked."""

import json
import re
import sys
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskmlr import (
    MixedLinearRegression,
    Model,
    append_tasks,
    open_tasks,
    plan,
    reduce_tasks,
    simulate,
)
from daskmlr.cli import main
from daskmlr.errors import CheckpointError, DamagedStoreError, DamageWarning
from daskmlr.graph import faults
from daskmlr.graph.execute import connect
from tests.benchmarks.bitwise import different

SKIP = {"daskmlr.skip-damaged": True}

# worker processes cannot import a test module: what is defined here travels whole
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def row_sums(block):
    return np.append(block.X.sum(axis=0), [block.n_rows, block.n_tasks])


def add(left, right):
    return left + right


def damage(tasks, blocks):
    for index in blocks:
        path = Path(tasks.path, tasks._chunk_key("y", index))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.fixture
def damaged_tasks(tmp_path):
    """Blocks 0, 2 and 5 of about a dozen are damaged."""
    tasks = simulate(
        tmp_path / "damaged.daskmlr", n_components=2, n_features=3, noise=0.3,
        task_groups=[(2000, (4, 8))], random_state=3, block_bytes=16 * 1000,
    )  # fmt: skip
    damage(tasks, [0, 2, 5])
    return tasks


@pytest.mark.parametrize("where", ["sync", "processes"])
def test_all_damaged_blocks_are_named(damaged_tasks, process_client, monkeypatch, where):
    monkeypatch.setattr(plan, "MIN_RUNS", 4)  # runs of several blocks
    client = process_client if where == "processes" else where
    with pytest.raises(DamagedStoreError) as caught:
        reduce_tasks(damaged_tasks, row_sums, add, client=client)
    assert re.match(rf"3 of {damaged_tasks.n_blocks} blocks are damaged", str(caught.value))
    assert re.findall(r"block (\d+) of \S+/y is damaged", str(caught.value)) == ["0", "2", "5"]
    assert "--skip-damaged" in str(caught.value)


def test_a_long_list_of_damage_is_cut(damaged_tasks, monkeypatch):
    monkeypatch.setattr(faults, "LISTED", 2)
    with pytest.raises(DamagedStoreError, match=r"block 0 .*\n.*block 2 .*\nand 1 more\nOr"):
        reduce_tasks(damaged_tasks, row_sums, add, client="sync")


@pytest.mark.parametrize("runs", [4, 32])
def test_damaged_blocks_can_be_left_out_of_every_pass(
    damaged_tasks, process_client, monkeypatch, runs
):
    monkeypatch.setattr(plan, "MIN_RUNS", runs)  # runs of several blocks, and of one
    kept = [i for i in range(damaged_tasks.n_blocks) if i not in (0, 2, 5)]
    sound = sum(row_sums(damaged_tasks.read_block(i)) for i in kept)
    with dask.config.set(SKIP), connect(process_client) as runner:
        with pytest.warns(
            DamageWarning, match=r"^3 damaged blocks with [\d,]+ tasks and .*: 0, 2, 5"
        ):
            total = reduce_tasks(damaged_tasks, row_sums, add, client=runner)
        again = reduce_tasks(damaged_tasks, row_sums, add, client=runner)
        left_out = runner.left_out(damaged_tasks)
    np.testing.assert_allclose(total, sound, rtol=1e-6)
    np.testing.assert_array_equal(total, again)
    assert left_out.blocks == (0, 2, 5)
    assert left_out.n_rows + total[-2] == damaged_tasks.n_rows
    assert left_out.n_tasks + total[-1] == damaged_tasks.n_tasks


def test_a_block_damaged_after_the_first_pass_ends_the_run(damaged_tasks):
    with dask.config.set(SKIP), connect("sync") as runner:
        with pytest.warns(DamageWarning):
            reduce_tasks(damaged_tasks, row_sums, add, client=runner)
        damage(damaged_tasks, [7])
        with pytest.raises(DamagedStoreError, match=r"^1 of .* earlier pass .* now: block 7 "):
            reduce_tasks(damaged_tasks, row_sums, add, client=runner)


def test_a_store_without_a_sound_block_is_refused(damaged_tasks):
    damage(damaged_tasks, set(range(damaged_tasks.n_blocks)) - {0, 2, 5})
    with (
        dask.config.set(SKIP),
        pytest.raises(DamagedStoreError, match=r"^no block can be read"),
    ):
        reduce_tasks(damaged_tasks, row_sums, add, client="sync")


@pytest.mark.filterwarnings("default")  # shown, as the command does
def test_a_fit_and_an_assignment_without_the_damaged_blocks(damaged_tasks, tmp_path):
    folder, tasks = tmp_path, damaged_tasks
    run = CliRunner().invoke
    arguments = [tasks.path, str(folder / "m"), "--n-components", "2", "--scheduler", "sync"]
    refused = run(main, ["fit", *arguments])
    assert refused.exit_code == 1
    assert f"3 of {tasks.n_blocks} blocks are damaged" in refused.output
    assert not (folder / "m").exists()

    done = run(main, ["fit", *arguments, "--skip-damaged"])
    assert done.exit_code == 0, done.output
    assert "3 damaged blocks with" in done.output
    model = Model.load(folder / "m")
    n_left_out = sum(np.diff(tasks.block_tasks)[[0, 2, 5]].tolist())
    assert model.n_tasks == tasks.n_tasks - n_left_out
    assert model.diagnostics["blocks_left_out"] == [0, 2, 5]
    assert model.diagnostics["tasks_in_them"] == n_left_out
    assert any("0, 2, 5" in note for note in model.notes)

    out = folder / "labels.parquet"
    assigned = run(
        main, ["assign", str(folder / "m"), tasks.path, str(out), "--json", "--skip-damaged"]
    )
    assert assigned.exit_code == 0, assigned.output
    facts = json.loads(assigned.stdout)
    assert facts["tasks"] == tasks.n_tasks - n_left_out == len(pd.read_parquet(out))
    positions = np.concatenate([np.arange(*tasks.block_tasks[i : i + 2]) for i in (0, 2, 5)])
    there = pd.read_parquet(out)["task"].to_numpy()
    np.testing.assert_array_equal(there, np.delete(tasks.task_ids(), positions))


def test_an_estimator_skips_damage_by_configuration(damaged_tasks):
    with dask.config.set(SKIP), pytest.warns(DamageWarning):
        estimator = MixedLinearRegression(2, random_state=0).fit(damaged_tasks, client="sync")
    assert estimator.diagnostics_["blocks_left_out"] == [0, 2, 5]


def test_a_resumed_fit_leaves_out_what_it_left_out_before(damaged_tasks, tmp_path):
    """Even if the blocks were restored meanwhile; without skipping, it is not resumed."""

    class StoppedError(Exception):
        pass

    def stop(at):
        if at.stage == "refine":
            raise StoppedError

    kept = {"client": "sync", "checkpoint": tmp_path / "kept"}

    def fit(**options):
        return MixedLinearRegression(2, random_state=0).fit(damaged_tasks, **options)

    with dask.config.set(SKIP):
        with pytest.warns(DamageWarning):
            whole = fit(client="sync").model_
        with pytest.raises(StoppedError), pytest.warns(DamageWarning):
            fit(progress=stop, **kept)
    with pytest.raises(CheckpointError, match="skip_damaged was True and is None"):
        fit(resume=True, **kept)
    damage(damaged_tasks, [5])  # the bit flips back
    damaged_tasks.read_block(5)
    with dask.config.set(SKIP), pytest.warns(DamageWarning, match="0, 2, 5"):
        resumed = fit(resume=True, **kept).model_
    assert different(whole, resumed) == []


def test_new_tasks_update_a_model_of_a_damaged_store(damaged_tasks):
    with dask.config.set(SKIP), pytest.warns(DamageWarning):
        model = MixedLinearRegression(2, random_state=0).fit(damaged_tasks, client="sync")
    before = model.model_.n_tasks
    assert model.model_.sources[0]["block"] == 1
    with append_tasks(damaged_tasks.path) as writer:
        block = damaged_tasks.read_block(1)
        writer.write(block.X, block.y, block.sizes, list(range(10**6, 10**6 + block.n_tasks)))
    model.partial_fit(open_tasks(damaged_tasks.path), client="sync")
    assert model.model_.n_tasks == before + block.n_tasks
