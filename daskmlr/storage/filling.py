"""What a writer fills as it goes: a block of rows, chunks of per-task arrays, moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.storage import layout

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from daskmlr.storage.layout import Facts


class BlockBuffer:
    """The tasks of the block that is being filled; the rows are copies, used again and again.

    Attributes
    ----------
    n_rows, n_tasks : int
        Filled so far.
    """

    def __init__(self, block_rows: int, n_features: int, dtype: np.dtype[Any]):
        self._X = np.empty((block_rows, n_features), dtype=dtype)
        self._y = np.empty(block_rows, dtype=dtype)
        self._sizes: list[NDArray[np.int64]] = []
        self._ids: list[NDArray[Any]] = []
        self.n_rows = self.n_tasks = 0

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return len(self._y) - self.n_rows

    @property
    def rows(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """X of shape (n_rows, d) and y of shape (n_rows,), as they are: not copies."""
        return self._X[: self.n_rows], self._y[: self.n_rows]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each task, shape (n_tasks,)."""
        return np.concatenate(self._sizes)

    @property
    def ids(self) -> NDArray[Any]:
        """Key of each task, shape (n_tasks,)."""
        return np.concatenate(self._ids)

    def add(
        self, X: NDArray[Any], y: NDArray[Any], sizes: NDArray[np.int64], ids: NDArray[Any]
    ) -> None:
        """Take whole tasks, of not more rows than there is room for."""
        rows = slice(self.n_rows, self.n_rows + len(y))
        self._X[rows], self._y[rows] = X, y
        self._sizes.append(sizes)
        self._ids.append(ids)
        self.n_rows += len(y)
        self.n_tasks += len(sizes)

    def padded(self, block_rows: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Give X and y of `block_rows` rows, those beyond the tasks zero."""
        self._X[self.n_rows : block_rows] = 0
        self._y[self.n_rows : block_rows] = 0
        return self._X[:block_rows], self._y[:block_rows]

    def clear(self) -> None:
        """Forget the tasks."""
        self._sizes, self._ids = [], []
        self.n_rows = self.n_tasks = 0


class TaskColumn:
    """A per-task array, written in whole chunks.

    Parameters
    ----------
    array : zarr.Array
    published : ndarray
        The entries of the last, partly filled chunk of what is there already; this chunk is
        written again, whole.
    start : int
        Where that chunk begins.
    """

    def __init__(self, array: zarr.Array, published: NDArray[Any], start: int):
        self._array = array
        self._start = start
        dtype = array.dtype if array.dtype.kind == "i" else np.dtype(object)
        self._values = np.empty(int(array.chunks[0]), dtype=dtype)
        self._used = 0
        self.extend(published)

    def extend(self, values: NDArray[Any]) -> None:
        """Add entries, and write the chunks that they fill."""
        while len(values):
            part = values[: len(self._values) - self._used]
            self._values[self._used : self._used + len(part)] = part
            self._used += len(part)
            values = values[len(part) :]
            if self._used == len(self._values):
                self._write()
                self._start, self._used = self._start + self._used, 0

    def close(self) -> None:
        """Write what is left; the array is then as long as its chunks."""
        if self._used:
            self._write()

    def _write(self) -> None:
        """Write a whole chunk, so that nothing of what a killed append left there stays."""
        self._values[self._used :] = self._array.fill_value
        stop = self._start + len(self._values)
        if self._array.shape[0] < stop:
            self._array.resize((stop,))
        self._array[self._start : stop] = self._values


def new_arrays(
    group: zarr.Group, facts: Facts, no_ids: NDArray[Any]
) -> tuple[dict[str, zarr.Array], dict[str, TaskColumn]]:
    """Make the arrays of a new store, and the columns that fill the per-task ones.

    Parameters
    ----------
    group : zarr.Group
    facts : Facts
    no_ids : ndarray of shape (0,)
        Of the type of the task ids.
    """
    arrays: dict[str, zarr.Array] = {}
    columns: dict[str, TaskColumn] = {}
    for name, dtype in (
        ("x", facts.dtype),
        ("y", facts.dtype),
        ("task_size", "int32"),
        ("task_id", str if no_ids.dtype == object else "int64"),
        ("block_tasks", "int64"),
    ):
        of_rows = name in ("x", "y")
        codec, itemsize = facts.codec if of_rows else "none", np.dtype(facts.dtype).itemsize
        arrays[name] = group.create_array(
            name,
            shape=(0, *facts.shape(name)[1:]),
            chunks=facts.chunks(name),
            dtype=dtype,
            fill_value=layout.missing_value(name, text=dtype is str),
            compressors=layout.codecs(codec, itemsize),
            dimension_names=layout.DIMENSIONS[name],
            config={"write_empty_chunks": True},
        )
        if not of_rows:
            none = no_ids if name == "task_id" else np.array([], dtype=np.int64)
            columns[name] = TaskColumn(arrays[name], none, 0)
    return arrays, columns


class RunningMoments:
    """Mean and sum of squared deviations of each feature and the target, block by block."""

    def __init__(self, facts: Facts):
        scale = np.append(facts.feature_scale, facts.target_scale)
        self._mean = np.append(facts.feature_mean, facts.target_mean)
        self._m2 = scale**2 * facts.n_rows

    def add(self, X: NDArray[np.floating], y: NDArray[np.floating], *, before: int) -> None:
        """Merge a block with the `before` rows there were (Chan, Golub, LeVeque 1983)."""
        n = len(y)
        mean = np.append(X.mean(axis=0, dtype=np.float64), y.mean(dtype=np.float64))
        m2 = np.append(((X - mean[:-1]) ** 2).sum(axis=0), ((y - mean[-1]) ** 2).sum())
        step = mean - self._mean
        self._mean = self._mean + step * (n / (before + n))
        self._m2 = self._m2 + m2 + step**2 * (before * n / (before + n))

    def facts(self, n_rows: int) -> dict[str, Any]:
        """Return them as they stand in the store's attributes."""
        mean, scale = self._mean.tolist(), np.sqrt(self._m2 / n_rows).tolist()
        return {
            "feature_mean": mean[:-1],
            "feature_scale": scale[:-1],
            "target_mean": mean[-1],
            "target_scale": scale[-1],
        }
