"""Writing a task store: whole tasks in, whole blocks out, published last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from daskmlr.errors import InputError, StoreError
from daskmlr.storage import checking, layout
from daskmlr.storage.filling import BlockBuffer, RunningMoments, TaskColumn, new_arrays
from daskmlr.storage.publish import (
    changing,
    only_writer,
    publishing,
    refuse_existing,
)
from daskmlr.storage.returning import ReturningTasks
from daskmlr.storage.tasks import open_tasks

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray


class TaskWriter:
    """Writes tasks into a store; made by `create_tasks` and `append_tasks`, used in a ``with``.

    The store is published when the block ends well. When it ends by an exception, nothing that was
    written stays.

    Parameters
    ----------
    path : path
    facts : Facts
        Of a store without tasks, or of the one to append to.
    provenance : dict
        Added to that of the store.
    shrink : bool
        Whether a store smaller than a block gets a block of about its own size.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        facts: layout.Facts,
        *,
        provenance: dict[str, Any],
        shrink: bool = False,
    ):
        self._path = path
        self._facts = self._before = facts
        self._appends = facts.n_tasks > 0
        self._provenance = provenance
        self._shrink = shrink
        self._dtype = np.dtype(facts.dtype)
        self._row_bytes = (len(facts.feature_names) + 1) * self._dtype.itemsize
        self._moments = RunningMoments(facts)
        self._arrays: dict[str, zarr.Array] = {}
        self._columns: dict[str, TaskColumn] = {}
        self._last_id: object = None
        self._returning: ReturningTasks | None = None
        self._stack = ExitStack()
        self._buffer: BlockBuffer | None = None
        self._failed = False

    def __enter__(self) -> TaskWriter:
        with self._stack:  # closes what was opened if this fails
            if self._appends:
                self._open()
            else:
                root = self._stack.enter_context(publishing(self._path))
                self._group: zarr.Group = zarr.create_group(root.zarr_store(), zarr_format=3)
            # Zarr writes in threads that an interrupt does not stop; leaving this one waits for
            # them, so that what is removed afterwards stays removed.
            self._thread = self._stack.enter_context(ThreadPoolExecutor(1, "daskmlr-write"))
            # one that is interrupted as it starts is not waited for
            self._thread.submit(int).result()
            facts = self._facts
            self._buffer = BlockBuffer(facts.block_rows, len(facts.feature_names), self._dtype)
            self._stack = self._stack.pop_all()
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
                self._run(self._finish)
        self._buffer = None

    def write(
        self, X: ArrayLike, y: ArrayLike, sizes: ArrayLike, ids: ArrayLike | None = None
    ) -> None:
        """Write whole tasks.

        Parameters
        ----------
        X : array of shape (n_rows, d)
            The rows of a task are consecutive. Of a data frame, the columns are the features.
        y : array of shape (n_rows,)
        sizes : array of shape (n_tasks,), int
            Examples of each task, in order; at least 1.
        ids : array of shape (n_tasks,), optional
            int64 or str, all calls alike, and distinct; that neighbours differ is checked. By
            default 0, 1, 2, ... and on.

        Raises
        ------
        InputError
            For shapes that disagree, an empty task, a task larger than a block, an id given twice
            in a row, or a value that is not finite or too large for the store's dtype. When the
            ``with`` block ends, if the store that is appended to has some of the tasks already.
        FeatureMismatchError
            If the columns of a data frame have other names, or are in another order.
        NoSpaceError
            When the ``with`` block ends, if the disk was full.
        """
        if self._buffer is None:
            raise InputError("tasks are written inside `with create_tasks(...) as writer:`")
        checking.check_columns_of(X, self._facts.feature_names, "X", whose="store")
        sizes, X, y = checking.checked_sizes(sizes), np.asarray(X), np.asarray(y)
        first = self._facts.n_tasks + self._buffer.n_tasks
        keys = checking.checked_ids(np.arange(first, first + len(sizes)) if ids is None else ids)
        checking.check_shapes(X, y, sizes, keys, len(self._facts.feature_names))
        if len(sizes):
            self._check(X, y, sizes, keys)
            self._last_id = keys.item(-1)
            if self._returning is not None:
                self._returning.look_up(keys)
            self._fill(self._buffer, X, y, sizes, keys)

    def _check(
        self, X: NDArray[Any], y: NDArray[Any], sizes: NDArray[np.int64], keys: NDArray[Any]
    ) -> None:
        facts = self._facts
        checking.check_sizes(
            sizes,
            keys,
            block_rows=facts.block_rows,
            row_bytes=self._row_bytes,
            fixed=self._appends,
        )
        checking.check_distinct(keys, self._last_id)
        names = [*facts.feature_names, facts.target_name]
        checking.check_values(X, y, sizes, keys, names=names, dtype=self._dtype)

    def _fill(
        self,
        buffer: BlockBuffer,
        X: NDArray[Any],
        y: NDArray[Any],
        sizes: NDArray[np.int64],
        keys: NDArray[Any],
    ) -> None:
        """Put tasks into the block, and write it whenever the next task has no room in it."""
        ends = np.cumsum(sizes)
        task = row = 0
        while task < len(sizes):
            stop = int(np.searchsorted(ends, row + buffer.room, side="right"))
            if stop == task:
                self._run(self._write_block, buffer)
                continue
            stop_row = int(ends[stop - 1])
            buffer.add(X[row:stop_row], y[row:stop_row], sizes[task:stop], keys[task:stop])
            task, row = stop, stop_row

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Write in the thread; what failed half-way is not published, even if it is caught."""
        if self._failed:
            raise StoreError(f"a block of {self._path} could not be written: nothing is kept")
        self._failed = True
        self._thread.submit(function, *arguments).result()
        self._failed = False

    def _write_block(self, buffer: BlockBuffer) -> None:
        facts = self._facts
        if facts.n_blocks == 0:
            facts = self._create_arrays(buffer)
        self._moments.add(*buffer.rows, before=facts.n_rows)
        start, stop = (i * facts.block_rows for i in (facts.n_blocks, facts.n_blocks + 1))
        for name, values in zip(("x", "y"), buffer.padded(facts.block_rows), strict=True):
            array = self._arrays[name]
            if array.shape[0] < stop:  # grown by doubling: each growth rewrites metadata
                array.resize((2 * stop, *array.shape[1:]))
            array[start:stop] = values
        self._facts = facts = replace(
            facts,
            n_blocks=facts.n_blocks + 1,
            n_tasks=facts.n_tasks + buffer.n_tasks,
            n_rows=facts.n_rows + buffer.n_rows,
        )
        self._columns["task_size"].extend(buffer.sizes)
        self._columns["task_id"].extend(buffer.ids)
        self._columns["block_tasks"].extend(np.array([facts.n_tasks]))
        buffer.clear()

    def _create_arrays(self, buffer: BlockBuffer) -> layout.Facts:
        """Make the arrays of a new store, with the codec that suits its first block."""
        facts = replace(self._facts, codec=layout.choose_codec(buffer.rows[0]))
        self._arrays, self._columns = new_arrays(self._group, facts, buffer.ids[:0])
        self._columns["block_tasks"].extend(np.array([0]))
        return facts

    def _finish(self) -> None:
        """Write what waits, trim the arrays, and publish by writing the attributes."""
        buffer = self._buffer
        if buffer is None or self._facts.n_tasks + buffer.n_tasks == self._before.n_tasks:
            raise InputError(f"no task was written to {self._path}: the input is empty")
        if self._returning is not None:
            self._returning.refuse()
        if self._shrink and self._facts.n_blocks == 0:
            least = max(layout.SMALLEST_BLOCK_BYTES // self._row_bytes, 1)
            rows = min(max(buffer.n_rows, least), self._facts.block_rows)
            self._facts = replace(self._facts, block_rows=rows)
        if buffer.n_tasks:
            self._write_block(buffer)
        for column in self._columns.values():
            column.close()
        self._trim(self._facts)
        facts = replace(
            self._facts,
            provenance=[*self._facts.provenance, self._provenance],
            **self._moments.facts(self._facts.n_rows),
        )
        self._group.attrs.update(facts.to_attrs())

    def _trim(self, facts: layout.Facts) -> None:
        """Cut off what lies beyond the counts."""
        for name, array in self._arrays.items():
            if array.shape != facts.shape(name):
                array.resize(facts.shape(name))

    def _open(self) -> None:
        """Open the store to append to, to be put back as it was when this ends by an exception."""
        self._stack.enter_context(only_writer(self._path))
        store = open_tasks(self._path)
        if store.facts != self._before:
            raise StoreError(f"{self._path} was appended to in the meantime: begin again")
        self._stack.enter_context(self._put_back_on_error())
        root = self._stack.enter_context(changing(self._path))
        self._group = zarr.open_group(root.zarr_store(), mode="r+", zarr_format=3)
        self._arrays = {name: self._group[name] for name in layout.DIMENSIONS}
        for name, length, read in (
            ("task_size", store.n_tasks, store.task_sizes),
            ("task_id", store.n_tasks, store.task_ids),
            ("block_tasks", store.n_blocks + 1, lambda i, j: store.block_tasks[i:j]),
        ):
            start = length - length % store.facts.chunks(name)[0]
            self._columns[name] = TaskColumn(self._arrays[name], read(start, length), start)
        self._last_id = store.task_ids(store.n_tasks - 1).item(0)
        self._returning = ReturningTasks(store)

    @contextmanager
    def _put_back_on_error(self) -> Iterator[None]:
        """Undo an append that ends by an exception, unless it was published before."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # the store is valid all the same, only longer on disk
                if open_tasks(self._path).facts == self._before:
                    self._trim(self._before)
            raise


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
    path : path or URL
        Must not exist; appears when the writer's ``with`` block ends well. If the process is
        killed, a hidden folder ``.<name>.staging-...`` stays beside it, or what it wrote stays
        under the URL: delete it.
    feature_names : sequence of str
        Distinct.
    target_name, task_name : str
    dtype : {"float32", "float64"}
    block_bytes : int, optional
        Size of a block; a task may not be larger, nor one that is appended later. By default
        16 MiB, or less for a store smaller than that.
    encoding : dict, optional
        JSON-able, see `FeatureEncoding`.
    provenance : dict, optional
        JSON-able: where the tasks come from.

    Raises
    ------
    PathExistsError
    StoreError
        If the folder of `path` does not exist.
    InputError
        For no or repeated feature names, another dtype, an impossible `block_bytes`, or facts
        that are not JSON-able.

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
    names = checking.checked_names(feature_names)
    kind = checking.checked_dtype(dtype)
    checking.checked_json("encoding", encoding)
    checking.checked_json("provenance", provenance)
    row_bytes = (len(names) + 1) * kind.itemsize
    nothing_yet = layout.Facts(
        n_tasks=0,
        n_rows=0,
        n_blocks=0,
        block_rows=max(checking.checked_block_bytes(block_bytes) // row_bytes, 1),
        dtype=kind.name,
        feature_names=names,
        target_name=target_name,
        task_name=task_name,
        feature_mean=[0.0] * len(names),
        feature_scale=[0.0] * len(names),
        target_mean=0.0,
        target_scale=0.0,
        codec="none",
        encoding=encoding,
        provenance=[],
    )
    return TaskWriter(path, nothing_yet, provenance=provenance or {}, shrink=block_bytes is None)


def append_tasks(
    path: str | os.PathLike[str], *, provenance: dict[str, Any] | None = None
) -> TaskWriter:
    """Append tasks to a store; they begin in a new block and are seen when all are written.

    Blocks are as large as those of the store. An append that is stopped leaves the store as it
    was; the next one writes over its remains. One process appends at a time. Tasks that the store
    has already are refused when the ``with`` block ends: its ids are read for that, no more.

    Parameters
    ----------
    path : path
    provenance : dict, optional
        JSON-able: where the tasks come from.

    Raises
    ------
    StoreError
        If there is no complete task store at `path`, or another process is appending to it.
    InputError
        As `create_tasks`; and see `TaskWriter.write`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_tasks(f"{folder}/tasks", feature_names=["x"]) as writer:
    ...         writer.write([[1.0], [2.0]], [0.0, 1.0], [2])
    ...     with append_tasks(f"{folder}/tasks") as writer:
    ...         writer.write([[3.0]], [0.0], [1])
    ...     open_tasks(f"{folder}/tasks").task_sizes().tolist()
    [2, 1]
    """
    checking.checked_json("provenance", provenance)
    return TaskWriter(path, open_tasks(path).facts, provenance=provenance or {})
