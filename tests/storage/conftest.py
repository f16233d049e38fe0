"""Tables of ragged tasks, ways to write them, and what a store of them must hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from daskmlr.storage.writing import append_tasks, create_tasks


@dataclass(frozen=True)
class Table:
    """Whole tasks in memory."""

    X: np.ndarray
    y: np.ndarray
    sizes: np.ndarray
    ids: np.ndarray

    def part(self, start: int, stop: int) -> Table:
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        rows = slice(ends[start], ends[stop])
        return Table(self.X[rows], self.y[rows], self.sizes[start:stop], self.ids[start:stop])

    def greedy_blocks(self, block_rows: int) -> list[int]:
        """First task of each block, by the rule: a block ends when the next task has no room."""
        first, used = [0], 0
        for task, size in enumerate(self.sizes):
            if used + size > block_rows:
                first.append(task)
                used = 0
            used += size
        return [*first, len(self.sizes)]


class Tasks:
    """What the tests of a store have in common."""

    @staticmethod
    def table(sizes, *, d=3, dtype="float64", ids=None, seed=0, rounded=False) -> Table:
        rng = np.random.default_rng(seed)
        sizes = np.asarray(sizes)
        X = rng.normal(size=(sizes.sum(), d))
        X = (X.round() + 0.0 if rounded else X).astype(dtype)
        y = rng.normal(size=sizes.sum()).astype(dtype)
        ids = np.arange(len(sizes)) if ids is None else np.asarray(ids)
        return Table(X, y, sizes, ids)

    @staticmethod
    def write(path, table: Table, *, cuts=(), block_rows=None, **options):
        """Write a table by as many calls as `cuts` (numbers of tasks) make."""
        d, dtype = table.X.shape[1], table.X.dtype
        if block_rows is not None:
            options["block_bytes"] = block_rows * (d + 1) * dtype.itemsize
        names = [f"x{j}" for j in range(d)]
        with create_tasks(path, feature_names=names, dtype=dtype.name, **options) as writer:
            Tasks.feed(writer, table, cuts)
        return path

    @staticmethod
    def append(path, table: Table, *, cuts=()):
        with append_tasks(path) as writer:
            Tasks.feed(writer, table, cuts)

    @staticmethod
    def feed(writer, table: Table, cuts=()):
        edges = [0, *sorted(cuts), len(table.sizes)]
        for start, stop in pairwise(edges):
            part = table.part(start, stop)
            writer.write(part.X, part.y, part.sizes, part.ids)

    @staticmethod
    def assert_holds(store, table: Table):
        """The store gives back the table, block by block, and by its per-task arrays."""
        assert (store.n_tasks, store.n_rows) == (len(table.sizes), len(table.y))
        assert store.n_features == table.X.shape[1]
        assert store.dtype == table.X.dtype
        blocks = [store.read_block(i) for i in range(store.n_blocks)]
        for name in ("X", "y"):
            values = np.concatenate([getattr(block, name) for block in blocks])
            assert values.dtype == table.X.dtype
            np.testing.assert_array_equal(values, getattr(table, name))
        np.testing.assert_array_equal(
            np.concatenate([block.sizes for block in blocks]), table.sizes
        )
        assert [block.first_task for block in blocks] == store.block_tasks[:-1].tolist()
        assert store.block_tasks[-1] == store.n_tasks
        assert store.task_sizes().dtype == np.int32
        np.testing.assert_array_equal(store.task_sizes(), table.sizes)
        assert store.task_ids().tolist() == table.ids.tolist()

    @staticmethod
    def files(path) -> dict[str, bytes]:
        """Every file of a store, by its place in it."""
        root = Path(path)
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def tasks():
    return Tasks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    if os.name == "nt" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount the small file system that this test fills")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount the small file system that this test fills")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
