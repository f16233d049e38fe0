"""Chunks of numbers, read straight into the array that is returned.

Zarr reads a chunk into bytes and copies them into an array; this is twice as fast, and a missing
chunk is an error instead of fill values. The bytes are those of Zarr's own codecs (tests hold what
is read here equal to what Zarr reads).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
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
    on its way from an object store, asked for before it is needed. For one thread at a time.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []
        self._begun: dict[str, Future[memoryview]] = {}

    def begin(self, key: str, read: Callable[[str], memoryview]) -> None:
        """Begin ``read(key)`` in the background."""
        self._begun[key] = _background().submit(read, key)

    def finish(self, key: str, read: Callable[[str], memoryview]) -> memoryview:
        """Return what ``read(key)`` returns, begun before or not."""
        begun = self._begun.pop(key, None)
        return read(key) if begun is None else begun.result()

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return `n_bytes` bytes of any content; every view of them keeps them in use."""
        for buffer in self._kept:
            fits = n_bytes <= buffer.size <= 2 * n_bytes  # encoded chunks vary in size
            if fits and sys.getrefcount(buffer) <= IN_NO_USE:
                return buffer[:n_bytes]
        if len(self._kept) == MOST_BUFFERS:
            self._kept = [buffer for buffer in self._kept if sys.getrefcount(buffer) > IN_NO_USE]
        self._kept.append(np.empty(n_bytes, dtype=np.uint8))
        return self._kept[-1][:]


def read_chunk(
    source: Path | memoryview,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    codec: str,
    buffers: Buffers | None = None,
) -> NDArray[Any]:
    """Read, check and decode one chunk.

    Parameters
    ----------
    source : Path or memoryview
        Its file, or its bytes.
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
    data = _of_file(source, take) if isinstance(source, Path) else _of_bytes(source, take)
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
    """Threads that wait for object stores; they leave Python's lock alone."""
    return ThreadPoolExecutor(REQUESTS, "daskmlr-ahead")


def _new_bytes(n_bytes: int) -> NDArray[np.uint8]:
    return np.empty(n_bytes, dtype=np.uint8)


def _of_file(path: Path, take: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = take(max(size - CHECKSUM_BYTES, 0))
        checksum = 0
        for start in range(0, data.size, PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            file.readinto(piece.data)
            checksum = google_crc32c.extend(checksum, piece)
        stored = file.read(CHECKSUM_BYTES)
    _compare(checksum, stored, size)
    return data


def _of_bytes(source: memoryview, take: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Copy bytes, which belong to the client that received them, as they are summed."""
    encoded = np.frombuffer(source, dtype=np.uint8)
    data = take(max(encoded.size - CHECKSUM_BYTES, 0))
    checksum = 0
    for start in range(0, data.size, PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        piece[:] = encoded[start : start + piece.size]
        checksum = google_crc32c.extend(checksum, piece)
    _compare(checksum, encoded[data.size :].tobytes(), encoded.size)
    return data


def _compare(checksum: int, stored: bytes, size: int) -> None:
    if checksum.to_bytes(CHECKSUM_BYTES, "little") != stored:
        raise ValueError(f"its {size:,} bytes do not match their checksum")
