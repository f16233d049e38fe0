"""Single files that appear whole, on disk and as objects."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daskmlr.storage.objects import ObjectPrefix
from daskmlr.storage.publish import no_space_named, refuse_existing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


@contextmanager
def publishing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden file beside `path`; rename it to `path` on success, else remove it.

    For an object store, a temporary file, which becomes the object.

    Raises
    ------
    PathExistsError
        If `path` exists, before anything is written or at the end.
    NoSpaceError
        If the disk is full.
    """
    target = refuse_existing(path)
    if isinstance(target, ObjectPrefix):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, target.name)
            yield file
            try:
                target.parent.write_new(target.name, file.read_bytes())
            except FileExistsError:
                refuse_existing(path)
                raise
        return
    staging = Path(target.parent, f".staging-{target.name}")
    try:
        with no_space_named(path):
            yield staging
        refuse_existing(path)
        staging.rename(target)
    finally:
        staging.unlink(missing_ok=True)
