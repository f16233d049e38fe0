"""What a location offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable


class Location(ABC):
    """A place of named bytes; see `daskmlr.storage.location` for what it offers."""

    def __init__(self, root: str):
        self._root = root

    def __str__(self) -> str:
        return self._root

    def __fspath__(self) -> str:
        return self._root

    def __repr__(self) -> str:
        return f"<Location {self._root}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._root)

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        return type(self)._of, (self._root,)

    @classmethod
    @abstractmethod
    def _of(cls, root: str) -> Location:
        """Return the location of a root in its final spelling."""

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
        return self._of(self._root.rpartition("/")[0] or "/")

    def join(self, *names: str) -> Location:
        """Return the location below."""
        return self._of("/".join([self._root.rstrip("/"), *names]))

    def read(self, name: str) -> bytes:
        """Return all bytes of one; FileNotFoundError if there is none."""
        return bytes(self.view(name))

    @abstractmethod
    def view(self, name: str) -> memoryview:
        """Return all bytes of one, read-only, without a copy."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open one to read parts of it; FileNotFoundError if there is none."""

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
    def is_missing(self) -> bool:
        """Whether there is nothing of that name."""

    @abstractmethod
    def remove(self, name: str | None = None) -> None:
        """Remove one; without a name, all that is below. What is not there is no error."""

    @abstractmethod
    def zarr_store(self) -> Any:
        """Return it as a store for Zarr."""
