"""Reading a task store."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from daskmlr.errors import DamagedStoreError, StoreError
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.storage import layout

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray


class TaskStore:
    """A task store on disk; open one with `open_tasks`.

    Cheap to pickle (by its path) and to open, and read-only: it sees the tasks that were published
    when it was opened.

    Attributes
    ----------
    path : str
    n_tasks, n_rows, n_features, n_blocks, block_rows : int
        Tasks, examples, covariates, blocks, and rows that a block has room for.
    dtype : numpy dtype
        float32 or float64.
    feature_names : tuple of n_features str
    target_name, task_name : str
    feature_mean, feature_scale : ndarray of shape (n_features,), float64
        Mean and standard deviation over all examples, in the feature's units.
    target_mean, target_scale : float
    encoding : dict or None
        How the features were made of a table's columns.
    provenance : list of dict
        Who wrote and appended what.
    facts : Facts
        The attributes as they stand in the store.
    """

    def __init__(self, path: str, group: zarr.Group, facts: layout.Facts):
        self.path = path
        self.facts = facts
        self._group = group
        self._codec = facts.codec
        self.n_tasks, self.n_rows = facts.n_tasks, facts.n_rows
        self.n_blocks, self.block_rows = facts.n_blocks, facts.block_rows
        self.dtype = np.dtype(facts.dtype)
        self.feature_names = tuple(facts.feature_names)
        self.n_features = len(self.feature_names)
        self.target_name, self.task_name = facts.target_name, facts.task_name
        self.feature_mean = np.array(facts.feature_mean)
        self.feature_scale = np.array(facts.feature_scale)
        self.target_mean, self.target_scale = facts.target_mean, facts.target_scale
        self.encoding, self.provenance = facts.encoding, facts.provenance

    def __reduce__(self) -> tuple[Callable[[str], TaskStore], tuple[str]]:
        return open_tasks, (self.path,)

    def __repr__(self) -> str:
        return (
            f"<TaskStore {self.path!r}: {self.n_tasks:,} tasks, {self.n_rows:,} examples, "
            f"{self.n_features} features, {self.dtype}, {self.n_blocks:,} blocks>"
        )

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.dtype.itemsize

    @property
    def codec(self) -> str:
        """How chunks are encoded, in words."""
        return layout.describe_codec(self._codec)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples, decoded."""
        return self.n_rows * (self.n_features + 1) * self.itemsize

    @property
    def nbytes_stored(self) -> int:
        """Bytes on disk of all arrays."""
        return sum(int(array.nbytes_stored()) for _, array in self._group.arrays())

    @cached_property
    def block_tasks(self) -> NDArray[np.int64]:
        """First task of each block, and their number: shape (n_blocks + 1,)."""
        return self._per_task("block_tasks", 0, self.n_blocks + 1).astype(np.int64)

    def task_sizes(self, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Examples of tasks ``start:stop``, shape (stop - start,), int32."""
        return self._per_task("task_size", start, self.n_tasks if stop is None else stop)

    def task_ids(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Keys of tasks ``start:stop``: int64, or str objects."""
        return self._per_task("task_id", start, self.n_tasks if stop is None else stop)

    def read_block(self, index: int) -> TaskBlock:
        """Read one block.

        Raises
        ------
        IndexError
            If there is no such block.
        DamagedStoreError
            If its chunk is missing, cut short, or does not match its checksum.
        """
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"block {index} of {self.n_blocks}")
        first, last = (int(v) for v in self.block_tasks[index : index + 2])
        sizes = self.task_sizes(first, last)
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        rows = slice(index * self.block_rows, index * self.block_rows + int(offsets[-1]))
        X, y = (self._floats(name, rows, index) for name in ("x", "y"))
        return TaskBlock(X, y, offsets, first)

    def validate(self, *, deep: bool = False) -> None:
        """Check that the arrays agree with each other; `deep` reads every chunk too.

        Raises
        ------
        DamagedStoreError
            Naming what is wrong.
        """
        rows = self.n_blocks * self.block_rows
        for name, least in (
            ("x", rows),
            ("y", rows),
            ("task_size", self.n_tasks),
            ("task_id", self.n_tasks),
            ("block_tasks", self.n_blocks + 1),
        ):
            length = self._group[name].shape[0] if name in self._group else 0
            if length < least:
                raise DamagedStoreError(f"{self.path}/{name} has {length} of {least} entries")
        first = self.block_tasks
        if first[0] != 0 or first[-1] != self.n_tasks or (np.diff(first) < 1).any():
            raise DamagedStoreError(f"{self.path}/block_tasks does not cut {self.n_tasks} tasks")
        total = 0
        for index in range(self.n_blocks):
            used = int(self.task_sizes(int(first[index]), int(first[index + 1])).sum())
            if not 0 < used <= self.block_rows:
                raise DamagedStoreError(f"block {index} of {self.path} claims {used} rows")
            total += used
            if deep:
                self.read_block(index)
                self.task_ids(int(first[index]), int(first[index + 1]))
        if total != self.n_rows:
            raise DamagedStoreError(f"{self.path}/task_size adds up to {total}, not {self.n_rows}")

    def _floats(self, name: str, rows: slice, index: int) -> NDArray[np.floating]:
        values = self._read(name, rows, f"block {index}")
        if np.isnan(values[:1]).any():
            raise DamagedStoreError(
                f"chunk {index} of {self.path}/{name} is missing: restore it, or write the store "
                "again"
            )
        return values

    def _per_task(self, name: str, start: int, stop: int) -> NDArray[Any]:
        values = self._read(name, slice(start, stop), f"entries {start}:{stop}")
        missing = values == layout.missing_value(name, text=values.dtype.kind != "i")
        if missing.any():
            chunk = (start + int(np.argmax(missing))) // int(self._group[name].chunks[0])
            raise DamagedStoreError(
                f"chunk {chunk} of {self.path}/{name} is missing: restore it, or write the store "
                "again"
            )
        return values

    def _read(self, name: str, where: slice, what: str) -> NDArray[Any]:
        try:
            return np.asarray(self._group[name][where])
        except (MemoryError, OSError):
            raise
        except Exception as error:
            raise DamagedStoreError(
                f"{what} of {self.path}/{name} cannot be read ({error}): a chunk is damaged. "
                "Restore it, or write the store again"
            ) from error


def open_tasks(path: str | os.PathLike[str]) -> TaskStore:
    """Open a complete task store for reading.

    Parameters
    ----------
    path : path

    Raises
    ------
    StoreError
        If there is no task store at `path`, or one of another format.
    IncompleteStoreError
        If its writer was stopped before it published.
    """
    metadata = Path(path) / "zarr.json"
    try:
        changed = metadata.stat().st_mtime_ns
    except FileNotFoundError:
        what = "is not a Zarr v3 group" if Path(path).exists() else "does not exist"
        raise StoreError(
            f"there is no task store at {path}: it {what}. Write one with ingest or simulate"
        ) from None
    except NotADirectoryError:
        raise StoreError(f"{path} is a file, not a task store") from None
    return _open(str(path), changed)


@lru_cache(maxsize=64)
def _open(path: str, changed: int) -> TaskStore:  # noqa: ARG001 - a store that changed is read anew
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except Exception as error:
        raise StoreError(f"{path} is not a task store: {error}") from error
    return TaskStore(path, group, layout.Facts.from_attrs(dict(group.attrs), path))
