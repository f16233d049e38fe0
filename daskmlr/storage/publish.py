"""Write aside, publish by one rename: an output is complete or it is not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskmlr.errors import NoSpaceError, PathExistsError, StoreError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator


# What the groups that daskmlr writes are called, by the kind in their attributes.
KINDS = {
    "daskmlr-tasks": "task store",
    "daskmlr-model": "model",
    "daskmlr-rows": "table of tasks",
    "truth of simulated tasks": "truth of simulated tasks",
}


def what_is(path: str | os.PathLike[str]) -> str | None:
    """Say what lies at `path`: one of the values of `KINDS`, a file or a folder; None if nothing.

    Examples
    --------
    >>> what_is("/"), what_is("/no/such/thing")
    ('folder', None)
    """
    target = Path(path)
    if target.is_file():
        return "file"
    if not target.exists():
        return "broken link" if target.is_symlink() else None
    try:
        content: Any = json.loads((target / "zarr.json").read_text())
        return KINDS[content["attributes"]["daskmlr"]["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "folder"


def refuse_existing(path: str | os.PathLike[str]) -> Path:
    """Return `path` made absolute; it must not exist, in a folder that must.

    Raises
    ------
    PathExistsError
        If it exists, saying what it is.
    StoreError
        If its folder does not.
    """
    target = Path(path).absolute()
    found = what_is(target)
    if found is not None:
        raise PathExistsError(
            f"{path} exists and is a {found}: choose another path for the output, and check the "
            "order of the arguments"
        )
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
