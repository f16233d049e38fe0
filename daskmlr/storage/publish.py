"""Write aside, publish by one rename: an output is complete or it is not there."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daskmlr.errors import NoSpaceError, PathExistsError, StoreError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse_existing(path: str | os.PathLike[str]) -> Path:
    """Return `path` made absolute; it must not exist, in a folder that must.

    Raises
    ------
    PathExistsError
        If it exists.
    StoreError
        If its folder does not.
    """
    target = Path(path).absolute()
    if target.exists() or target.is_symlink():
        raise PathExistsError(f"{path} exists: choose another path for the output")
    if not target.parent.is_dir():
        raise StoreError(f"the folder {target.parent} of the output does not exist: create it")
    return target


def staging_folder(target: Path) -> Path:
    """Make a hidden folder beside `target`, on the same file system, for what is not ready yet."""
    staging = target.with_name(f".{target.name}.staging-{uuid.uuid4().hex[:12]}")
    staging.mkdir()
    return staging


@contextmanager
def no_space_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's "disk full" into an error that says what was being written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NoSpaceError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(
            f"no space left on the disk while writing {path}: nothing was kept; "
            "free some, or write elsewhere"
        ) from error


@contextmanager
def publishing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden folder beside `path`; rename it to `path` on success, else remove it.

    Raises
    ------
    PathExistsError
        If `path` exists, before anything is written or at the end.
    NoSpaceError
        If the disk is full.
    """
    target = refuse_existing(path)
    with no_space_named(path):
        staging = staging_folder(target)
        try:
            yield staging
            refuse_existing(path)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the folder `path` against other writers; the hold ends with the process.

    Raises
    ------
    StoreError
        If another writer holds it.
    """
    if sys.platform == "win32":
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise StoreError(
            f"another process is appending to {path}: wait until it has ended"
        ) from None
    except OSError:
        pass  # a file system without locks: nothing to hold
    try:
        yield
    finally:
        os.close(folder)
