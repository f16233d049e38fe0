"""Where bytes lie: in a folder on disk, or under a URL of an object store.

`locate` makes a `Location` of a path or URL; all else in storage reads and writes through it::

    place = locate("s3://bucket/runs/7")         # or locate("runs/7"), locate("file:///runs/7")
    stage = place.join("stage")                  # a location below
    stage.write("sums.bin", data)                # atomic: all of it or nothing; replaces
    stage.write_new("done.json", data)           # atomic, FileExistsError if it is there
    stage.read("sums.bin")                       # bytes; FileNotFoundError
    stage.open("sums.bin")                       # a file object, to read parts of it
    stage.exists("sums.bin"), stage.is_empty()
    stage.names()                                # directly below, sorted; [] if nothing
    stage.version("sums.bin")                    # changes when it is replaced
    stage.remove("sums.bin"), stage.remove()     # one; or all below, and the location itself

Names may hold ``/``. A location pickles as its path or URL, so that each process finds its own
credentials. What an object store refuses, or does not answer, is an `AccessError`.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from daskmlr.errors import InputError
from daskmlr.storage.objects import ObjectPrefix, checked_url
from daskmlr.storage.place import Location

# How the names of files end that are written aside, by Zarr too.
ASIDE = ".partial"


def locate(path: str | os.PathLike[str]) -> Location:
    """Return the location of a path or URL; a relative path is made absolute.

    Parameters
    ----------
    path : path or URL
        ``s3://``, ``gs://``, ``az://`` (or another name of Azure's), ``file://``, or a path.

    Raises
    ------
    InputError
        For another scheme, or a URL that holds a password or a signature.

    Examples
    --------
    >>> locate("/data/tasks").join("x"), locate("s3://bucket/tasks/").join("x")
    (<Location /data/tasks/x>, <Location s3://bucket/tasks/x>)
    """
    if isinstance(path, Location):
        return path
    text = os.fspath(path)
    if "://" not in text:
        return Folder(Path(text).absolute())
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{text} names another machine: write file:///{parts.netloc}...")
        return Folder(Path(url2pathname(parts.path)))
    return ObjectPrefix(checked_url(text))


class Folder(Location):
    """A folder on disk."""

    def __init__(self, path: Path):
        super().__init__(path.as_posix())
        self.path = path

    @classmethod
    def _of(cls, root: str) -> Folder:
        return Folder(Path(root))

    def view(self, name: str) -> memoryview:
        """Read a file."""
        return memoryview((self.path / name).read_bytes())

    def open(self, name: str) -> BinaryIO:
        """Open a file."""
        return (self.path / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        """Write aside, rename."""
        aside = self._aside(name, data)
        aside.replace(self.path / name)

    def write_new(self, name: str, data: bytes) -> None:
        """Write aside, link: unlike a rename that fails if the name is taken."""
        aside = self._aside(name, data)
        try:
            os.link(aside, self.path / name)
        finally:
            aside.unlink()

    def upload(self, name: str, file: Path) -> None:
        """Move the file, of the same file system."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        file.replace(self.path / name)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def version(self, name: str) -> tuple[Any, ...]:
        """Return time, size and number of a file."""
        now = (self.path / name).stat()
        # a file that replaced another within one tick of the clock differs in the other two
        return now.st_mtime_ns, now.st_size, now.st_ino

    def names(self) -> list[str]:
        """Names in the folder, but for what is being written aside."""
        try:
            names = [entry.name for entry in self.path.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.endswith(ASIDE))

    def is_empty(self) -> bool:
        """Whether the folder has no entry."""
        return not self.path.is_dir() or next(self.path.iterdir(), None) is None

    def is_missing(self) -> bool:
        """Whether there is neither folder nor file."""
        return not self.path.exists()

    def remove(self, name: str | None = None) -> None:
        """Remove a file, or the folder."""
        if name is not None:
            (self.path / name).unlink(missing_ok=True)
        elif self.path.is_dir():
            shutil.rmtree(self.path)

    def zarr_store(self) -> Any:
        """Return what Zarr makes its store of a folder of."""
        return str(self.path)

    def _aside(self, name: str, data: bytes) -> Path:
        """Write a file that is not yet called what it will be."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{ASIDE}")
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # or a crash may leave the name without the bytes
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return aside
