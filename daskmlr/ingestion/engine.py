"""The engine that scans and sorts: DuckDB in this process, within a memory limit."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from dask.system import CPU_COUNT
from dask.utils import format_bytes, parse_bytes

from daskmlr.errors import InputError, NoSpaceError, PlanError
from daskmlr.graph.memory import memory_limit
from daskmlr.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daskmlr.progress import Show

MIB = 1 << 20
# DuckDB holds to its limit but for what its readers and the allocator take besides.
SHARE = 0.8
MIN_ENGINE_BYTES = 64 * MIB
# A thread that sorts wants so much besides what it reads with; all may take a part of the memory.
SORT_BYTES_PER_THREAD = 64 * MIB
THREADS_SHARE = 0.6
POLL_SECONDS = 0.25


class Engine:
    """A database in memory that spills to a scratch folder; used in a ``with``.

    Parameters
    ----------
    folder : Path
        Where the scratch folder is made; it is removed at the end, whatever happens.
    name : str
        Of the output, to name the scratch folder after.
    memory : int
        Bytes the engine may use.
    show : callable or False
        Called with a `Progress`; see `shown`.

    Attributes
    ----------
    folder, memory
        As given.
    scratch : Path
        The scratch folder.
    """

    def __init__(self, folder: Path, name: str, memory: int, show: bool | Show):
        self.folder, self.memory, self._name = folder, memory, name
        self._show = show
        self._began: dict[str, float] = {}

    def __enter__(self) -> Engine:
        self.scratch = Path(tempfile.mkdtemp(prefix=f".{self._name}.ingest-", dir=self.folder))
        self._connection = duckdb.connect(
            config={
                "memory_limit": f"{int(self.memory * SHARE) // MIB}MiB",
                "temp_directory": str(self.scratch / "spill"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        # progress is asked for, never printed; a whole row group is not to be read at once
        for setting in (
            "enable_progress_bar = true",
            "enable_progress_bar_print = false",
            "disable_parquet_prefetching = true",
        ):
            self._connection.execute(f"SET {setting}")
        self.set_threads(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def show(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if callable(self._show):
            now = time.monotonic()
            seconds = now - self._began.setdefault(stage, now)
            self._show(Progress(stage, done, total, seconds=seconds))

    def set_threads(self, reading_bytes: int) -> None:
        """Use as many threads as fit, if each needs so many bytes to read the input."""
        each = reading_bytes + SORT_BYTES_PER_THREAD
        threads = min(CPU_COUNT, int(THREADS_SHARE * self.memory) // each)
        self._connection.execute(f"SET threads = {max(threads, 1)}")

    def run(self, query: str, reads: object = "the input") -> list[tuple[Any, ...]]:
        """Run a query to its end; `reads` is named if it cannot be read."""
        with errors_named(self.memory, reads):
            return list(self._connection.execute(query).fetchall())

    def row(self, query: str, stage: str | None = None) -> dict[str, Any]:
        """Run a query that gives one row."""
        with errors_named(self.memory), self._shown(stage):
            result = self._connection.execute(query)
            names = [column[0] for column in result.description]
            return dict(zip(names, result.fetchall()[0], strict=True))

    def stream(self, query: str, batch_rows: int, stage: str) -> Iterator[pa.RecordBatch]:
        """Run a query whose rows come in batches; `stage` ends with the first of them."""
        with errors_named(self.memory):
            with self._shown(stage):
                reader = iter(self._connection.sql(query).to_arrow_reader(batch_rows))
                batch = next(reader, None)
            while batch is not None:
                yield batch
                batch = next(reader, None)

    @contextmanager
    def _shown(self, stage: str | None) -> Iterator[None]:
        """Ask the engine now and then how much of its query is done."""
        if stage is None or not self._show:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(POLL_SECONDS):
                self.show(stage, max(0, int(self._connection.query_progress())), 100)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self.show(stage, 100, 100)


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """Quote a string."""
    return "'" + str(text).replace("'", "''") + "'"


def engine_memory(limit: str | int | None, reserved: int) -> int:
    """Bytes of a memory limit that are left for the engine.

    Parameters
    ----------
    limit : str or int, optional
        Such as ``"1GB"``; by default half of the machine's, or of what its cgroup allows.
    reserved : int
        Bytes needed besides.

    Raises
    ------
    PlanError
        If too little is left, with the arithmetic.
    """
    try:
        total = int(memory_limit() // 2 if limit is None else parse_bytes(limit))
    except ValueError:
        raise InputError(f"memory_limit must be a size such as '1GB', got {limit!r}") from None
    left = total - reserved
    if left < MIN_ENGINE_BYTES:
        raise PlanError(
            f"memory_limit is {format_bytes(total)}, of which {format_bytes(reserved)} are for "
            f"Python and the blocks that are written: {format_bytes(max(left, 0))} are left to "
            f"sort, {format_bytes(MIN_ENGINE_BYTES)} are needed. Raise memory_limit to "
            f"{format_bytes(reserved + MIN_ENGINE_BYTES)}, or lower block_bytes"
        )
    return left


def check_space(needs: list[tuple[Path, int, str]]) -> None:
    """Refuse to begin what the disks cannot take.

    Parameters
    ----------
    needs : list of (folder, bytes, what for)
        Needs on one disk are added up.

    Raises
    ------
    NoSpaceError
        With the arithmetic.
    """
    disks: dict[int, list[tuple[Path, int, str]]] = {}
    for need in needs:
        disks.setdefault(need[0].stat().st_dev, []).append(need)
    for same in disks.values():
        total = sum(n_bytes for _, n_bytes, _ in same)
        free = shutil.disk_usage(same[0][0]).free
        if total > free:
            terms = " + ".join(f"{format_bytes(n)} for {what}" for _, n, what in same)
            folders = " and ".join(dict.fromkeys(str(folder) for folder, _, _ in same))
            raise NoSpaceError(
                f"{format_bytes(total)} of disk are needed in {folders} ({terms}), "
                f"{format_bytes(free)} are free: free some, or give another out or "
                "temporary_directory"
            )


@contextmanager
def errors_named(memory: int, reads: object = "the input") -> Iterator[None]:
    """Turn the engine's errors into ours."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        text = str(error)
        if "max_temp_directory_size" in text or os_full(text):
            raise NoSpaceError(
                "the disk of temporary_directory is full: free some, or name another"
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
            raise PlanError(
                f"reading and sorting do not fit into {format_bytes(memory)}: raise memory_limit, "
                "or write the input with smaller row groups"
            ) from error
        if "utf-8" in text.lower():
            raise InputError(
                f"{reads} is not text in UTF-8: convert it, as by iconv -f latin1 -t utf-8 "
                f"({_brief(text)})"
            ) from error
        raise InputError(f"{reads} cannot be read: {_brief(text)}") from error


def os_full(text: str) -> bool:
    """Whether an error says that a disk is full."""
    return "No space left" in text or f"errno {errno.ENOSPC}" in text.lower()


def _brief(text: str) -> str:
    """Return the paragraph of an error that says what happened, without advice for SQL users."""
    first = re.split(r"\n\s*\n|\nPossible |\n\s+file =", text.strip())[0]
    return " ".join(first.split())
