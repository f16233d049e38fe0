"""Chunks of numbers, read straight into the array that is returned.

Zarr reads a chunk into bytes and copies them into an array; this is twice as fast, and a missing
chunk is an error instead of fill values. The bytes are those of Zarr's own codecs (tests hold what
is read here equal to what Zarr reads).
"""

from __future__ import annotations

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from daskmlr.storage import layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from numpy.typing import NDArray

CHECKSUM_BYTES = 4
# Where Blosc's header says how many bytes it encodes; decoding does not compare.
BLOSC_DECODED = slice(4, 8)
# Summed while still in the cache it was read into; and the checksum holds the interpreter's lock.
PIECE_BYTES = 1 << 20
# Linux reads no more at an advice than a device takes at once, and forgets the rest.
ADVISED_BYTES = 1 << 20
# What memory must begin and end at, for a device to write into it.
ALIGNMENT = 4096
# References to a buffer that is only kept: of the list, the loop, and the question itself.
IN_NO_USE = 3
# Two arrays, encoded and decoded, of a block in use and one being read: eight at most are in use at
# a time.
MOST_BUFFERS = 10
# Requests that a process has under way besides those that a thread waits for itself.
REQUESTS = 32


class Buffers:
    """Memory that chunks are read into, used again once nobody holds what was read.

    The system gives new memory page by page, which costs as much as reading into it. And what is
    on its way, asked for before it is needed. For one thread at a time.

    Parameters
    ----------
    past_cache : bool
        Files come past the system's page cache: it cannot hold them all, and then costs a copy, and
        new pages that take as long again, for nothing.
    """

    def __init__(self, *, past_cache: bool = False) -> None:
        self.past_cache = past_cache
        self._kept: list[NDArray[np.uint8]] = []
        self._begun: dict[str, Future[memoryview | NDArray[np.uint8]]] = {}

    def begin(self, key: str, read: Callable[[], memoryview | NDArray[np.uint8]]) -> None:
        """Begin to read a chunk in the background."""
        self._begun[key] = _background().submit(read)

    def begin_file(self, key: str, path: Path) -> None:
        """Begin to read the file of a chunk past the system's page cache."""
        with suppress(OSError):  # an error when the chunk is wanted
            size = path.stat().st_size
            memory = self.take(-(-size // ALIGNMENT) * ALIGNMENT)  # devices write whole sectors
            self.begin(key, partial(_past_cache, path, size, memory))

    def finish(self, key: str) -> memoryview | NDArray[np.uint8] | None:
        """Return the bytes of a chunk, if they were begun."""
        begun = self._begun.pop(key, None)
        return None if begun is None else begun.result()

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return `n_bytes` bytes of any content, aligned; every view of them keeps them in use."""
        needed = n_bytes + ALIGNMENT
        for buffer in self._kept:
            fits = needed <= buffer.size <= 2 * needed  # encoded chunks vary in size
            if fits and sys.getrefcount(buffer) <= IN_NO_USE:
                return _aligned(buffer, n_bytes)
        if len(self._kept) == MOST_BUFFERS:
            self._kept = [buffer for buffer in self._kept if sys.getrefcount(buffer) > IN_NO_USE]
        self._kept.append(np.empty(needed, dtype=np.uint8))
        return _aligned(self._kept[-1], n_bytes)


def read_chunk(
    source: Path | memoryview | NDArray[np.uint8],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    codec: str,
    buffers: Buffers | None = None,
) -> NDArray[Any]:
    """Read, check and decode one chunk.

    Parameters
    ----------
    source : Path, memoryview or ndarray of uint8
        Its file; its bytes, which are copied; or its bytes in memory of ours, which become the
        chunk's.
    shape, dtype
        Of the decoded chunk.
    codec : {"none", "lz4", "zstd"}
    buffers : Buffers, optional
        Where to take memory from.

    Returns
    -------
    ndarray
        Owned by the caller.

    Raises
    ------
    FileNotFoundError
        If there is no such chunk.
    ValueError
        If it does not match its checksum or has not the size it should have.
    """
    take = _new_bytes if buffers is None else buffers.take
    data = _of_file(source, take) if isinstance(source, Path) else _of_memory(source, take)
    wanted = prod(shape) * dtype.itemsize
    held = data.size if codec == "none" else int.from_bytes(data[BLOSC_DECODED].tobytes(), "little")
    if held != wanted:
        raise ValueError(f"it holds {held:,} bytes instead of {wanted:,}")
    if codec != "none":
        encoded, data = data, take(wanted)
        layout.compressor(codec).decode(encoded, out=data)
    return data.view(dtype.newbyteorder("<")).reshape(shape)


def will_need(path: Path) -> None:
    """Let the system read a file into its cache meanwhile, where it can; never an error."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError), path.open("rb", buffering=0) as file:
        for start in range(0, os.fstat(file.fileno()).st_size, ADVISED_BYTES):
            os.posix_fadvise(file.fileno(), start, ADVISED_BYTES, os.POSIX_FADV_WILLNEED)


@lru_cache(maxsize=1)
def _background() -> ThreadPoolExecutor:
    """Threads that wait for bytes; they leave Python's lock alone."""
    return ThreadPoolExecutor(REQUESTS, "daskmlr-ahead")


def _new_bytes(n_bytes: int) -> NDArray[np.uint8]:
    return np.empty(n_bytes, dtype=np.uint8)


def _aligned(buffer: NDArray[np.uint8], n_bytes: int) -> NDArray[np.uint8]:
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + n_bytes]


def _past_cache(path: Path, size: int, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a file past the page cache, where its file system can, with as few calls as may be."""
    direct = getattr(os, "O_DIRECT", 0)
    try:
        return _whole(path, size, memory, direct)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not direct:
            raise
        return _whole(path, size, memory, 0)


def _whole(path: Path, size: int, memory: NDArray[np.uint8], flag: int) -> NDArray[np.uint8]:
    opener = partial(_open, flag)
    got = 0
    with open(path, "rb", buffering=0, opener=opener) as file:
        while got < size and (more := file.readinto(memory[got:].data)):
            got += more
    return memory[: min(got, size)]


def _open(more_flags: int, path: str, flags: int) -> int:
    return os.open(path, flags | more_flags)


def _of_file(path: Path, take: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = take(max(size - CHECKSUM_BYTES, 0))
        checksum = 0
        for piece in _pieces(data):
            file.readinto(piece.data)
            checksum = google_crc32c.extend(checksum, piece)
        stored = file.read(CHECKSUM_BYTES)
    _compare(checksum, stored, size)
    return data


def _of_memory(
    source: memoryview | NDArray[np.uint8], take: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Check bytes; those that belong to the client that received them are copied meanwhile."""
    size = len(source)
    encoded = np.frombuffer(source, dtype=np.uint8)
    held = encoded[: max(size - CHECKSUM_BYTES, 0)]
    data = take(held.size) if isinstance(source, memoryview) else held
    checksum = 0
    for piece, bytes_held in zip(_pieces(data), _pieces(held), strict=True):
        if data is not held:
            piece[:] = bytes_held
        checksum = google_crc32c.extend(checksum, piece)
    _compare(checksum, encoded[held.size :].tobytes(), size)
    return data


def _pieces(data: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [data[start : start + PIECE_BYTES] for start in range(0, data.size, PIECE_BYTES)]


def _compare(checksum: int, stored: bytes, size: int) -> None:
    if checksum.to_bytes(CHECKSUM_BYTES, "little") != stored:
        raise ValueError(f"its {size:,} bytes do not match their checksum")
