"""Run a command under a hard memory limit and say what it used.

The limit is a cgroup (v1 or v2) where this process may make one. Elsewhere the resident memory of
the command and its children is sampled, and the command is killed when it passes the limit.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CGROUPS = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes
    ----------
    returncode : int
    seconds : float
    peak_rss : int
        Bytes of anonymous memory of all its processes together, sampled: page cache not counted.
    peak_disk : int
        Bytes of the files under the watched folder, if any, sampled.
    enforced : str
        How the limit was held: "cgroup v1", "cgroup v2", or "sampled".
    oom_kills : int
        Processes that were killed for passing the limit.
    stdout, stderr : str
    """

    returncode: int
    seconds: float
    peak_rss: int
    peak_disk: int
    enforced: str
    oom_kills: int
    stdout: str
    stderr: str


def run_limited(
    command: Sequence[str], *, limit: int, timeout: float, watch: Path | None = None
) -> Usage:
    """Run `command` with at most `limit` bytes of memory, watching the size of a folder.

    Folders of many files take a good part of a core to watch.
    """
    with _cgroup(limit) as group:
        argv = list(command)
        if group is not None:
            argv = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *argv]
        start = time.perf_counter()
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        sampler = _Sampler(child, group, watch, limit)
        sampler.start()
        try:
            stdout, stderr = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            sampler.kill_all()
            stdout, stderr = child.communicate()
            stderr += f"\nstopped after {timeout:.0f} s"
        seconds = time.perf_counter() - start
        sampler.stop()
        return Usage(
            child.returncode,
            seconds,
            sampler.peak_rss,
            sampler.peak_disk,
            "sampled" if group is None else f"cgroup v{_version()}",
            sampler.kills + _oom_kills(group),
            stdout,
            stderr,
        )


class _Sampler(threading.Thread):
    """Keeps the largest memory and disk use seen; enforces the limit where no cgroup does."""

    def __init__(
        self, child: subprocess.Popen[str], group: Path | None, watch: Path | None, limit: int
    ):
        super().__init__(daemon=True)
        self.peak_rss = self.peak_disk = self.kills = 0
        self._child, self._group, self._watch, self._limit = child, group, watch, limit
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_rss = max(self.peak_rss, self._rss())
            if self._watch is not None:
                self.peak_disk = max(self.peak_disk, folder_bytes(self._watch))
            if self._group is None and self.peak_rss > self._limit:
                self.kills += 1
                self.kill_all()
                return

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def kill_all(self) -> None:
        for process in self._processes():
            process.kill()

    def _rss(self) -> int:
        if self._group is None:
            return sum(_quietly_rss(process) for process in self._processes())
        name = "total_rss" if _version() == 1 else "anon"
        for line in (self._group / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
        return 0

    def _processes(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._child.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`, which may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _quietly_rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _version() -> int:
    return 1 if (CGROUPS / "memory").is_dir() else 2


@contextmanager
def _cgroup(limit: int) -> Iterator[Path | None]:
    """Make a memory cgroup, or give None where that is not allowed."""
    base = CGROUPS / "memory" if _version() == 1 else CGROUPS
    group = base / f"daskmlr-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    usable: Path | None = group
    try:
        if _version() == 1:
            (group / "memory.limit_in_bytes").write_text(str(limit))
            (group / "memory.swappiness").write_text("0")
        else:
            (group / "memory.max").write_text(str(limit))
            (group / "memory.swap.max").write_text("0")
    except OSError:
        usable = None
    try:
        yield usable
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Stop what is left in the cgroup, then remove it."""
    for _ in range(50):
        for pid in (group / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _oom_kills(group: Path | None) -> int:
    if group is None:
        return 0
    events = group / ("memory.oom_control" if _version() == 1 else "memory.events")
    counts = dict(line.split() for line in events.read_text().splitlines())
    return int(counts.get("oom_kill", 0))
