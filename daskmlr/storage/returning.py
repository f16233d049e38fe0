"""Tasks that a store to append to has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from daskmlr.storage.tasks import TaskStore

# So many ids are held, and looked up in one read of the store's.
IDS_AT_ONCE = 1 << 18
NAMED = 5


class ReturningTasks:
    """Looks ids of new tasks up among those of a store; in memory is a bounded number of them.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr.storage.arrays import write_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = write_arrays(f"{folder}/t", [[1.0], [2.0]], [0, 1], ["ann", "bob"])
    ...     returning = ReturningTasks(tasks)
    ...     returning.look_up(np.array(["bob", "cid"], dtype=object))
    ...     returning.refuse()  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    daskmlr.errors.InputError: 1 of the tasks to append is in ... already, the first 'bob': ...
    """

    def __init__(self, tasks: TaskStore):
        self._tasks = tasks
        self._waiting: list[NDArray[Any]] = []
        self._n_found = 0
        self._first: list[Any] = []

    def look_up(self, ids: NDArray[Any]) -> None:
        """Take ids, of the kind of the store's and none twice, and look them up sooner or later."""
        self._waiting.append(ids)
        if sum(map(len, self._waiting)) >= IDS_AT_ONCE:
            self._look_up()

    def refuse(self) -> None:
        """Refuse ids that were found.

        Raises
        ------
        InputError
            With their number, naming the first.
        """
        self._look_up()
        if not self._n_found:
            return
        more = ", ..." if self._n_found > len(self._first) else ""
        are = "are" if self._n_found > 1 else "is"
        raise InputError(
            f"{self._n_found:,} of the tasks to append {are} in {self._tasks.path} already, the "
            f"first {', '.join(map(repr, self._first))}{more}: a task in two places would be two "
            "tasks, each with a label of its own. Leave them out; or, to add examples to known "
            "tasks, write a new store of all rows"
        )

    def _look_up(self) -> None:
        if not sum(map(len, self._waiting)):
            return
        matches, self._waiting = _matches(np.concatenate(self._waiting)), []
        found: set[Any] = set()
        for start in range(0, self._tasks.n_tasks, IDS_AT_ONCE):
            known = self._tasks.task_ids(start, start + IDS_AT_ONCE)
            found.update(matches(known))
        self._n_found += len(found)
        self._first = [*self._first, *sorted(found)][:NAMED]


def _matches(ids: NDArray[Any]) -> Callable[[NDArray[Any]], Iterable[Any]]:
    """Return what finds some of the ids among others."""
    if ids.dtype == object:
        return set(ids.tolist()).intersection
    ordered = np.sort(ids)

    def among(known: NDArray[Any]) -> list[Any]:
        place = np.minimum(np.searchsorted(ordered, known), len(ordered) - 1)
        common: list[Any] = known[ordered[place] == known].tolist()
        return common

    return among
