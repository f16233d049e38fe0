"""Dask's own daemons, as processes of this test run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import daskmlr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# the same package for every process, wherever it starts
SOURCE = str(Path(daskmlr.__file__).parents[1])


def run_cli(*args: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "daskmlr", *map(str, args)],
        capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
    )  # fmt: skip


def wait_until(condition, seconds: float = 60.0, what: str = "it"):
    """Return what `condition` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.1)
    return value


@contextmanager
def daemon(
    command: Sequence[object], log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the length of a ``with`` block; what it says goes to `log`."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=file, stderr=subprocess.STDOUT, cwd=log.parent,
            env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def scheduler(folder: Path, *options: object, path: Path | None = None) -> Iterator[Path]:
    """Start a scheduler on the loopback; give its scheduler file."""
    file = folder / "scheduler.json"
    command = (
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port",
        0, "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file,
        *options,
    )  # fmt: skip
    with daemon(command, folder / "scheduler.log", PYTHONPATH=_found(path)):
        wait_until(file.exists, what="a scheduler file")
        yield file


@contextmanager
def worker(
    scheduler_file: Path,
    name: str,
    *options: object,
    prefix: Sequence[str] = (),
    path: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker of one thread; `path` comes first where it looks for packages."""
    folder = scheduler_file.parent
    command = (
        *prefix, sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
        scheduler_file, "--host", "127.0.0.1", "--nthreads", 1, "--name", name, "--no-nanny",
        "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--local-directory", folder,
        *options,
    )  # fmt: skip
    with daemon(command, folder / f"{name}.log", PYTHONPATH=_found(path)) as process:
        yield process


def _found(first: Path | None) -> str:
    return SOURCE if first is None else f"{first}{os.pathsep}{SOURCE}"


def address(scheduler_file: Path) -> str:
    """Return the scheduler's address."""
    return json.loads(scheduler_file.read_text())["address"]


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
