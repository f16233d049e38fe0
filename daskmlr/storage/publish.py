"""Write aside, publish by one rename: an output is complete or it is not there."""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daskmlr.errors import NoSpaceError, PathExistsError, StoreError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


def refuse_existing(path: str | os.PathLike[str]) -> Path:
    """Return `path`, which must not exist, in a folder that must."""
    target = Path(path).absolute()
    if target.exists():
        raise PathExistsError(f"{path} exists: choose another path, or delete it first")
    if not target.parent.is_dir():
        raise StoreError(f"the folder {target.parent} of the output does not exist: create it")
    return target


@contextmanager
def no_space_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's "disk full" into an error that says what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
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
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=target.parent))
    try:
        with no_space_named(path):
            yield staging
        refuse_existing(path)
        staging.chmod(0o755)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
