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
an append that was killed; readers go by the counts, and the next append writes over the surplus.
Every chunk ends with its CRC32C. Fill values are impossible ones, so that a plain Zarr reader too
sees a chunk that is missing for what it is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from daskmlr.errors import StoreError

KIND = "daskmlr-tasks"
# What the groups that daskmlr writes are called, by the kind in their attributes.
KINDS = {
    KIND: "task store",
    "daskmlr-model": "model",
    "daskmlr-rows": "table of tasks",
    "truth of simulated tasks": "truth of simulated tasks",
}
MAKERS = {KIND: "write one with daskmlr ingest", "daskmlr-model": "fit one with daskmlr fit"}
FORMAT_VERSION = 1
ATTRIBUTE = "daskmlr"
DTYPES = ("float32", "float64")
DIMENSIONS = {
    "x": ("row", "feature"),
    "y": ("row",),
    "task_size": ("task",),
    "task_id": ("task",),
    "block_tasks": ("block",),
}
# Below 32 MiB the allocator hands out the same memory again: reading is 2-4 times faster.
BLOCK_BYTES = 16 << 20
# What a store smaller than a block is given for its only one: less would make a later append
# write a file for every few tasks.
SMALLEST_BLOCK_BYTES = 1 << 18
# Blosc takes no more than 2 GiB at once.
LARGEST_BLOCK_BYTES = 1 << 30
# Tasks, rows or blocks: beyond it the arithmetic of an index would overflow.
MOST_OF_ANYTHING = 1 << 48
# Chunks of the per-task arrays: short, since reading one block reads the chunks its tasks lie in.
TASK_CHUNK = 1 << 16
BLOCK_CHUNK = 1 << 12
# Refused as a task id, so that it can stand for one that is missing.
MISSING_ID = int(np.iinfo(np.int64).min)
# A codec must make the first block so many times smaller to be worth its time.
WORTH_COMPRESSING = 1.25
WORTH_ZSTD = 1.2
_LEVEL = {"lz4": 5, "zstd": 1}


def wrong_kind(where: object, wanted: str, found: str | None) -> StoreError:
    """Return the error of a path that holds something else; without `found`, any Zarr group.

    Examples
    --------
    >>> print(wrong_kind("shops", "daskmlr-model", "daskmlr-tasks"))
    shops is a task store, a model is wanted: fit one with daskmlr fit
    """
    is_a = f"a {KINDS.get(str(found), found)}" if found else "some other Zarr group"
    remedy = f": {MAKERS[wanted]}" if wanted in MAKERS else ""
    return StoreError(f"{where} is {is_a}, a {KINDS.get(wanted, wanted)} is wanted{remedy}")


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
        StoreError
            If they are those of something else, of another version, or are damaged.
        """
        found = attrs.get(ATTRIBUTE)
        kind = found.get("kind") if isinstance(found, dict) else None
        if not isinstance(found, dict) or kind != KIND:
            raise wrong_kind(where, KIND, kind)
        if found.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{where} has format version {found.get('format_version')}, this daskmlr reads "
                f"{FORMAT_VERSION}: use the daskmlr that wrote it, or write the store again"
            )
        entries: dict[str, Any] = {f.name: found.get(f.name) for f in fields(cls)}
        facts = cls(**entries)
        wrong = [name for name in entries if name not in found] or facts._impossible()
        if wrong:
            raise StoreError(
                f"{where} has no usable attributes {wrong}: restore its zarr.json, or write the "
                "store again"
            )
        return facts

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that the counts give to an array."""
        rows = self.n_blocks * self.block_rows
        return {
            "x": (rows, len(self.feature_names)),
            "y": (rows,),
            "task_size": (self.n_tasks,),
            "task_id": (self.n_tasks,),
            "block_tasks": (self.n_blocks + 1,),
        }[name]

    def chunks(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array's chunks."""
        if name in ("x", "y"):
            return (self.block_rows, *self.shape(name)[1:])
        return (BLOCK_CHUNK if name == "block_tasks" else TASK_CHUNK,)

    def _impossible(self) -> list[str]:
        """Name the attributes that no writer would have written."""
        names = self.feature_names
        d = len(names) if isinstance(names, list) else 0
        moments = {"feature_mean": self.feature_mean, "feature_scale": self.feature_scale}
        possible = {
            **{
                name: _is_count(getattr(self, name))
                for name in ("n_tasks", "n_rows", "n_blocks", "block_rows")
            },
            "dtype": self.dtype in DTYPES,
            "codec": self.codec in ("none", *_LEVEL),
            "feature_names": d > 0 and all(isinstance(name, str) for name in names),
            **{
                name: isinstance(values, list) and len(values) == d and all(map(_is_real, values))
                for name, values in moments.items()
            },
            **{name: _is_real(getattr(self, name)) for name in ("target_mean", "target_scale")},
            **{name: isinstance(getattr(self, name), str) for name in ("target_name", "task_name")},
            "encoding": self.encoding is None or isinstance(self.encoding, dict),
            "provenance": isinstance(self.provenance, list),
        }
        wrong = [name for name, holds in possible.items() if not holds]
        if not wrong:
            row_bytes = (d + 1) * np.dtype(self.dtype).itemsize
            if self.block_rows > max(LARGEST_BLOCK_BYTES // row_bytes, 1):
                wrong = ["block_rows"]
        return wrong


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= MOST_OF_ANYTHING


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def missing_value(name: str, *, text: bool = False) -> float | int | str:
    """Fill value of an array: never a true value."""
    if name in ("x", "y"):
        return float("nan")
    if name == "task_id":
        return "" if text else MISSING_ID
    return -1


def choose_codec(sample: np.ndarray) -> str:
    """Choose "none", "lz4" or "zstd" by what they make of the first block.

    Random floats do not compress; columns of a real table often do.
    """
    sample = sample[: max(BLOCK_BYTES // sample[:1].nbytes, 1)]
    small = {name: len(compressor(name).encode(sample)) for name in _LEVEL}
    best = "zstd" if small["lz4"] > WORTH_ZSTD * small["zstd"] else "lz4"
    return best if sample.nbytes > WORTH_COMPRESSING * small[best] else "none"


def compressor(codec: str) -> Blosc:
    """Return the Blosc compressor of that name."""
    return Blosc(cname=codec, clevel=_LEVEL[codec], shuffle=Blosc.SHUFFLE)


def codecs(codec: str, itemsize: int) -> list[Any]:
    """Bytes-to-bytes codecs of a chunk: the chosen compressor, then the checksum."""
    if codec == "none":
        return [Crc32cCodec()]
    blosc = BloscCodec(typesize=itemsize, cname=codec, clevel=_LEVEL[codec], shuffle="shuffle")
    return [blosc, Crc32cCodec()]


def describe_codec(codec: str) -> str:
    """Say the codec in words."""
    how = "uncompressed" if codec == "none" else f"Blosc {codec} with byte shuffle"
    return f"{how}, CRC32C for every chunk"
