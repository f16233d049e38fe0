"""Small Zarr groups of arrays and facts: models, and whatever else is saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from daskmlr.errors import DamagedStoreError, StoreError
from daskmlr.storage.publish import publishing

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

ATTRIBUTE = "daskmlr"


def save_group(
    path: str | os.PathLike[str],
    *,
    kind: str,
    version: int,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> None:
    """Write arrays (one chunk each, with a checksum) and JSON-able facts as a new Zarr group.

    Parameters
    ----------
    path : path
        Must not exist; appears when the group is complete.
    kind, version
        Checked by `load_group`.
    arrays, facts
        By name; a name may not stand in both.

    Raises
    ------
    PathExistsError
    NoSpaceError
    """
    with publishing(path) as staging:
        group = zarr.create_group(str(staging), zarr_format=3)
        for name, values in arrays.items():
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=tuple(max(n, 1) for n in values.shape),
                dtype=values.dtype,
                compressors=[Crc32cCodec()],
                config={"write_empty_chunks": True},
            )
            array[...] = values
        group.attrs[ATTRIBUTE] = {"kind": kind, "format_version": version, **facts}


def load_group(path: str | os.PathLike[str], *, kind: str, version: int) -> dict[str, Any]:
    """Read a group written by `save_group`: arrays and facts by name.

    Raises
    ------
    StoreError
        If `path` is not such a group, or of a newer format.
    DamagedStoreError
        If an array cannot be read.
    """
    if not Path(path).exists():
        raise StoreError(f"there is no {kind} at {path}")
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3)
    except Exception as error:
        raise StoreError(f"{path} is not a {kind}: {error}") from error
    facts = dict(group.attrs).get(ATTRIBUTE)
    found = facts.get("kind", "daskmlr-tasks") if isinstance(facts, dict) else "other Zarr group"
    if found != kind or not isinstance(facts, dict):
        raise StoreError(f"{path} is not a {kind} but a {found}")
    if facts["format_version"] != version:
        raise StoreError(
            f"{path} has format version {facts['format_version']}, this daskmlr reads {version}: "
            "use the daskmlr that wrote it, or a newer one"
        )
    content: dict[str, Any] = dict(facts)
    for name, array in group.arrays():
        content[name] = _read(array, f"{path}/{name}")
    return content


def _read(array: Any, where: str) -> np.ndarray:
    if array.nchunks_initialized < array.nchunks:
        raise DamagedStoreError(f"a chunk of {where} is missing: restore it, or fit again")
    try:
        return np.asarray(array[...])
    except Exception as error:
        raise DamagedStoreError(
            f"{where} cannot be read ({error}): restore it, or fit again"
        ) from error
