"""The only place that computes: on a Dask cluster, or in the calling process."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import dask
from dask.callbacks import Callback
from dask.system import CPU_COUNT
from dask.utils import parse_timedelta
from distributed import Client, Security, wait
from distributed.system import MEMORY_LIMIT
from distributed.utils import key_split

from daskmlr.errors import InputError
from daskmlr.graph import preflight
from daskmlr.graph.leaf import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from dask.delayed import Delayed

    from daskmlr.storage.tasks import TaskStore

    Progress = Callable[[str, int, int], None]

ClientLike: TypeAlias = "Client | Runner | str | None"

IN_PROCESS = ("sync", "synchronous", "threads")
POLL_SECONDS = 0.25


class Runner:
    """Computes graphs for the length of a ``with`` block.

    Parameters
    ----------
    client : Client, str or None
        See `connect`.
    progress : callable, optional
        ``progress(name, done, total)``, called as the runs of a pass finish.
    """

    def __init__(self, client: Client | str | None = None, progress: Progress | None = None):
        self._asked = client
        self._progress = progress
        self._stack = ExitStack()
        self._client: Client | None = None
        self._scheduler: str | None = None
        self._local = False
        self._checked: set[tuple[str, int, str | None]] = set()

    def __enter__(self) -> Runner:
        self._stack.enter_context(one_blas_thread())
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
        self._stack.close()

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard, if there is one."""
        return str(self._client.dashboard_link) if self._client is not None else None

    @property
    def own_memory(self) -> int:
        """Memory of this process, bytes."""
        return int(MEMORY_LIMIT)

    def worker_resources(self) -> tuple[int, int]:
        """Return the threads of a worker process and its memory in bytes (0: no limit)."""
        if self._client is None or self._local:
            return (1 if self._scheduler in IN_PROCESS[:2] else CPU_COUNT), MEMORY_LIMIT
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
        if not self._checked:
            preflight.check_environments(client, seconds)
        passed = (tasks.path, tasks.n_tasks, staging)
        if passed not in self._checked:
            preflight.check_files(client, tasks, staging, seconds)
            self._checked.add(passed)

    def compute(self, graph: Delayed, name: str, n_runs: int) -> Any:
        """Compute `graph`, whose `n_runs` leaves have keys that begin with `name`."""
        ((_, result),) = self.compute_each([graph], name, n_runs)
        return result

    def compute_each(
        self, graphs: Sequence[Delayed], name: str, n_runs: int
    ) -> Iterator[tuple[int, Any]]:
        """Compute several graphs, and yield each one's number and result when it is ready.

        Their `n_runs` leaves, in all, have keys that begin with `name`. A result is let go on the
        workers once it was yielded.
        """
        if self._client is None and (self._scheduler is not None or n_runs == 1):
            with _Count(name, n_runs, self._progress):
                for i, graph in enumerate(graphs):
                    yield i, dask.compute(graph, scheduler=self._scheduler or "sync")[0]
            return
        if self._client is None:
            self._client = self._stack.enter_context(_local_client())
            self._local = True
        yield from self._compute_on(self._client, graphs, name, n_runs)

    def _compute_on(
        self, client: Client, graphs: Sequence[Delayed], name: str, n_runs: int
    ) -> Iterator[tuple[int, Any]]:
        prefix = key_split(f"{name}-0")
        if self._progress is not None:
            before = client.run_on_scheduler(_finished, prefix=prefix)
        waiting = dict(enumerate(client.compute(list(graphs))))
        try:
            while waiting:
                if self._progress is not None:
                    done = client.run_on_scheduler(_finished, prefix=prefix) - before
                    self._progress(name, min(done, n_runs), n_runs)
                with suppress(TimeoutError), client.as_current():
                    wait(waiting.values(), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
                for i in [i for i, future in waiting.items() if future.done()]:
                    yield i, waiting[i].result()
                    del waiting[i]
        except BaseException:
            client.cancel(list(waiting.values()))
            raise
        if self._progress is not None:
            self._progress(name, n_runs, n_runs)


def connect(client: ClientLike, progress: Progress | None = None) -> AbstractContextManager[Runner]:
    """Return a context manager that gives a `Runner` for what the user named.

    Parameters
    ----------
    client : Client, Runner, str or None
        A `distributed.Client`; the address of a scheduler; ``"threads"`` or ``"sync"`` for Dask's
        in-process schedulers; None for the current client if there is one, else for what
        ``dask.config`` names as ``scheduler``, else for a Dask cluster of threads in this
        process, with its dashboard. A `Runner` is passed through.
    progress : callable, optional
        ``progress(name, done, total)``.
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


def _finished(prefix: str, dask_scheduler: Any) -> int:
    """Count the finished graph tasks of this name, ever; runs on the scheduler."""
    known = dask_scheduler.task_prefixes.get(prefix)
    if known is None:
        return 0
    counts = known.state_counts
    return int(counts["memory"] + counts["released"] + counts["forgotten"])


class _Count(Callback):  # type: ignore[misc]
    """Progress of Dask's in-process schedulers."""

    def __init__(self, name: str, total: int, progress: Progress | None):
        super().__init__()
        self._name, self._total, self._progress = name, total, progress
        self._done = 0

    def _posttask(self, *_: Any) -> None:
        if self._progress is not None:
            self._done = min(self._done + 1, self._total)
            self._progress(self._name, self._done, self._total)
