"""The only place that computes: on a Dask cluster, or in the calling process."""

from __future__ import annotations

import logging
import threading
import warnings
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import dask
from dask.callbacks import Callback
from dask.system import CPU_COUNT
from dask.utils import parse_timedelta
from distributed import Client, Future, Security

from daskmlr.errors import (
    ClusterWarning,
    DamageWarning,
    InputError,
    ReadError,
    SchedulerError,
    WorkerError,
)
from daskmlr.graph import preflight
from daskmlr.graph.faults import LeftOut, Partial, Work, explained, lost, refusal, skips_damage
from daskmlr.graph.leaf import one_blas_thread
from daskmlr.graph.memory import memory_limit
from daskmlr.graph.telling import Telling
from daskmlr.graph.watch import Watch, elsewhere
from daskmlr.progress import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from dask.delayed import Delayed

    from daskmlr.graph.faults import Damage
    from daskmlr.progress import Show
    from daskmlr.storage.tasks import TaskStore

ClientLike: TypeAlias = "Client | Runner | str | None"

IN_PROCESS = ("sync", "synchronous", "threads")
POLL_SECONDS = 0.25
# Workers that may fail to read before a pass is given up.
MOST_AVOIDED = 3


class Runner:
    """Computes graphs for the length of a ``with`` block.

    Parameters
    ----------
    client : Client, str or None
        See `connect`.
    progress : bool or callable
        See `connect`.

    Attributes
    ----------
    telling : Telling
        Hears what stages do.
    planned : dict of int
        Memory that a pass is planned to take on a worker, bytes, by its name.
    work : Work
        What the graph tasks of the last pass did, those whose sums were used.
    """

    def __init__(self, client: Client | str | None = None, progress: bool | Show = False):
        self._asked, self._progress = client, progress
        self.telling = Telling()
        self._stack = ExitStack()
        self._client: Client | None = None
        self._scheduler: str | None = None
        self._local = False
        self._checked: set[tuple[str, int, str | None]] = set()
        self._left_out: dict[str, LeftOut] = {}
        self.planned: dict[str, int] = {}
        self.work = Work()

    def __enter__(self) -> Runner:
        self._stack.enter_context(one_blas_thread())
        self.telling = Telling(self._stack.enter_context(shown(self._progress)))
        asked = self._asked if self._asked is not None else _ambient()
        if isinstance(asked, Client):
            self._client = asked
        elif asked in IN_PROCESS:
            self._scheduler = asked
        elif asked is not None:
            self._client = self._stack.enter_context(_connect_to(asked))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_lost = isinstance(error, SchedulerError)
        if not is_lost:
            self.telling.end(error)
        with _quiet() if is_lost else nullcontext():
            self._stack.close()

    @property
    def own_memory(self) -> int:
        """Memory of this process, bytes."""
        return memory_limit()

    def worker_resources(self) -> tuple[int, int]:
        """Return the threads of a worker process and its memory in bytes (0: no limit)."""
        if self._client is None or self._local:
            return (1 if self._scheduler in IN_PROCESS[:2] else CPU_COUNT), memory_limit()
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return (
            max((worker["nthreads"] for worker in workers), default=1),
            min((worker["memory_limit"] or 0 for worker in workers), default=0),
        )

    def check(self, tasks: TaskStore, staging: str | None = None) -> None:
        """Check a Dask cluster outside this process before its first pass over these tasks.

        Parameters
        ----------
        tasks : TaskStore
        staging : str, optional
            Where workers will write parts of an output.

        Raises
        ------
        ClusterError
            If its processes differ from this one, or a worker cannot read the store or write.
        """
        client = self._client
        if client is None or self._local or client.scheduler.address.startswith("inproc://"):
            return
        seconds = _patience()
        passed = (tasks.path, tasks.n_tasks, staging)
        try:
            if not self._checked:
                preflight.check_environments(client, seconds)
            if passed not in self._checked:
                preflight.check_files(client, tasks, staging, seconds)
                self._checked.add(passed)
        except (CancelledError, OSError) as error:
            raise lost(client.scheduler.address, "before the first pass") from error

    def left_out(self, tasks: TaskStore) -> LeftOut:
        """Return the damaged blocks of a store that passes leave out, found by the first of them.

        None are, but with ``daskmlr.skip-damaged`` in `dask.config`.
        """
        return self._left_out.get(tasks.path, LeftOut())

    def leave_out(self, tasks: TaskStore, blocks: Sequence[int]) -> None:
        """Leave out these damaged blocks of a store from now on, if it is not settled yet."""
        if tasks.path in self._left_out:
            return
        left_out = self._left_out[tasks.path] = LeftOut.of(tasks, blocks)
        if blocks:
            said = f"{left_out} of every pass over {tasks.path}"
            warnings.warn(said, DamageWarning, stacklevel=2)

    def compute(
        self,
        build: Callable[[], Delayed],
        name: str,
        n_runs: int,
        tasks: TaskStore,
        n_bytes: int = 0,
    ) -> Any:
        """Compute a graph; as `compute_each`."""
        ((_, result),) = self.compute_each(lambda: [build()], name, n_runs, tasks, n_bytes)
        return result

    def compute_each(
        self,
        build: Callable[[], list[Delayed]],
        name: str,
        n_runs: int,
        tasks: TaskStore,
        n_bytes: int = 0,
    ) -> Iterator[tuple[int, Any]]:
        """Compute several graphs, and yield each one's number and result when it is ready.

        `build` makes them, with other keys each time. Their `n_runs` leaves, in all, have keys that
        begin with `name`, and read `n_bytes` of `tasks`. A result is let go on the workers once it
        was yielded. Those that lack damaged blocks come last: they are of no use until all damage
        is known.

        Raises
        ------
        DamagedStoreError
            If blocks are damaged, naming them, unless they are to be left out.
        ReadError
            If the store cannot be read otherwise.
        NoSpaceError
            If a disk is full.
        WorkerError
            If something else fails in a graph task, or worker after worker is lost.
        SchedulerError
            If the connection to the scheduler is lost.
        """
        held: list[tuple[int, Partial]] = []
        nothing, self.work = True, Work()
        self.telling.begin(name, n_runs, n_bytes=n_bytes, store=tasks.path)
        for i, part in self._partials(build, name, n_runs):
            self.work += part.work
            nothing = nothing and part.is_empty
            if part.damaged:
                held.append((i, part))
            else:
                yield i, part.total
        self.telling.over()
        damaged = [damage for _, part in held for damage in part.damaged]
        self._settle(tasks, damaged, nothing=nothing)
        yield from ((i, part.total) for i, part in held)

    def _settle(self, tasks: TaskStore, damaged: list[Damage], *, nothing: bool) -> None:
        """Refuse damaged blocks, or leave them out from now on; the first pass says which."""
        known = tasks.path in self._left_out
        damaged.sort(key=lambda damage: damage.block)
        if damaged and (known or nothing or not skips_damage()):
            raise refusal(tasks, damaged, late=known and skips_damage(), nothing=nothing)
        self.leave_out(tasks, [damage.block for damage in damaged])

    def _partials(
        self, build: Callable[[], list[Delayed]], name: str, n_runs: int
    ) -> Iterator[tuple[int, Partial]]:
        if self._client is None and (self._scheduler is not None or n_runs == 1):
            with _Count(n_runs, self.telling):
                for i, graph in enumerate(build()):
                    try:
                        part = dask.compute(graph, scheduler=self._scheduler or "sync")[0]
                    except WorkerError as error:
                        raise explained(error, "", name) from error.__cause__
                    yield i, part
            return
        if self._client is None:
            self._client = self._stack.enter_context(_local_client())
            self._local = True
        self.telling.listen(self._client)
        try:
            yield from self._compute_on(self._client, build, name, n_runs)
        except Exception as error:
            address = self._client.scheduler.address
            raise explained(error, address, name, self.planned.get(name)) from None

    def _compute_on(
        self, client: Client, build: Callable[[], list[Delayed]], name: str, n_runs: int
    ) -> Iterator[tuple[int, Partial]]:
        graphs = build()
        watch = Watch(client, graphs, name, n_runs, self.telling)
        # not distributed's wait: that wants Dask's settings, which are one for all threads, changed
        ended = threading.Event()

        def told(future: Future) -> Future:
            future.add_done_callback(lambda _: ended.set())
            return future

        waiting = {i: told(future) for i, future in enumerate(client.compute(graphs))}
        avoided: set[str] = set()
        try:
            while waiting:
                self.telling.done(watch.n_done)
                ended.wait(POLL_SECONDS)
                ended.clear()
                for i in [i for i, future in waiting.items() if future.done()]:
                    try:
                        result = waiting[i].result()
                    except ReadError as error:
                        bad, others = client.run_on_scheduler(
                            elsewhere, key=waiting[i].key, avoided=avoided
                        )
                        avoided |= bad
                        if not others or len(avoided) > MOST_AVOIDED:
                            raise
                        _warn_of_move(error, others)
                        # Dask's own retries go to the worker that has just become free: the same
                        graphs[i] = build()[i]
                        waiting[i] = told(client.compute(graphs[i], workers=others))
                        watch = Watch(client, graphs, name, n_runs, self.telling)
                    else:
                        yield i, result
                        del waiting[i]
                if waiting:
                    watch.look()
        except BaseException:
            if client.status == "running":
                client.cancel(list(waiting.values()))
            raise


def connect(client: ClientLike, progress: bool | Show = False) -> AbstractContextManager[Runner]:
    """Return a context manager that gives a `Runner` for what the user named.

    Parameters
    ----------
    client : Client, Runner, str or None
        A `distributed.Client`; the address of a scheduler; ``"threads"`` or ``"sync"`` for Dask's
        in-process schedulers; None for the current client if there is one, else for what
        ``dask.config`` names as ``scheduler``, else for a Dask cluster of threads in this
        process, with its dashboard. A `Runner` is passed through.
    progress : bool or callable
        True shows bars in a terminal or a notebook; a callable is called with a
        `daskmlr.progress.Progress` when a pass begins, several times a second, and at its end.
        Of no effect with a `Runner`, which has its own.
    """
    if isinstance(client, Runner):
        return nullcontext(client)
    return Runner(client, progress)


def _ambient() -> Client | str | None:
    """Return what Dask itself would use: its current client, or its configured scheduler."""
    try:
        return Client.current()
    except ValueError:
        configured = dask.config.get("scheduler", None)
        return configured if configured in IN_PROCESS else None


def _connect_to(address: str) -> Client:
    if "://" not in address and ":" not in address:
        raise InputError(
            f"client must be a distributed.Client, the address of a scheduler (tcp://host:8786), "
            f"'threads' or 'sync', got {address!r}"
        )
    seconds = _patience()
    try:
        if address.startswith("tls://") and not _has_certificates():
            raise ValueError("a client without certificates cannot use tls://")  # noqa: TRY301
        return Client(address, timeout=seconds, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:  # the last: Dask wants encryption
        raise InputError(
            f"no Dask scheduler answers at {address} (tried for {seconds:g} s): check that it is "
            "running (`dask scheduler` prints its address), that the address is of the form "
            "tcp://host:8786, and that this machine reaches the port; or leave it out to compute "
            "on this machine. One with TLS wants tls://host:8786, and distributed.comm.tls in "
            f"Dask's configuration to name certificates that it accepts. Dask says: {error}"
        ) from error


def _has_certificates() -> bool:
    """Whether Dask's configuration names certificates for a client; Dask would fail later."""
    return Security().get_connection_args("client")["ssl_context"] is not None


def _patience() -> float:
    """Seconds that a scheduler or a worker is given to answer, as Dask is configured."""
    return float(parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")))


def _local_client() -> Client:
    """Start a Dask cluster of threads in this process, dashboard and all, on the loopback."""
    return Client(
        processes=False,
        n_workers=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        set_as_default=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's client from logging the traceback of the reconnection that it gives up."""
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _warn_of_move(error: ReadError, others: Sequence[str]) -> None:
    said = f"{error}. Trying on {len(others)} other workers"
    warnings.warn(said, ClusterWarning, stacklevel=2)


class _Count(Callback):  # type: ignore[misc]
    """Progress of Dask's in-process schedulers."""

    def __init__(self, total: int, telling: Telling):
        super().__init__()
        self._total, self._telling = total, telling
        self._done = 0

    def _posttask(self, *_: Any) -> None:
        self._done = min(self._done + 1, self._total)
        self._telling.done(self._done)
