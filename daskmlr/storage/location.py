"""Where bytes lie: in a folder on disk, or under a URL of an object store.

`locate` makes a `Location` of a path or URL; all else in storage reads and writes through it::

    place = locate("s3://bucket/runs/7")         # or locate("runs/7"), locate("file:///runs/7")
    stage = place.join("stage")                  # a location below
    stage.write("sums.bin", data)                # atomic: all of it or nothing; replaces
    stage.write_new("done.json", data)           # atomic, FileExistsError if it is there
    stage.read("sums.bin")                       # bytes; FileNotFoundError
    stage.exists("sums.bin"), stage.is_empty()
    stage.names()                                # directly below, sorted; [] if nothing
    stage.version("sums.bin")                    # changes when it is replaced
    stage.remove("sums.bin"), stage.remove()     # one; or all below, and the location itself

Names may hold ``/``. A location pickles as its path or URL, so that each process finds its own
credentials. What an object store refuses, or does not answer, is an `AccessError`.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zarr.storage import LocalStore

from daskmlr.errors import InputError
from daskmlr.storage.objects import VARIABLES, ZarrObjects, client, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import Store

# How the names of files end that are written aside, by Zarr too.
ASIDE = ".partial"


def locate(path: str | os.PathLike[str] | Location) -> Location:
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
    return ObjectPrefix(_checked_url(text))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether it names something on an object store.

    Examples
    --------
    >>> is_url("s3://bucket/tasks"), is_url("tasks"), is_url("file:///tasks")
    (True, False, False)
    """
    return isinstance(locate(path), ObjectPrefix)


class Location(ABC):
    """A place of named bytes; see the module for what it offers."""

    def __init__(self, root: str):
        self._root = root

    def __str__(self) -> str:
        return self._root

    def __repr__(self) -> str:
        return f"<Location {self._root}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._root)

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        return locate, (self._root,)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self._root.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Location:
        """The location that this one lies in."""
        return locate(self._root.rpartition("/")[0] or "/")

    def join(self, *names: str) -> Location:
        """Return the location below."""
        return locate("/".join([self._root.rstrip("/"), *names]))

    def read(self, name: str) -> bytes:
        """Return all bytes of one; FileNotFoundError if there is none."""
        return bytes(self.view(name))

    @abstractmethod
    def view(self, name: str) -> memoryview:
        """Return all bytes of one, read-only, without a copy."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write all bytes of one, or nothing; what was there is replaced."""

    @abstractmethod
    def write_new(self, name: str, data: bytes) -> None:
        """Write all bytes of one, of two writers by one only; the other: FileExistsError.

        On an object store a writer that finds the very bytes it would write takes them for its
        own, from an attempt whose answer was lost: make them distinct where it matters.
        """

    @abstractmethod
    def upload(self, name: str, file: Path) -> None:
        """Write the bytes of a local file, as `write` does; the file may be gone afterwards."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there are bytes of that name."""

    @abstractmethod
    def version(self, name: str) -> tuple[Any, ...]:
        """Return what changes when one is replaced; FileNotFoundError if there is none."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names directly below, sorted; none if there is nothing."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is nothing below, or not even the location."""

    @abstractmethod
    def remove(self, name: str | None = None) -> None:
        """Remove one; without a name, all that is below. What is not there is no error."""

    @abstractmethod
    def zarr_store(self) -> Store:
        """Return it as a store for Zarr."""


class Folder(Location):
    """A folder on disk."""

    def __init__(self, path: Path):
        super().__init__(path.as_posix())
        self.path = path

    def view(self, name: str) -> memoryview:
        """Read a file."""
        return memoryview((self.path / name).read_bytes())

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
        """Move the file."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, self.path / name)

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

    def remove(self, name: str | None = None) -> None:
        """Remove a file, or the folder."""
        if name is not None:
            (self.path / name).unlink(missing_ok=True)
        elif self.path.is_dir():
            shutil.rmtree(self.path)

    def zarr_store(self) -> Store:
        """Return Zarr's store of a folder."""
        return LocalStore(self.path)

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


class ObjectPrefix(Location):
    """Objects whose keys begin alike, in a bucket."""

    def __init__(self, url: str):
        super().__init__(url)

    @property
    def client(self) -> Any:
        """Client of obstore; keys are relative to the prefix."""
        return client(self._root)

    def view(self, name: str) -> memoryview:
        """GET an object."""
        with requests(f"{self}/{name}") as library:
            return memoryview(library.get(self.client, name).bytes())

    def write(self, name: str, data: bytes) -> None:
        """PUT an object."""
        self._put(name, data, "overwrite")

    def write_new(self, name: str, data: bytes) -> None:
        """PUT an object that must not be there."""
        self._put_if(name, data, "create")

    def replace(self, name: str, data: bytes, version: tuple[Any, ...]) -> None:
        """PUT an object in place of the one of that `version`; FileExistsError if it is another."""
        tags = zip(("e_tag", "version"), version, strict=True)
        self._put_if(name, data, {kind: tag for kind, tag in tags if tag is not None})

    def upload(self, name: str, file: Path) -> None:
        """PUT a file, in parts if it is large; they become an object at the end."""
        with requests(f"{self}/{name}") as library:
            library.put(self.client, name, file)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self.version(name)
        except FileNotFoundError:
            return False
        return True

    def version(self, name: str) -> tuple[Any, ...]:
        """Return the server's tags of an object."""
        with requests(f"{self}/{name}") as library:
            found = library.head(self.client, name)
        return found["e_tag"], found["version"]

    def names(self) -> list[str]:
        """Names up to the next ``/``; of all objects, since a server may list empty folders too."""
        with requests(str(self)) as library:
            pages = list(library.list(self.client))
        return sorted({each["path"].partition("/")[0] for page in pages for each in page})

    def is_empty(self) -> bool:
        """Ask for the first object."""
        with requests(str(self)) as library:
            return not any(page for page in library.list(self.client, chunk_size=1))

    def remove(self, name: str | None = None) -> None:
        """Delete an object, or all of them."""
        with requests(str(self)) as library:
            if name is None:
                for found in library.list(self.client):
                    library.delete(self.client, [each["path"] for each in found])
            elif self.exists(name):
                library.delete(self.client, name)

    def zarr_store(self) -> Store:
        """Return Zarr's store of the objects."""
        return ZarrObjects(self.client, str(self))

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        with requests(f"{self}/{name}") as library:
            library.put(self.client, name, data, mode=mode, use_multipart=False)

    def _put_if(self, name: str, data: bytes, mode: Any) -> None:
        try:
            self._put(name, data, mode)
        except FileExistsError:
            if self.read(name) != data:
                raise


def _checked_url(url: str) -> str:
    """Return a URL without a trailing slash."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    shown = re.sub(r"\?.*", "?***", re.sub(r"://.*@", "://***@", url))
    if scheme not in VARIABLES:
        raise InputError(
            f"{shown} is of no kind that is known: give a path, or a URL that begins with one of "
            f"{', '.join(f'{known}://' for known in VARIABLES)}, file://"
        )
    if ":" in bucket or "?" in rest or ("@" in bucket and not scheme.startswith("abfs")):
        raise InputError(
            f"{shown} holds a password or a signature: leave it out, and give credentials in "
            "environment variables, where every process finds its own"
        )
    key = key.rstrip("/")
    if not bucket or any(part in ("", ".", "..") for part in key.split("/") if key):
        raise InputError(f"{url} must name a bucket and a path, as in {scheme}://bucket/path")
    return f"{scheme}://{bucket}/{key}".rstrip("/")
