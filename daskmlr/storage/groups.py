"""Small Zarr groups of arrays and facts: models, and whatever else is saved whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from daskmlr.errors import DamagedStoreError, InputError, StoreError
from daskmlr.storage.layout import ATTRIBUTE, KINDS, codecs, wrong_kind
from daskmlr.storage.location import locate
from daskmlr.storage.publish import publishing, refuse_huge, refuse_unfinished, what_is

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daskmlr.storage.place import Location

# Entries of the attributes beside the facts.
OWN_ENTRIES = ("kind", "format_version", "arrays")


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
        By name; a name may not stand in both, and not be one of `OWN_ENTRIES`.

    Raises
    ------
    InputError
        If a name is given twice.
    PathExistsError
    NoSpaceError

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/line"
    ...     save_group(path, kind="line", version=1, arrays={"a": np.ones(2)}, facts={"b": 3})
    ...     content = load_group(path, kind="line", version=1)
    >>> content["a"].tolist(), content["b"]
    ([1.0, 1.0], 3)
    """
    twice = sorted((arrays.keys() & facts.keys()) | ({*arrays, *facts} & set(OWN_ENTRIES)))
    if twice:
        raise InputError(f"names of a {kind} must be distinct, and these are taken: {twice}")
    with publishing(path) as staging:
        group = zarr.create_group(staging.zarr_store(), zarr_format=3)
        for name, values in arrays.items():
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=tuple(max(n, 1) for n in values.shape),
                dtype=values.dtype,
                compressors=codecs("none", 1),
                config={"write_empty_chunks": True},
            )
            array[...] = values
        own = {"kind": kind, "format_version": version, "arrays": sorted(arrays)}
        group.attrs[ATTRIBUTE] = {**own, **facts}


def load_group(path: str | os.PathLike[str], *, kind: str, version: int) -> dict[str, Any]:
    """Read a group written by `save_group`: arrays and facts by name.

    What else may lie in the group is left alone.

    Raises
    ------
    StoreError
        If `path` is not such a group, or of another format version.
    IncompleteStoreError
        On an object store, if its writer was stopped before it published.
    DamagedStoreError
        If an array is missing or cannot be read.
    """
    place, wanted = locate(path), KINDS.get(kind, kind)
    if place.is_missing():
        raise StoreError(f"there is no {wanted} at {path}")
    refuse_unfinished(place, wanted)
    try:
        refuse_huge(place)
        group = zarr.open_group(place.zarr_store(), mode="r", zarr_format=3)
        content = dict(group.attrs).get(ATTRIBUTE)
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise wrong_kind(path, kind, what_is(path)) from error
    except Exception as error:
        raise StoreError(f"{path} is not a {wanted}: {error}") from error
    found = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or found != kind:
        raise wrong_kind(path, kind, found)
    if content.get("format_version") != version:
        raise StoreError(
            f"{path} has format version {content.get('format_version')}, this daskmlr reads "
            f"{version}: use the daskmlr that wrote it, or make it again with this one"
        )
    facts = {name: value for name, value in content.items() if name not in OWN_ENTRIES}
    names = content.get("arrays")
    if not isinstance(names, list):
        raise DamagedStoreError(f"{path} names no arrays: restore it from a copy, or make it again")
    return facts | {name: _read(group, name, place) for name in names}


def check_shapes(content: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the arrays of a group with the shapes that they should have.

    Raises
    ------
    ValueError
        Naming the first that has another.
    """
    for name, shape in shapes.items():
        if content[name].shape != shape:
            raise ValueError(f"{name} has shape {content[name].shape} instead of {shape}")


def _stored(place: Location, name: str, array: zarr.Array) -> int:
    """Bytes of the only chunk of an array, of which there is none if it is empty.

    Raises
    ------
    FileNotFoundError
    """
    if array.nchunks != 1:  # counted, not listed: metadata may claim any number
        return 0
    with place.open(f"{name}/{array.metadata.encode_chunk_key((0,) * array.ndim)}") as file:
        return file.seek(0, os.SEEK_END)


def _read(group: zarr.Group, name: str, place: Location) -> np.ndarray:
    where = f"{place}/{name}"
    try:
        array = group[name]
        if array.nbytes <= _stored(place, name, array):  # before memory is taken for it
            return np.asarray(array[...])
        damage = f"{where} is said to have {array.nbytes:,} bytes, and has fewer"
    except KeyError:
        damage = f"{where} is missing"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        damage = f"a chunk of {where} is missing"
    except (MemoryError, OSError):
        raise  # of the machine, not of the group
    except Exception as error:  # codecs and metadata raise many kinds
        damage = f"{where} cannot be read ({error})"
    raise DamagedStoreError(f"{damage}: restore it from a copy, or make it again")
