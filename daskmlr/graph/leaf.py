"""What runs on a worker: read the blocks of a run, and sum or map them."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import platform
import socket
import threading
import time
from contextlib import contextmanager
from functools import lru_cache, partial, reduce
from itertools import chain
from typing import TYPE_CHECKING, Any

import cloudpickle
from threadpoolctl import threadpool_limits

from daskmlr.errors import ClusterError, DamagedStoreError, InputError, StoreError
from daskmlr.graph.environment import DECISIVE, differences, environment
from daskmlr.graph.faults import Damage, Partial, Work, join, patiently, with_one_cause
from daskmlr.graph.memory import memory_limit
from daskmlr.storage.chunks import Buffers
from daskmlr.storage.rows import write_rows_part
from daskmlr.storage.tasks import BLOCKS_AHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import numpy as np

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.storage.tasks import TaskStore

# glibc's names for two settings, and what it grows them to by itself where nobody sets them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MMAP_BYTES = 64 << 20, 32 << 20

# Of the machine's memory, what is left for the page cache. A store that does not fit, read in the
# same order again and again, finds nothing of itself there.
CACHED_SHARE = 2 / 3

_blas_lock = threading.Lock()
_blas_users = 0
_blas_limits: threadpool_limits | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread per calling thread, for all users of this process together.

    Dask already runs a thread per core; with BLAS threads on top the cores are oversubscribed.
    The last user to leave restores what was set before.
    """
    global _blas_users, _blas_limits  # one setting per process, by nature
    with _blas_lock:
        if _blas_users == 0:
            _blas_limits = threadpool_limits(1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0 and _blas_limits is not None:
                _blas_limits.restore_original_limits()


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed, where Dask told it not to.

    Dask's nannies set ``MALLOC_TRIM_THRESHOLD_``, at which glibc gives every array above 128 KiB
    back to the system, and takes the next one page by page: as long again as a pass computes.
    """
    told = "MALLOC_TRIM_THRESHOLD_" in os.environ and "MALLOC_MMAP_THRESHOLD_" not in os.environ
    if not told or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


def pack(*things: Any) -> bytes:
    """Serialise what all graph tasks of a pass share.

    Dask would do it too, but when a worker then cannot import what a function needs, its
    connection breaks and the run waits for ever. Unpacked inside a graph task, that is an error.
    """
    try:
        return pickle.dumps(environment()) + bytes(cloudpickle.dumps(things))
    except Exception as error:
        raise InputError(
            f"functions and arguments of a pass must be picklable, to travel to workers: {error}"
        ) from error


@lru_cache(maxsize=8)
def unpack(packed: bytes) -> Any:
    """Inverse of `pack`; a process does it once for a pass.

    Workers that join during a run were not seen by the checks before it: this is theirs.
    """
    here = f"a worker on {socket.gethostname()} (process {os.getpid()})"
    stream = io.BytesIO(packed)
    unlike = differences(environment(), pickle.load(stream))  # noqa: S301 - from our own client
    wrong = [text for name, text in unlike.items() if name in DECISIVE]
    if wrong:
        raise ClusterError(
            f"{here} does not run what the client runs: {', '.join(wrong)}. Install the same "
            "there: results would not be the same"
        )
    try:
        return cloudpickle.load(stream)
    except ImportError as error:
        raise InputError(
            f"a worker cannot import what a pass needs ({error}): install it on the workers, or "
            "define the function in the script itself"
        ) from error
    except StoreError as error:
        raise type(error)(f"{here} cannot read the store: {error}") from error


def is_cached(store: TaskStore) -> bool:
    """Whether the system's page cache can hold a store on disk from one pass to the next."""
    return bool(store.nbytes_on_disk <= CACHED_SHARE * memory_limit())


def read_run(
    store: TaskStore, run: tuple[int, int], skipped: Collection[int], damaged: list[Damage]
) -> Iterator[TaskBlock]:
    """Yield the blocks of a run but those `skipped`; list the damaged, and go on.

    Where the system's page cache can hold the store, the system is told what comes next and reads
    it meanwhile; past the end of a short run too: that is then for another thread, most likely of
    this machine. A thread of ours that reads ahead gains nothing there: what it does not wait for
    the disk it takes of Python's lock. Blocks of a larger store, and of an object store, are read
    ahead by us, those of the run alone: nobody else would get them.
    """
    start, stop = run
    buffers = Buffers(past_cache=store.on_disk and not is_cached(store))
    if store.on_disk and not buffers.past_cache:
        told, last, ahead = start + 1, max(stop, start + BLOCKS_AHEAD), BLOCKS_AHEAD
    else:
        told, last, ahead = start, stop - 1, store.blocks_ahead
    for index in range(start, stop):
        while told <= min(index + ahead, last):
            if told not in skipped:
                store.will_need(told, buffers)
            told += 1
        if index in skipped:
            continue
        try:
            block = patiently(partial(store.read_block, index, buffers))
        except DamagedStoreError as error:
            damaged.append(Damage(index, str(error)))
        else:
            yield block


class _Watched:
    """Passes blocks on, and takes the time until each is there."""

    def __init__(self, blocks: Iterator[TaskBlock]):
        self._blocks = blocks
        self._bytes, self._reading, self._began = 0, 0.0, time.perf_counter()

    def __iter__(self) -> Iterator[TaskBlock]:
        while True:
            asked = time.perf_counter()
            block = next(self._blocks, None)
            self._reading += time.perf_counter() - asked
            if block is None:
                return
            self._bytes += block.X.nbytes + block.y.nbytes
            yield block

    def work(self) -> Work:
        """Return what the graph task did up to now."""
        return Work(1, self._bytes, time.perf_counter() - self._began, self._reading)


@with_one_cause
def reduce_run(run: tuple[int, int], packed: bytes) -> Partial:
    """Sum the blocks of one run, left to right."""
    keep_freed_memory()
    store, from_block, combine, args, in_place, skipped = unpack(packed)
    damaged: list[Damage] = []
    blocks = _Watched(read_run(store, run, skipped, damaged))
    total = sum_blocks(blocks, from_block, combine, args, in_place=in_place)
    return Partial(total, tuple(damaged), blocks.work())


def sum_blocks(
    blocks: Iterable[TaskBlock],
    from_block: Callable[..., Any],
    combine: Callable[[Any, Any], Any],
    args: Sequence[Any],
    *,
    in_place: bool,
) -> Any:
    """Sum blocks left to right; None if there are none."""
    total = None
    with one_blas_thread():
        for block in blocks:
            if in_place:
                total = from_block(block, *args, onto=total)
            else:
                part = from_block(block, *args)
                total = part if total is None else combine(total, part)
    return total


def combine_sums(packed: bytes, sums: Iterable[Any]) -> Any:
    """Combine the sums of a node of the tree, left to right; None is the sum of nothing."""
    _, _, combine, *_ = unpack(packed)
    with one_blas_thread():
        found = (part for part in sums if part is not None)  # one at a time: they may be large
        first = next(found, None)
        return None if first is None else reduce(combine, found, first)


@with_one_cause
def combine_partials(packed: bytes, parts: Sequence[Partial]) -> Partial:
    """Combine what graph tasks came to."""
    return join(parts, lambda sums: combine_sums(packed, sums))


@with_one_cause
def map_run(run: tuple[int, int], part: int, packed: bytes, staging: str) -> Partial:
    """Map the blocks of one run and write their rows as one part, if they have any.

    Returns
    -------
    Partial
        Of the numbers of the parts written.
    """
    keep_freed_memory()
    store, function, args, skipped = unpack(packed)
    damaged: list[Damage] = []
    blocks = _Watched(read_run(store, run, skipped, damaged))
    rows = (_task_rows(block, store, function, args) for block in blocks)
    with one_blas_thread():
        first = next(rows, None)
        if first is None:
            return Partial((), tuple(damaged), blocks.work())
        write_rows_part(staging, part, chain([first], rows))
    return Partial((part,), tuple(damaged), blocks.work())


@with_one_cause
def join_parts(parts: Sequence[Partial]) -> Partial:
    """List the parts that were written."""
    return join(parts, lambda written: tuple(chain.from_iterable(written)))


def map_block(
    block: TaskBlock,
    store: TaskStore,
    function: Callable[..., dict[str, np.ndarray]],
    args: Sequence[Any],
) -> list[dict[str, np.ndarray]]:
    """Map one block and keep its rows in memory."""
    return [_task_rows(block, store, function, args)]


def _task_rows(
    block: TaskBlock,
    store: TaskStore,
    function: Callable[..., dict[str, np.ndarray]],
    args: Sequence[Any],
) -> dict[str, np.ndarray]:
    rows = function(block, *args)
    if store.task_name in rows:
        raise InputError(
            f"the mapped function returns a column {store.task_name!r}, which is the name of the "
            f"task's key in {store.path}: give one of them another name"
        )
    for name, values in rows.items():
        if len(values) != block.n_tasks:
            raise InputError(
                f"the mapped function must return one row per task: {name!r} has "
                f"{len(values)} rows for a block of {block.n_tasks} tasks"
            )
    ids = store.task_ids(block.first_task, block.first_task + block.n_tasks)
    return {store.task_name: ids, **rows}
