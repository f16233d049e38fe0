"""Synthetic tasks in a store or in memory."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from daskmlr.errors import InputError
from daskmlr.progress import Progress, shown
from daskmlr.storage.location import locate
from daskmlr.storage.publish import refuse_existing
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import create_tasks
from daskmlr.synthetic.draw import checked_draw
from daskmlr.synthetic.truth import save_truth, truth_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from daskmlr.progress import Show
    from daskmlr.storage.tasks import TaskStore
    from daskmlr.storage.writing import TaskWriter
    from daskmlr.synthetic.draw import Draw, TaskGroup
    from daskmlr.synthetic.truth import MixtureTruth, TruthParameters


def simulate(
    out: str | Path,
    *,
    task_groups: Sequence[TaskGroup],
    random_state: int,
    truth: MixtureTruth | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    noise_dof: float | None = None,
    ids: Literal["int", "str"] = "int",
    block_bytes: int | None = None,
    progress: bool | Show = False,
    **truth_parameters: Unpack[TruthParameters],
) -> TaskStore:
    """Draw tasks into a store, with their truth beside it.

    Memory: one block of the store, one chunk of some MiB, and two bytes a task.

    Parameters
    ----------
    out : path or URL
        Of the new store. The truth goes to `truth_path` of it, and both appear together.
    task_groups : sequence of (n_tasks, size)
        Groups of tasks, which lie in the store in this order: ``[(32768, 8), (256, 16)]`` is
        many light tasks, then a few heavy ones. `size` is the number of examples of each task, or
        a pair ``(low, high)`` between which it is drawn log-uniformly, both included. Labels are
        drawn independently of the group, and nothing in a fit depends on the order of tasks.
    random_state : int
        Seed, not negative; the one of `make_truth` too, unless `truth` is given.
    truth : MixtureTruth, optional
        The mixture to draw from; by default ``make_truth(**truth_parameters)``.
    dtype : {"float32", "float64"}
        Of the values, and part of the draw: the two differ by more than rounding.
    noise_dof : float, optional
        Draw the noise from Student's t of so many degrees of freedom, scaled to the same
        variance, instead of from a Gaussian. More than 2.
    ids : {"int", "str"}
        Task ids 0, 1, 2, ... or ``"task-0"``, ``"task-1"``, ...
    block_bytes : int, optional
        Of the store, see `create_tasks`; changes no value.
    progress : bool or callable
        True shows a bar in a terminal or a notebook; a callable is called with a
        `daskmlr.progress.Progress` that counts tasks.
    **truth_parameters
        Of `make_truth`.

    Returns
    -------
    TaskStore

    Raises
    ------
    InputError
        If a parameter is impossible.
    PathExistsError
        If the store or its truth exist already.
    NoSpaceError
        If the disk is full; neither is left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = simulate(
    ...         f"{folder}/tasks", n_components=2, n_features=3, task_groups=[(100, 5)],
    ...         random_state=0,
    ...     )
    >>> tasks.n_tasks, tasks.n_rows, tasks.feature_names
    (100, 500, ('x0', 'x1', 'x2'))
    """
    draw = checked_draw(truth, truth_parameters, task_groups, random_state, dtype, noise_dof)
    _check_ids(ids)
    refuse_existing(truth_path(out))
    has_truth = False
    try:
        with (
            shown(progress) as show,
            create_tasks(
                out,
                feature_names=[f"x{j}" for j in range(draw.truth.n_features)],
                dtype=dtype,
                block_bytes=block_bytes,
                provenance={"command": "simulate", **draw.parameters()},
            ) as writer,
        ):
            labels = _write(draw, writer, ids, show)
            # the store is published on leaving this block: when it is seen, its truth is there
            save_truth(out, draw.truth, labels, parameters=draw.parameters())
            has_truth = True
    except BaseException:
        if has_truth:
            with suppress(OSError):
                locate(truth_path(out)).remove()
        raise
    return open_tasks(out)


def simulate_arrays(
    *,
    task_groups: Sequence[TaskGroup],
    random_state: int,
    truth: MixtureTruth | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    noise_dof: float | None = None,
    ids: Literal["int", "str"] = "int",
    **truth_parameters: Unpack[TruthParameters],
) -> tuple[
    NDArray[np.floating],
    NDArray[np.floating],
    NDArray[np.int64] | NDArray[np.object_],
    NDArray[np.int16],
]:
    """Draw the very tasks of `simulate` into memory.

    Parameters
    ----------
    task_groups, random_state, truth, dtype, noise_dof, ids, **truth_parameters
        As in `simulate`.

    Returns
    -------
    X : ndarray of shape (n_rows, d), `dtype`
    y : ndarray of shape (n_rows,), `dtype`
    groups : ndarray of shape (n_rows,), int64 or object (str)
        Task id of each row; the rows of a task are consecutive.
    labels : ndarray of shape (n_tasks,), int16
        True component of each task, in the order of their rows.

    Raises
    ------
    InputError
        If a parameter is impossible.

    Examples
    --------
    >>> X, y, groups, labels = simulate_arrays(
    ...     n_components=2, n_features=3, task_groups=[(4, 2), (1, 5)], random_state=0
    ... )
    >>> X.shape, y.dtype.name, groups.tolist(), len(labels)
    ((13, 3), 'float32', [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4], 5)
    """
    draw = checked_draw(truth, truth_parameters, task_groups, random_state, dtype, noise_dof)
    _check_ids(ids)
    chunks = list(draw.chunks())
    sizes = np.concatenate([chunk.sizes for chunk in chunks])
    return (
        np.concatenate([chunk.X for chunk in chunks]),
        np.concatenate([chunk.y for chunk in chunks]),
        _ids(0, draw.n_tasks, ids)[np.repeat(np.arange(draw.n_tasks), sizes)],
        np.concatenate([chunk.labels for chunk in chunks]),
    )


def _write(
    draw: Draw,
    writer: TaskWriter,
    ids: Literal["int", "str"],
    show: bool | Show,
) -> NDArray[np.int16]:
    """Write every task and return the labels."""
    labels = np.empty(draw.n_tasks, dtype=np.int16)
    done, began = 0, time.monotonic()
    for chunk in draw.chunks():
        stop = done + len(chunk.sizes)
        writer.write(chunk.X, chunk.y, chunk.sizes, _ids(done, stop, ids))
        labels[done:stop] = chunk.labels
        done = stop
        if callable(show):
            seconds = time.monotonic() - began
            show(Progress("simulate", done, draw.n_tasks, seconds=seconds))
    return labels


def _ids(
    start: int, stop: int, kind: Literal["int", "str"]
) -> NDArray[np.int64] | NDArray[np.object_]:
    """Ids of the tasks ``start:stop``."""
    if kind == "int":
        return np.arange(start, stop, dtype=np.int64)
    return np.array([f"task-{i}" for i in range(start, stop)], dtype=object)


def _check_ids(ids: str) -> None:
    if ids not in ("int", "str"):
        raise InputError(f"ids must be 'int' or 'str', not {ids!r}")
