"""Chunks of numbers, read straight into the array that is returned.

Zarr reads a chunk into bytes and copies them into an array; this is twice as fast, and a missing
chunk is an error instead of fill values. The bytes are those of Zarr's own codecs (tests hold what
is read here equal to what Zarr reads).
"""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from daskmlr.storage import layout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHECKSUM_BYTES = 4
# Where Blosc's header says how many bytes it encodes; decoding does not compare.
BLOSC_DECODED = slice(4, 8)
# Summed while still in the cache it was read into; and the checksum holds the interpreter's lock.
PIECE_BYTES = 1 << 20


def read_chunk(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], codec: str
) -> NDArray[Any]:
    """Read, check and decode one chunk.

    Parameters
    ----------
    path : Path
        Of its file.
    shape, dtype
        Of the decoded chunk.
    codec : {"none", "lz4", "zstd"}

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
    data = _checked_bytes(path)
    wanted = prod(shape) * dtype.itemsize
    held = data.size if codec == "none" else int.from_bytes(data[BLOSC_DECODED].tobytes(), "little")
    if held != wanted:
        raise ValueError(f"it holds {held:,} bytes instead of {wanted:,}")
    if codec != "none":
        encoded, data = data, np.empty(wanted, dtype=np.uint8)
        layout.compressor(codec).decode(encoded, out=data)
    return data.view(dtype.newbyteorder("<")).reshape(shape)


def _checked_bytes(path: Path) -> NDArray[np.uint8]:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = np.empty(max(size - CHECKSUM_BYTES, 0), dtype=np.uint8)
        checksum = 0
        for start in range(0, data.size, PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            file.readinto(piece.data)
            checksum = google_crc32c.extend(checksum, piece)
        stored = file.read(CHECKSUM_BYTES)
    if checksum.to_bytes(CHECKSUM_BYTES, "little") != stored:
        raise ValueError(f"its {size:,} bytes do not match their checksum")
    return data
