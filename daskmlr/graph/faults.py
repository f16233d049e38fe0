"""What may go wrong in a graph task: read again, go on after a damaged block, tell one cause."""

from __future__ import annotations

import time
import traceback
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import dask
from dask.utils import format_bytes
from distributed import KilledWorker, get_worker

from daskmlr.errors import (
    DamagedStoreError,
    DaskmlrError,
    NoSpaceError,
    ReadError,
    SchedulerError,
    WorkerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daskmlr.storage.tasks import TaskStore

    Read = TypeVar("Read")
    Given = ParamSpec("Given")
    Returned = TypeVar("Returned")

# Seconds before a read that failed is tried again: what a busy server or a broken connection takes.
READ_WAITS = (0.1, 0.5, 2.5)
# Damaged blocks that a message names.
LISTED = 20
# These do not pass by themselves.
LASTING = (PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Damage:
    """A block that cannot be read, now or later."""

    block: int
    said: str


@dataclass(frozen=True)
class LeftOut:
    """Damaged blocks that are left out of every pass, and what was in them."""

    blocks: tuple[int, ...] = ()
    n_tasks: int = 0
    n_rows: int = 0

    @classmethod
    def of(cls, tasks: TaskStore, blocks: Sequence[int]) -> LeftOut:
        """Count what some blocks of a store hold.

        Raises
        ------
        DamagedStoreError
            If their task sizes cannot be read either: nothing can be left out then.
        """
        ends = [tasks.block_tasks[index : index + 2].tolist() for index in blocks]
        n_rows = sum(int(tasks.task_sizes(*end).sum()) for end in ends)
        return cls(tuple(blocks), sum(stop - start for start, stop in ends), n_rows)

    def first_kept(self, start: int = 0) -> int:
        """Return the first block from `start` on that is not left out."""
        return next(index for index in count(start) if index not in self.blocks)

    def facts(self) -> dict[str, Any]:
        """Return what a model keeps of it; nothing if nothing was left out."""
        if not self.blocks:
            return {}
        return {
            "blocks_left_out": list(self.blocks),
            "tasks_in_them": self.n_tasks,
            "examples_in_them": self.n_rows,
        }

    def __str__(self) -> str:
        return (
            f"{len(self.blocks)} damaged blocks with {self.n_tasks:,} tasks and {self.n_rows:,} "
            f"examples were left out: {_listed([str(block) for block in self.blocks], ', ')}"
        )


@dataclass(frozen=True)
class Work:
    """What graph tasks did, for the record of a run; `+` adds up.

    Attributes
    ----------
    graph_tasks : int
    bytes_read : int
        Decoded bytes of blocks.
    thread_seconds : float
        That threads took for the blocks of their runs.
    reading_seconds : float
        Of these, until the blocks were there: read, checked and decoded.
    """

    graph_tasks: int = 0
    bytes_read: int = 0
    thread_seconds: float = 0.0
    reading_seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Partial:
    """What a graph task came to: a sum, None of nothing, the damaged blocks not in it, the work."""

    total: Any
    damaged: tuple[Damage, ...] = ()
    work: Work = Work()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was summed, and no part of a table written."""
        return self.total is None or (isinstance(self.total, tuple) and not self.total)


def join(parts: Sequence[Partial], combine: Callable[[list[Any]], Any]) -> Partial:
    """Combine the totals of several, and list all their damage, in order."""
    return Partial(
        combine([part.total for part in parts]),
        tuple(damage for part in parts for damage in part.damaged),
        sum((part.work for part in parts), Work(graph_tasks=1)),
    )


def skips_damage() -> bool:
    """Whether damaged blocks are to be left out: ``daskmlr.skip-damaged`` in `dask.config`."""
    return bool(dask.config.get("daskmlr.skip-damaged", False))


def refusal(
    tasks: TaskStore, damaged: Sequence[Damage], *, late: bool, nothing: bool
) -> DamagedStoreError:
    """Return the error that names all damaged blocks.

    Parameters
    ----------
    late : bool
        Whether a pass before has settled which blocks are left out, and could read these.
    nothing : bool
        Whether the pass could read no block.
    """
    said = _listed([damage.said for damage in damaged], "\n")
    if nothing:
        return DamagedStoreError(f"no block can be read: {said}")
    if late:
        return DamagedStoreError(
            f"{len(damaged)} of {tasks.n_blocks} blocks were read by an earlier pass of this run "
            f"and are damaged now: {said}\nOr run again: they are left out from the first pass on"
        )
    return DamagedStoreError(
        f"{len(damaged)} of {tasks.n_blocks} blocks are damaged: {said}\nOr leave them out: "
        "--skip-damaged, in Python dask.config.set({'daskmlr.skip-damaged': True})"
    )


def _listed(items: Sequence[str], separator: str) -> str:
    """Join the first few of them."""
    more = len(items) - LISTED
    return separator.join([*items[:LISTED], *([f"and {more:,} more"] if more > 0 else [])])


def patiently(read: Callable[[], Read]) -> Read:
    """Read, again after a while if the machine fails; damage once more, it may be a torn read.

    Raises
    ------
    ReadError
        If it fails again and again.
    DamagedStoreError
        If it is damaged twice.
    """
    waits = iter(READ_WAITS)
    damaged = False
    while True:
        try:
            return read()
        except DamagedStoreError:
            if damaged:
                raise
            damaged = True
        except DaskmlrError:
            raise  # such as of an object store, whose client has tried again itself
        except OSError as error:
            wait = None if isinstance(error, LASTING) else next(waits, None)
            if wait is None:
                raise ReadError(
                    f"the store cannot be read{where()}: {type(error).__name__}: {error}. See "
                    "that every worker reaches it"
                ) from error
            time.sleep(wait)


def with_one_cause(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Let a graph task raise errors of ours only, which any process can unpickle and show."""

    @wraps(function)
    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            told = _told(error)
        if where():
            # they would travel with it, and might not be unpickled
            told.__cause__ = told.__context__ = None
        raise told

    return guarded


def _told(error: Exception) -> DaskmlrError:
    if isinstance(error, NoSpaceError) and where():
        return NoSpaceError(f"{error} (found{where()})")
    if isinstance(error, DaskmlrError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    told = WorkerError(
        f"{type(error).__name__}: {error} (in {place.name}, line {place.lineno} of "
        f"{place.filename}){where()}"
    )
    told.__cause__ = error
    return told


def explained(error: Exception, address: str, name: str, planned: int | None = None) -> Exception:
    """Say in an error of ours, without the traceback of another process, what ended a pass.

    Parameters
    ----------
    error : Exception
        What Dask raised.
    address : str
        Of the scheduler.
    name : str
        Of the pass.
    planned : int, optional
        Memory that the pass is planned to take on a worker, bytes.
    """
    if isinstance(error, WorkerError):
        return WorkerError(f"pass {name!r} failed: {error}")
    if isinstance(error, DaskmlrError | Warning):
        return error.with_traceback(None)
    if isinstance(error, KilledWorker):
        return WorkerError(_killed(error, name, planned))
    if isinstance(error, CancelledError | OSError):
        return lost(address, f"during pass {name!r}")
    said = f"{type(error).__name__}: {error}"
    if error.args and isinstance(error.args[0], bytes):
        said = "with an error that this process cannot unpickle: are all versions the same?"
    return WorkerError(f"pass {name!r} failed: {said}")


def lost(address: str, when: str) -> SchedulerError:
    """Return the error that says what to do without a scheduler."""
    return SchedulerError(
        f"the connection to the Dask scheduler at {address} was lost {when}; no output was "
        "written. Start the Dask cluster again, and the same command: a fit goes on from its "
        "checkpoint by --resume"
    )


def _killed(error: KilledWorker, name: str, planned: int | None) -> str:
    worker = error.last_worker
    plans = (
        f"is planned to take {format_bytes(planned)} on each of them"
        if planned
        else "is not planned"
    )
    limit = format_bytes(worker.memory_limit) if worker.memory_limit else "not set"
    return (
        f"pass {name!r} lost {error.allowed_failures + 1} workers in a row while they computed one "
        f"graph task, the last at {worker.address}. Most often their memory was too small: the "
        f"pass {plans}, of {worker.nthreads} threads, and their limit is {limit}. See their logs; "
        "give them more memory or fewer threads, or cut the store into smaller blocks (block_bytes)"
    )


def where() -> str:
    """Name the worker process that this runs on; nothing in the client's own process."""
    try:
        worker = get_worker()
    except ValueError:
        return ""
    if worker.address.startswith("inproc://"):
        return ""
    name = "" if worker.name in (None, worker.address) else f" {worker.name}"
    return f" on worker{name} ({worker.address})"
