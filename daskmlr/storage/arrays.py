"""Arrays in memory, with the task of each row, into a task store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.errors import InputError
from daskmlr.storage.checking import checked_ids
from daskmlr.storage.tasks import TaskStore, open_tasks
from daskmlr.storage.writing import create_tasks

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


def write_arrays(
    path: str | os.PathLike[str],
    X: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    **options: Any,
) -> TaskStore:
    """Write rows in any order as a new task store.

    Tasks come in the order of their sorted keys, the rows of a task in the order given.

    Parameters
    ----------
    path : path
    X : array of shape (n_rows, d)
    y : array of shape (n_rows,)
    groups : array of shape (n_rows,)
        The task of each row: integers or strings.
    feature_names : sequence of d str, optional
        By default ``x0``, ``x1``, ...
    **options
        Of `create_tasks`.

    Raises
    ------
    InputError
        For arrays of other shapes or of different lengths, keys that are neither integers nor
        strings, and whatever `TaskWriter.write` refuses.
    PathExistsError

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = write_arrays(f"{folder}/t", [[1.0], [2.0], [3.0]], [1, 2, 3], ["b", "a", "b"])
    ...     tasks.task_ids().tolist(), tasks.task_sizes().tolist()
    (['a', 'b'], [1, 2])
    """
    X, y, groups = np.asarray(X), np.asarray(y), checked_ids(groups)
    if X.ndim != 2 or y.ndim != 1:
        raise InputError(
            f"X must have two dimensions and y one dimension, got shapes {X.shape} and {y.shape}"
        )
    if not len(X) == len(y) == len(groups):
        raise InputError(
            f"X, y and groups must be of one length, got {len(X)}, {len(y)} and {len(groups)}"
        )
    keys, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    names = [f"x{j}" for j in range(X.shape[1])] if feature_names is None else feature_names
    with create_tasks(path, feature_names=names, **options) as writer:
        writer.write(X[order], y[order], sizes, keys)
    return open_tasks(path)
