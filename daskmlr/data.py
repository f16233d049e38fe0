"""The data of a call, a store, its path or arrays with the task of each row: as a store."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from sklearn.utils.validation import check_X_y

from daskmlr.arguments import checked_rows, checked_targets, numbers, task_ids
from daskmlr.errors import DaskmlrError, InputError
from daskmlr.kernels.outliers import ASSIGNED
from daskmlr.sizes import FROM_ARRAYS
from daskmlr.storage.arrays import write_arrays
from daskmlr.storage.checking import column_names
from daskmlr.storage.tasks import TaskStore, open_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

Data: TypeAlias = "TaskStore | str | os.PathLike[str] | ArrayLike"


class _Names(Protocol):
    """What the columns of a model's data are called."""

    @property
    def feature_names(self) -> tuple[str, ...]: ...
    @property
    def task_name(self) -> str: ...


@contextmanager
def as_store(
    X: Data, y: ArrayLike | None, groups: ArrayLike | None, like: _Names | None = None
) -> Iterator[TaskStore]:
    """Give the data as a store; arrays lie in one for as long as it is needed.

    Errors name the arrays instead of that store.

    Parameters
    ----------
    X : TaskStore, path of one, or array of shape (n_rows, d)
    y, groups : array of shape (n_rows,), optional
        Of arrays only: the targets, and the task of each row.
    like : Model, optional
        The model that the data are for: arrays have its features, and its names where they have
        none.

    Raises
    ------
    InputError
        If something is missing or too many, or the arrays do not fit each other.
    FeatureMismatchError
        If arrays have other features than the model.
    """
    if isinstance(X, TaskStore | str | os.PathLike):
        if y is not None or groups is not None:
            raise InputError(
                "a task store has its own targets and tasks: give y and groups with arrays only "
                "(and the path of an output as out=)"
            )
        yield X if isinstance(X, TaskStore) else open_tasks(X)
        return
    with tempfile.TemporaryDirectory(prefix="daskmlr-") as folder:
        path = Path(folder) / "tasks"
        try:
            yield _write(path, X, y, groups, like)
        except DaskmlrError as error:
            if str(path) not in str(error):
                raise
            said = str(error).replace(str(path), "X, y and groups")
            raise type(error)(said).with_traceback(error.__traceback__) from None


def _write(
    path: Path, X: ArrayLike, y: ArrayLike | None, groups: ArrayLike | None, like: _Names | None
) -> TaskStore:
    if y is None or groups is None:
        raise InputError(
            "the data are a task store, or X, y and groups (the task of each row): "
            f"got y={'None' if y is None else 'given'}, "
            f"groups={'None' if groups is None else 'given'}"
        )
    names = column_names(X) if like is None else like.feature_names
    if like is not None:
        checked_rows(X, like.feature_names, "X")
    rows, targets = check_X_y(
        numbers(X, "X"),
        checked_targets(y, "y"),
        dtype=(np.float64, np.float32),
        y_numeric=True,
        ensure_all_finite=False,  # the writer says where
    )
    own = {"target_name": _name(y), "task_name": _name(groups) or (like and like.task_name)}
    named = {what: name for what, name in own.items() if name} | {"provenance": FROM_ARRAYS}
    return write_arrays(path, rows, targets, task_ids(groups), feature_names=names, **named)


def _name(column: ArrayLike) -> str | None:
    """Name of a pandas column, unless labels bear it."""
    name = getattr(column, "name", None)
    return name if isinstance(name, str) and name not in ASSIGNED else None
