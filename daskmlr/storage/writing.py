"""Writing a task store: whole tasks in, whole blocks out, published last."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from daskmlr.errors import InputError
from daskmlr.storage import layout
from daskmlr.storage.publish import no_space_named, publishing, refuse_existing
from daskmlr.storage.tasks import open_tasks

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray


@dataclass
class _Pending:
    """Whole tasks that wait for their block."""

    X: list[NDArray[np.floating]] = field(default_factory=list)
    y: list[NDArray[np.floating]] = field(default_factory=list)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    n_rows: int = 0

    def add(
        self, X: NDArray[np.floating], y: NDArray[np.floating], sizes: NDArray[np.int64]
    ) -> None:
        self.X.append(X)
        self.y.append(y)
        self.sizes.append(sizes)
        self.n_rows += len(y)

    def take(
        self,
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.int64]]:
        """Give all of it, and forget it."""
        joined = np.concatenate(self.X), np.concatenate(self.y), np.concatenate(self.sizes)
        self.X, self.y, self.sizes, self.n_rows = [], [], [], 0
        return joined


class _TaskColumn:
    """A per-task array, written in whole chunks.

    An append begins with the tasks of the last, partly filled chunk, so that this chunk too is
    written whole.
    """

    def __init__(self, array: zarr.Array, length: int):
        self._array = array
        self._chunk = int(array.chunks[0])
        self._start = length - length % self._chunk
        self._waiting = [np.asarray(array[self._start : length])]
        self.is_text = array.dtype.kind in "OTU"

    def extend(self, values: NDArray[Any]) -> None:
        self._waiting.append(values)
        n_whole = sum(map(len, self._waiting)) // self._chunk * self._chunk
        if n_whole:
            self._write(n_whole)

    def close(self) -> None:
        self._write(sum(map(len, self._waiting)))

    def _write(self, count: int) -> None:
        values = np.concatenate(self._waiting)
        self._array.resize((max(self._start + count, self._array.shape[0]),))
        self._array[self._start : self._start + count] = values[:count]
        self._start += count
        self._waiting = [values[count:]]


class TaskWriter:
    """Writes tasks into a store; made by `create_tasks` and `append_tasks`, used in a ``with``.

    The store is published when the block ends well. When it ends by an exception, nothing that was
    written stays.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        feature_names: Sequence[str],
        target_name: str,
        task_name: str,
        dtype: str,
        block_bytes: int,
        encoding: dict[str, Any] | None,
        provenance: list[dict[str, Any]],
        append_to: layout.Facts | None = None,
    ):
        self._path = path
        self._names = list(feature_names)
        self._target_name, self._task_name = target_name, task_name
        self._dtype = np.dtype(dtype)
        self._encoding, self._provenance = encoding, provenance
        self._before = append_to
        row_bytes = (len(self._names) + 1) * self._dtype.itemsize
        self._max_rows = append_to.block_rows if append_to else max(block_bytes // row_bytes, 1)
        self._codec = append_to.codec if append_to else None
        self._n_tasks = append_to.n_tasks if append_to else 0
        self._n_rows = append_to.n_rows if append_to else 0
        self._n_blocks = append_to.n_blocks if append_to else 0
        self._mean, self._m2 = _moments_of(append_to, len(self._names))
        self._pending = _Pending()
        self._stack = ExitStack()
        self._columns: dict[str, _TaskColumn] = {}

    def __enter__(self) -> TaskWriter:
        if self._before is None:
            root = self._stack.enter_context(publishing(self._path))
            self._group: zarr.Group = zarr.create_group(str(root), zarr_format=3, overwrite=True)
        else:
            self._stack.enter_context(no_space_named(self._path))
            self._group = zarr.open_group(str(self._path), mode="r+", zarr_format=3)
            for name, length in self._lengths():
                self._columns[name] = _TaskColumn(self._group[name], length)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
        else:
            with self._stack:
                self._finish()

    def write(
        self, X: ArrayLike, y: ArrayLike, sizes: ArrayLike, ids: ArrayLike | None = None
    ) -> None:
        """Write whole tasks.

        Parameters
        ----------
        X : array of shape (n_rows, d)
            The rows of a task are consecutive.
        y : array of shape (n_rows,)
        sizes : array of shape (n_tasks,), int
            Examples of each task, in order; at least 1.
        ids : array of shape (n_tasks,), optional
            int64 or str, all calls alike; by default 0, 1, 2, ... and on.

        Raises
        ------
        InputError
            For shapes that disagree, an empty task, a task larger than a block, or a value that is
            not finite.
        """
        sizes = np.asarray(sizes, dtype=np.int64)
        X, y = np.asarray(X), np.asarray(y)
        if ids is None:
            first = self._n_tasks + sum(map(len, self._pending.sizes))
            ids = np.arange(first, first + len(sizes))
        keys = _as_ids(ids)
        self._check(X, y, sizes, keys)
        X = np.ascontiguousarray(X, dtype=self._dtype)
        y = np.ascontiguousarray(y, dtype=self._dtype)
        self._check_finite(X, y, sizes, keys)
        if "task_id" not in self._columns:
            self._create_column("task_id", keys.dtype)
        self._columns["task_id"].extend(keys)
        self._pending.add(X, y, sizes)
        if self._pending.n_rows >= self._max_rows:
            self._flush(last=False)

    def _flush(self, *, last: bool) -> None:
        """Write the pending tasks as blocks; unless `last`, keep what may not fill one."""
        X, y, sizes = self._pending.take()
        ends = np.cumsum(sizes)
        start_task = start_row = 0
        while start_task < len(sizes):
            stop = int(np.searchsorted(ends, start_row + self._max_rows, side="right"))
            if stop == len(sizes) and not last and ends[-1] - start_row < self._max_rows:
                break
            stop_row = int(ends[stop - 1])
            rows = slice(start_row, stop_row)
            self._write_block(X[rows], y[rows], sizes[start_task:stop])
            start_task, start_row = stop, stop_row
        if start_task < len(sizes):
            self._pending.add(X[start_row:], y[start_row:], sizes[start_task:])

    def _write_block(
        self, X: NDArray[np.floating], y: NDArray[np.floating], sizes: NDArray[np.int64]
    ) -> None:
        if self._n_blocks == 0:
            self._create_arrays(X)
        place = slice(self._n_blocks * self._max_rows, (self._n_blocks + 1) * self._max_rows)
        for name, values in (("x", X), ("y", y)):
            array = self._group[name]
            if array.shape[0] < place.stop:  # grown by doubling: each growth rewrites metadata
                array.resize((2 * place.stop, *array.shape[1:]))
            block = np.zeros((self._max_rows, *values.shape[1:]), dtype=self._dtype)
            block[: len(values)] = values
            array[place] = block
        self._add_moments(X, y)
        self._n_blocks += 1
        self._n_tasks += len(sizes)
        self._n_rows += len(y)
        self._columns["task_size"].extend(sizes.astype(np.int32))
        self._columns["block_tasks"].extend(np.array([self._n_tasks]))

    def _create_arrays(self, first: NDArray[np.floating]) -> None:
        self._codec = layout.choose_codec(first)
        for name, shape in (("x", (len(self._names),)), ("y", ())):
            self._group.create_array(
                name,
                shape=(self._max_rows, *shape),
                chunks=(self._max_rows, *shape),
                dtype=self._dtype,
                fill_value=np.nan,
                compressors=layout.codecs(self._codec, self._dtype.itemsize),
                dimension_names=("row", "feature")[: 1 + len(shape)],
            )
        self._create_column("task_size", np.dtype(np.int32))
        self._create_column("block_tasks", np.dtype(np.int64))
        self._columns["block_tasks"].extend(np.array([0]))

    def _create_column(self, name: str, dtype: np.dtype[Any]) -> None:
        text = dtype.kind in "OTU"
        array = self._group.create_array(
            name,
            shape=(0,),
            chunks=(layout.BLOCK_CHUNK if name == "block_tasks" else layout.TASK_CHUNK,),
            dtype=str if text else dtype,
            fill_value=layout.missing_value(name, text=text),
            compressors=layout.codecs("none", 1),
            dimension_names=("block" if name == "block_tasks" else "task",),
            config={"write_empty_chunks": True},
        )
        self._columns[name] = _TaskColumn(array, 0)

    def _finish(self) -> None:
        """Write what waits, trim the arrays, and publish by writing the attributes."""
        if self._n_blocks == 0:
            # a store of one block gets a block of its own size
            self._max_rows = min(self._max_rows, max(self._pending.n_rows, 1))
        if self._pending.n_rows:
            self._flush(last=True)
        if self._n_tasks == 0:
            raise InputError(f"no task was written to {self._path}: the input is empty")
        for column in self._columns.values():
            column.close()
        for name in ("x", "y"):
            array = self._group[name]
            array.resize((self._n_blocks * self._max_rows, *array.shape[1:]))
        facts = layout.Facts(
            n_tasks=self._n_tasks,
            n_rows=self._n_rows,
            n_blocks=self._n_blocks,
            block_rows=self._max_rows,
            dtype=self._dtype.name,
            feature_names=self._names,
            target_name=self._target_name,
            task_name=self._task_name,
            feature_mean=self._mean[:-1].tolist(),
            feature_scale=np.sqrt(self._m2[:-1] / self._n_rows).tolist(),
            target_mean=float(self._mean[-1]),
            target_scale=float(np.sqrt(self._m2[-1] / self._n_rows)),
            codec=self._codec or "none",
            encoding=self._encoding,
            provenance=self._provenance,
        )
        self._group.attrs.update(facts.to_attrs())

    def _lengths(self) -> tuple[tuple[str, int], ...]:
        """Return the published entries of each per-task array."""
        return (
            ("task_size", self._n_tasks),
            ("task_id", self._n_tasks),
            ("block_tasks", self._n_blocks + 1),
        )

    def _add_moments(self, X: NDArray[np.floating], y: NDArray[np.floating]) -> None:
        """Merge a block's means and sums of squared deviations (Chan, Golub, LeVeque 1983)."""
        before = self._n_rows
        n = len(y)
        mean = np.append(X.mean(axis=0, dtype=np.float64), y.mean(dtype=np.float64))
        m2 = np.append(
            ((X - mean[:-1]) ** 2).sum(axis=0, dtype=np.float64), ((y - mean[-1]) ** 2).sum()
        )
        step = mean - self._mean
        self._mean = self._mean + step * (n / (before + n))
        self._m2 = self._m2 + m2 + step**2 * (before * n / (before + n))

    def _check(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        sizes: NDArray[np.int64],
        keys: NDArray[Any],
    ) -> None:
        d = len(self._names)
        if X.ndim != 2 or X.shape[1] != d or y.shape != X.shape[:1] or sizes.sum() != len(y):
            raise InputError(
                f"X must be (n_rows, {d}), y (n_rows,), sizes must add up to n_rows: got "
                f"{X.shape}, {y.shape}, {sizes.sum()}"
            )
        if keys.shape != sizes.shape:
            raise InputError(f"ids must be one per task ({len(sizes)}), got {keys.shape}")
        for name, values in (("X", X), ("y", y)):
            if values.dtype.kind not in "biuf":
                raise InputError(f"{name} must be numeric, got dtype {values.dtype}")
        if len(sizes) and sizes.min() < 1:
            raise InputError(f"task {keys[sizes.argmin()]!r} is empty: leave it out")
        if len(sizes) and sizes.max() > self._max_rows:
            task = int(sizes.argmax())
            row_bytes = (d + 1) * self._dtype.itemsize
            raise InputError(
                f"task {keys[task]!r} has {sizes[task]:,} examples, more than the "
                f"{self._max_rows:,} rows of a block: set block_bytes to at least "
                f"{int(sizes[task]) * row_bytes:,}, or split the task"
            )
        known = self._columns.get("task_id")
        if known is not None and known.is_text != (keys.dtype.kind != "i"):
            raise InputError(
                f"task ids must be all integers or all strings: the store has "
                f"{'strings' if known.is_text else 'integers'}, got {keys.dtype}"
            )

    def _check_finite(
        self,
        X: NDArray[np.floating],
        y: NDArray[np.floating],
        sizes: NDArray[np.int64],
        keys: NDArray[Any],
    ) -> None:
        # a sum is finite unless a value is not (or the sum overflows): no mask unless needed
        if np.isfinite(X.sum(dtype=np.float64)) and np.isfinite(y.sum(dtype=np.float64)):
            return
        bad = ~np.isfinite(np.column_stack([X, y]))
        if not bad.any():
            return
        row, column = (int(v) for v in np.argwhere(bad)[0])
        task = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
        name = (*self._names, self._target_name)[column]
        value = np.append(X[row], y[row])[column]
        raise InputError(
            f"{name!r} is {value} in task {keys[task]!r} (and {np.count_nonzero(bad) - 1} more "
            f"values are not finite in {self._dtype}): drop or fill them first"
        )


def create_tasks(
    path: str | os.PathLike[str],
    *,
    feature_names: Sequence[str],
    target_name: str = "y",
    task_name: str = "task",
    dtype: Literal["float32", "float64"] = "float64",
    block_bytes: int | None = None,
    encoding: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> TaskWriter:
    """Begin a new task store.

    Parameters
    ----------
    path : path
        Must not exist; appears when the writer's ``with`` block ends well.
    feature_names : sequence of str
        Distinct.
    target_name, task_name : str
    dtype : {"float32", "float64"}
    block_bytes : int, optional
        Size of a block, 16 MiB by default; a task may not be larger.
    encoding : dict, optional
        JSON-able, see `FeatureEncoding`.
    provenance : dict, optional
        JSON-able: where the tasks come from.

    Raises
    ------
    PathExistsError
    InputError
        For no or repeated feature names, or another dtype.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_tasks(f"{folder}/tasks", feature_names=["x"]) as writer:
    ...         writer.write([[1.0], [2.0], [3.0]], [0.0, 1.0, 0.0], [2, 1], ["ann", "bob"])
    ...     open_tasks(f"{folder}/tasks").task_ids().tolist()
    ['ann', 'bob']
    """
    refuse_existing(path)
    names = [str(name) for name in feature_names]
    if not names or len(set(names)) < len(names):
        raise InputError(f"feature names must be given and distinct, got {names}")
    if np.dtype(dtype).name not in layout.DTYPES:
        raise InputError(f"dtype must be one of {layout.DTYPES}, got {dtype!r}")
    if block_bytes is not None and block_bytes < 1:
        raise InputError(f"block_bytes must be at least 1, got {block_bytes}")
    return TaskWriter(
        path,
        feature_names=names,
        target_name=target_name,
        task_name=task_name,
        dtype=dtype,
        block_bytes=layout.BLOCK_BYTES if block_bytes is None else block_bytes,
        encoding=encoding,
        provenance=[provenance or {}],
    )


def append_tasks(
    path: str | os.PathLike[str], *, provenance: dict[str, Any] | None = None
) -> TaskWriter:
    """Append tasks to a store; they begin in a new block and are seen when all are written.

    An append that is stopped leaves the store as it was; the next one writes over its remains.

    Raises
    ------
    StoreError
        If there is no complete task store at `path`.
    """
    facts = open_tasks(path).facts
    return TaskWriter(
        path,
        feature_names=facts.feature_names,
        target_name=facts.target_name,
        task_name=facts.task_name,
        dtype=facts.dtype,
        block_bytes=0,
        encoding=facts.encoding,
        provenance=[*facts.provenance, provenance or {}],
        append_to=facts,
    )


def _moments_of(
    facts: layout.Facts | None, d: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sum of squared deviations of features and target so far."""
    if facts is None:
        return np.zeros(d + 1), np.zeros(d + 1)
    scale = np.append(facts.feature_scale, facts.target_scale)
    return np.append(facts.feature_mean, facts.target_mean), scale**2 * facts.n_rows


def _as_ids(ids: ArrayLike) -> NDArray[Any]:
    """Return task ids as int64 or as str objects."""
    keys = np.asarray(ids)
    if keys.dtype.kind in "iu":
        return keys.astype(np.int64)
    texts = keys.astype(object)
    wrong = next((key for key in texts if not isinstance(key, str) or not key), None)
    if wrong is not None or keys.dtype.kind not in "OTU":
        raise InputError(
            f"task ids must be integers or non-empty strings, got {keys.dtype} ({wrong!r})"
        )
    return texts
