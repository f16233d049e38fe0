"""Ingest of arrays in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from daskmlr.errors import InputError
from daskmlr.storage.arrays import write_arrays

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from daskmlr.storage.tasks import TaskStore


def ingest_arrays(
    X: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    out: str | os.PathLike[str],
    *,
    feature_names: Sequence[str] | None = None,
    target_name: str = "y",
    task_name: str = "task",
    dtype: Literal["float32", "float64"] = "float64",
    block_bytes: int | None = None,
) -> TaskStore:
    """Write arrays, whose rows may be in any order, as a new task store.

    Tasks come in the order of their ids, the rows of a task in the order given: as `ingest` does.

    Parameters
    ----------
    X : array of shape (n_rows, d)
    y : array of shape (n_rows,)
    groups : array of shape (n_rows,)
        The task of each row. Whole numbers give int64 ids, anything else strings.
    out : path
        Of the new store.
    feature_names : sequence of d str, optional
        By default ``x0``, ``x1``, ...
    target_name, task_name : str
    dtype : {"float32", "float64"}
        Of the store.
    block_bytes : int, optional
        Size of a block of the store; a task may not be larger.

    Returns
    -------
    TaskStore

    Raises
    ------
    InputError
        For arrays of other shapes, missing or infinite values, rows without a task, or a task
        larger than a block.
    PathExistsError
        If `out` exists.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = ingest_arrays([[1.0], [2.0], [3.0]], [1, 2, 3], [7, 5, 7], f"{folder}/tasks")
    ...     tasks.task_ids().tolist(), tasks.read_block(0).y.tolist()
    ([5, 7], [2.0, 1.0, 3.0])
    """
    if np.shape(y) == (0,):
        raise InputError("the input is empty: X, y and groups have no rows")
    return write_arrays(
        out,
        X,
        y,
        task_keys(groups),
        feature_names=feature_names,
        target_name=target_name,
        task_name=task_name,
        dtype=dtype,
        block_bytes=block_bytes,
        provenance={"command": "ingest_arrays"},
    )


def task_keys(groups: ArrayLike) -> NDArray[Any]:
    """Return the task of each row as a key: int64, or str objects.

    Parameters
    ----------
    groups : array of shape (n_rows,)

    Raises
    ------
    InputError
        For missing keys, numbers that are not whole, or another shape.
    """
    keys = np.asarray(groups)
    if keys.ndim != 1:
        raise InputError(f"groups must have one dimension, got shape {keys.shape}")
    missing = np.asarray(pd.isna(keys)) | (keys == "" if keys.dtype.kind in "OTU" else False)
    if missing.any():
        raise InputError(
            f"groups has {np.count_nonzero(missing):,} missing values, the first in row "
            f"{int(np.argmax(missing))}: name the task of every row, or drop these rows"
        )
    if keys.dtype.kind in "iu":
        return keys.astype(np.int64)
    if keys.dtype.kind == "f":
        odd = keys != np.trunc(keys)
        if odd.any():
            row = int(np.argmax(odd))
            raise InputError(
                f"groups has {np.count_nonzero(odd):,} numbers that are not whole, the first "
                f"{keys[row]} in row {row}: task ids are whole numbers or text"
            )
        return keys.astype(np.int64)
    if keys.dtype.kind == "O" and all(isinstance(key, (int, np.integer)) for key in keys):
        return keys.astype(np.int64)
    return keys.astype(str).astype(object)
