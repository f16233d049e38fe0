"""The on-disk contract of a task store, as data: arrays, dtypes, chunks, attributes, version.

A store is a Zarr v3 group that any Zarr reader opens:

==============  ===============  ==================================================================
array           shape            holds
==============  ===============  ==================================================================
``x``           (n_rows*, d)     covariates; a chunk is a block of whole tasks, then zero rows
``y``           (n_rows*,)       targets, in the same rows
``task_size``   (n_tasks,)       int32, examples of each task
``task_id``     (n_tasks,)       int64 or string, the user's key
``block_tasks`` (n_blocks + 1,)  int64, first task of each block
==============  ===============  ==================================================================

``n_rows*`` is ``n_blocks * block_rows``. ``attrs["daskmlr"]`` (`Facts`) holds the counts and is
written last: it publishes what was written before. Arrays may be longer than the counts say, after
an append that was stopped; readers go by the counts, and the next append writes over the surplus.
Every chunk ends with its CRC32C. Fill values are impossible ones, so that a chunk that is missing
is seen when it is read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from daskmlr.errors import IncompleteStoreError, StoreError

KIND = "daskmlr-tasks"
FORMAT_VERSION = 1
ATTRIBUTE = "daskmlr"
DTYPES = ("float32", "float64")
# Below 32 MiB the allocator hands out the same memory again: reading is 2-4 times faster.
BLOCK_BYTES = 16 << 20
# Chunks of the per-task arrays: short, since reading one block reads the chunks its tasks lie in.
TASK_CHUNK = 1 << 16
BLOCK_CHUNK = 1 << 12
# Refused as a task id, so that it can stand for one that is missing.
MISSING_ID = np.iinfo(np.int64).min
# A codec must make the first block so many times smaller to be worth its time.
WORTH_COMPRESSING = 1.25
WORTH_ZSTD = 1.2
_LEVEL = {"lz4": 5, "zstd": 1}


@dataclass(frozen=True)
class Facts:
    """What ``attrs["daskmlr"]`` holds."""

    n_tasks: int
    n_rows: int
    n_blocks: int
    block_rows: int
    dtype: str
    feature_names: list[str]
    target_name: str
    task_name: str
    feature_mean: list[float]
    feature_scale: list[float]
    target_mean: float
    target_scale: float
    codec: str
    encoding: dict[str, Any] | None
    provenance: list[dict[str, Any]]

    def to_attrs(self) -> dict[str, Any]:
        """Return the attributes of the group."""
        return {ATTRIBUTE: {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)}}

    @classmethod
    def from_attrs(cls, attrs: dict[str, Any], where: str) -> Facts:
        """Check and read the attributes of a group.

        Raises
        ------
        IncompleteStoreError
            If they were never written.
        StoreError
            If they are those of something else, of another version, or lack an entry.
        """
        found = attrs.get(ATTRIBUTE)
        if found is None:
            raise IncompleteStoreError(
                f"{where} is not a complete task store: its writer was stopped before it "
                "published. Delete it and write it again"
            )
        if found.get("kind") != KIND:
            raise StoreError(f"{where} is not a task store but a {found.get('kind')}")
        if found.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{where} has format version {found.get('format_version')}, this daskmlr reads "
                f"{FORMAT_VERSION}: use the daskmlr that wrote it, or write the store again"
            )
        lacking = [f.name for f in fields(cls) if f.name not in found]
        if lacking:
            raise StoreError(f"{where} lacks the attributes {lacking}: it is damaged")
        return cls(**{f.name: found[f.name] for f in fields(cls)})


def missing_value(name: str, *, text: bool = False) -> int | str:
    """Fill value of a per-task array: never a true value, so that a missing chunk shows."""
    if text:
        return ""
    return int(MISSING_ID) if name == "task_id" else -1


def choose_codec(sample: np.ndarray) -> str:
    """Choose "none", "lz4" or "zstd" by what they make of the first block.

    Random floats do not compress; columns of a real table often do.
    """
    raw = sample.nbytes
    small = {
        name: len(Blosc(cname=name, clevel=level, shuffle=Blosc.SHUFFLE).encode(sample))
        for name, level in _LEVEL.items()
    }
    best = "zstd" if small["lz4"] > WORTH_ZSTD * small["zstd"] else "lz4"
    return best if raw > WORTH_COMPRESSING * small[best] else "none"


def codecs(codec: str, itemsize: int) -> list[Any]:
    """Bytes-to-bytes codecs of a chunk of floats: the chosen compressor, then the checksum."""
    if codec == "none":
        return [Crc32cCodec()]
    blosc = BloscCodec(
        typesize=itemsize, cname=codec, clevel=_LEVEL[codec], shuffle=BloscShuffle.shuffle
    )
    return [blosc, Crc32cCodec()]


def describe_codec(codec: str) -> str:
    """Say the codec in words."""
    compressor = "uncompressed" if codec == "none" else f"Blosc {codec} with byte shuffle"
    return f"{compressor}, CRC32C for every chunk"
