"""Objects under a URL, as a location."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from daskmlr.errors import InputError
from daskmlr.storage.clients import VARIABLES, ZarrObjects, client, request
from daskmlr.storage.place import Location

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
# Of an object that is read in parts, so many bytes at least come at a time.
RANGE_BYTES = 1 << 20
# Servers take so many keys in one request.
DELETED_AT_ONCE = 1000


class ObjectPrefix(Location):
    """Objects whose keys begin alike, in a bucket.

    Every request may be sent twice: a write on conditions that finds its own bytes has succeeded.
    """

    def __init__(self, url: str):
        super().__init__(url)

    @classmethod
    def _of(cls, root: str) -> ObjectPrefix:
        return ObjectPrefix(root)

    @property
    def in_bucket(self) -> bool:
        """Whether it is below a bucket, not the bucket itself."""
        return self._root.count("/") > 2

    @property
    def client(self) -> Any:
        """Client of obstore; keys are relative to the prefix."""
        return client(self._root)

    def view(self, name: str) -> memoryview:
        """GET an object."""
        return self._send(name, lambda library: memoryview(library.get(self.client, name).bytes()))

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return int(self._head(name)["size"])

    def range(self, name: str, start: int, stop: int) -> memoryview:
        """GET some bytes of an object."""
        return self._send(
            name,
            lambda library: memoryview(library.get_range(self.client, name, start=start, end=stop)),
        )

    def open(self, name: str) -> BinaryIO:
        """GET ranges of an object, as they are read."""
        return io.BufferedReader(_Ranges(self, name), RANGE_BYTES)

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
        self._send(name, lambda library: library.put(self.client, name, file))

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self.version(name)
        except FileNotFoundError:
            return False
        return True

    def version(self, name: str) -> tuple[Any, ...]:
        """Return the server's tags of an object."""
        found = self._head(name)
        return found["e_tag"], found["version"]

    def names(self) -> list[str]:
        """Names up to the next ``/``; of all objects, since a server may list empty folders too."""
        return sorted({key.partition("/")[0] for key in self._keys()})

    def is_empty(self) -> bool:
        """Ask for the first object."""
        return self._send("", lambda library: not any(library.list(self.client, chunk_size=1)))

    def is_missing(self) -> bool:
        """Whether there is no object; a URL has no empty folders."""
        return self.is_empty()

    def remove(self, name: str | None = None) -> None:
        """Delete an object, or all of them."""
        keys = self._keys() if name is None else [name] if self.exists(name) else []
        for start in range(0, len(keys), DELETED_AT_ONCE):
            self._delete(keys[start : start + DELETED_AT_ONCE])

    def zarr_store(self) -> Any:
        """Return Zarr's store of the objects."""
        return ZarrObjects(self.client, str(self))

    def _send(self, name: str, send: Callable[[Any], T]) -> T:
        return request(f"{self}/{name}".rstrip("/"), send)

    def _delete(self, keys: list[str]) -> None:
        self._send("", lambda library: library.delete(self.client, keys))

    def _keys(self) -> list[str]:
        pages = self._send("", lambda library: list(library.list(self.client)))
        return [each["path"] for page in pages for each in page]

    def _head(self, name: str) -> Any:
        return self._send(name, lambda library: library.head(self.client, name))

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        self._send(
            name,
            lambda library: library.put(self.client, name, data, mode=mode, use_multipart=False),
        )

    def _put_if(self, name: str, data: bytes, mode: Any) -> None:
        try:
            self._put(name, data, mode)
        except FileExistsError as error:
            with suppress(FileNotFoundError):  # another's, and gone again
                if self.read(name) == data:
                    return
            raise error from None


class _Ranges(io.RawIOBase):
    """An object as a file."""

    def __init__(self, place: ObjectPrefix, name: str):
        super().__init__()
        self._place, self._name = place, name
        self._size, self._at = place.size(name), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, into: Any) -> int:
        stop = min(self._at + len(into), self._size)
        if stop <= self._at:
            return 0
        into[: stop - self._at] = self._place.range(self._name, self._at, stop)
        n_read, self._at = stop - self._at, stop
        return n_read


def checked_url(url: str) -> str:
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
