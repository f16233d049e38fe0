"""Write aside, publish by one rename; on an object store, by one object that is written last.

An object store cannot rename. There an output is written where it will be, and is not valid before
the object that readers look for first: for a Zarr group its metadata with our attributes, for a
folder of Parquet files `MANIFEST`. A `CLAIM` keeps other writers away until then. A writer that is
killed leaves its claim, and what readers refuse.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskmlr.errors import (
    AccessError,
    IncompleteStoreError,
    NoSpaceError,
    PathExistsError,
    StoreError,
)
from daskmlr.storage.clients import GROUP, UnpublishedZarr
from daskmlr.storage.layout import KINDS
from daskmlr.storage.location import ASIDE, Folder, locate
from daskmlr.storage.objects import ObjectPrefix

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daskmlr.storage.place import Location


# Objects that readers of Parquet folders and of Zarr groups leave alone: what makes a folder of
# Parquet files valid, and who writes.
MANIFEST = "_daskmlr.json"
CLAIM = "_daskmlr_writing.json"
# Names, means and scales of a million features fit in half of it.
MOST_METADATA_BYTES = 256 << 20


def what_is(path: str | os.PathLike[str]) -> str | None:
    """Say what lies at `path`: one of the values of `KINDS`, a file or a folder; None if nothing.

    Examples
    --------
    >>> what_is("/"), what_is("/no/such/thing")
    ('folder', None)
    """
    place = locate(path)
    if isinstance(place, ObjectPrefix):
        return _what_objects(place)
    target = Path(place)
    if target.is_file():
        return "file"
    if not target.exists():
        return "broken link" if target.is_symlink() else None
    return _kind(place) or "folder"


def refuse_existing(path: str | os.PathLike[str]) -> Location:
    """Return the location of `path`; it must not exist, in a folder that must.

    Raises
    ------
    PathExistsError
        If it exists, saying what it is.
    StoreError
        If its folder does not.
    """
    target = locate(path)
    found = what_is(target)
    if found == UNFINISHED:
        raise PathExistsError(f"{path} is {_unfinished(target)}, or choose another path")
    if found is not None:
        raise PathExistsError(
            f"{path} exists and is a {found}: choose another path for the output, and check the "
            "order of the arguments"
        )
    if not isinstance(target, ObjectPrefix) and not Path(target).parent.is_dir():
        raise StoreError(f"the folder {target.parent} of the output does not exist: create it")
    return target


def refuse_unfinished(place: Location, kind: str) -> None:
    """Refuse to read what a writer has not published.

    Raises
    ------
    IncompleteStoreError
    """
    if isinstance(place, ObjectPrefix) and _what_objects(place) == UNFINISHED:
        raise IncompleteStoreError(f"{place} is no complete {kind} but {_unfinished(place)}")


def refuse_huge(place: Location, name: str = GROUP) -> None:
    """Refuse to parse metadata of a size that none of ours has.

    Raises
    ------
    StoreError
    """
    with place.open(name) as file:
        size = file.seek(0, os.SEEK_END)
    if size > MOST_METADATA_BYTES:
        raise StoreError(
            f"{place}/{name} has {size:,} bytes, and metadata have at most "
            f"{MOST_METADATA_BYTES:,}: daskmlr did not write it"
        )


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
def publishing(path: str | os.PathLike[str]) -> Iterator[Location]:
    """Give a location to write to, which on success is published as `path`, else removed.

    Raises
    ------
    PathExistsError
        If `path` exists, before anything is written or at the end.
    NoSpaceError
        If the disk is full.
    """
    target = refuse_existing(path)
    if isinstance(target, ObjectPrefix):
        claim(target)
        try:
            unpublished = Unpublished(str(target))
            yield unpublished
            unpublished.publish()
        except BaseException:
            give_up(target)
            raise
        release(target)
        return
    with no_space_named(path):
        staging = staging_folder(Path(target))
        try:
            yield Folder(staging)
            refuse_existing(path)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


class Unpublished(ObjectPrefix):
    """Objects that are valid once `publish` has written the last one, which was held back.

    Parameters
    ----------
    url : str
    replaces : tuple, optional
        `version` of the group's metadata that is to be replaced; by default there must be none.
    """

    def __init__(self, url: str, replaces: tuple[Any, ...] | None = None):
        super().__init__(url)
        self._replaces = replaces
        self._held: dict[str, bytes] = {}

    def zarr_store(self) -> Any:
        """Return Zarr's store, which holds back the metadata of the group."""
        return UnpublishedZarr(self.client, str(self), self._held)

    def hold(self, name: str, data: bytes) -> None:
        """Hold back an object that is to be written last."""
        self._held[name] = data

    def publish(self) -> None:
        """Write what was held back.

        Raises
        ------
        PathExistsError
            If another writer was first.
        """
        for name, data in self._held.items():
            try:
                if self._replaces is None:
                    self.write_new(name, data)
                else:
                    self.replace(name, data, self._replaces)
            except FileExistsError:
                raise PathExistsError(
                    f"{self} was written by another process in the meantime: nothing was replaced"
                ) from None


def claim(target: ObjectPrefix) -> None:
    """Take a new prefix, of two writers one only.

    Raises
    ------
    PathExistsError
    """
    try:
        target.write_new(CLAIM, _signature())
    except FileExistsError:
        raise PathExistsError(f"{target} is {_unfinished(target)}, or choose another") from None
    if target.names() != [CLAIM]:  # another has finished since we looked
        release(target)
        refuse_existing(target)


def release(target: ObjectPrefix) -> None:
    """Let other writers in; what was published stays valid if that fails."""
    with suppress(AccessError):
        target.remove(CLAIM)


def give_up(target: ObjectPrefix) -> None:
    """Remove what a writer wrote that holds the claim, unless somebody published it all the same.

    If the store does not answer, it stays, with the claim that says so.
    """
    with suppress(AccessError):
        if target.exists(GROUP) or target.exists(MANIFEST):
            target.remove(CLAIM)
        else:
            target.remove()


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a store against other writers; on disk the hold ends with the process.

    Raises
    ------
    StoreError
        If another writer holds it.
    NoSpaceError
        If the disk is full.
    """
    target = locate(path)
    held = _claimed(target) if isinstance(target, ObjectPrefix) else _locked(Path(target))
    with held, no_space_named(path):
        yield


@contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[Location]:
    """Give a store that is held by `only_writer`, to be changed: its attributes last.

    On disk that writes them; on an object store they are written at the end, if the store is still
    the one that was opened.

    Raises
    ------
    PathExistsError
        If it is not.
    """
    target = locate(path)
    if not isinstance(target, ObjectPrefix):
        for stray in Path(target).rglob(f"*{ASIDE}"):  # of a write that was killed
            stray.unlink()
        yield target
        return
    unpublished = Unpublished(str(target), target.version(GROUP))
    yield unpublished
    unpublished.publish()


@contextmanager
def _claimed(store: ObjectPrefix) -> Iterator[None]:
    try:
        store.write_new(CLAIM, _signature())
    except FileExistsError:
        raise StoreError(
            f"another process is appending to {store} ({_writer(store)}): wait until it has "
            f"ended; if it was killed, remove {store}/{CLAIM}"
        ) from None
    try:
        yield
    finally:
        release(store)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise StoreError(
            f"another process is appending to {folder}: wait until it has ended"
        ) from None
    except OSError:
        pass  # a file system without locks: nothing to hold
    try:
        yield
    finally:
        os.close(held)


UNFINISHED = "write that did not finish"


def _what_objects(place: ObjectPrefix) -> str | None:
    """Say what lies under a URL."""
    kind = _kind(place)
    if kind or place.exists(GROUP):
        return kind or "folder"
    if place.exists(MANIFEST):
        return KINDS["daskmlr-rows"]
    if place.exists(CLAIM):
        return UNFINISHED
    if not place.is_empty():
        return "folder"
    return "file" if place.in_bucket and place.parent.exists(place.name) else None


def _kind(place: Location) -> str | None:
    """Read what the attributes of a group say that it is."""
    try:
        content: Any = json.loads(place.read(GROUP))
        return KINDS[content["attributes"]["daskmlr"]["kind"]]
    except AccessError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _signature() -> bytes:
    """Say who writes; the number makes it distinct."""
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    who = {"host": socket.gethostname(), "process": os.getpid(), "since": started}
    return json.dumps({**who, "number": uuid.uuid4().hex}).encode()


def _writer(target: Location) -> str:
    try:
        who = json.loads(target.read(CLAIM))
        return f"process {who['process']} of {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has just ended"


def _unfinished(target: Location) -> str:
    return (
        f"being written by another process ({_writer(target)}), or is what it left when it was "
        f"stopped: wait until it has ended; if it was stopped, remove all of {target}"
    )
