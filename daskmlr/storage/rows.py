"""A table with one row per task, written in parts by many processes and published whole."""

from __future__ import annotations

import json
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from daskmlr.errors import DamagedStoreError, InputError, StoreError
from daskmlr.storage.layout import ATTRIBUTE, codecs
from daskmlr.storage.location import locate
from daskmlr.storage.objects import ObjectPrefix
from daskmlr.storage.publish import (
    MANIFEST,
    Unpublished,
    claim,
    give_up,
    no_space_named,
    publishing,
    refuse_existing,
    refuse_unfinished,
    release,
    staging_folder,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Iterator

    from daskmlr.storage.place import Location

KIND = "daskmlr-rows"
FORMAT_VERSION = 1
SUFFIXES = (".parquet", ".zarr")
# A Zarr chunk has so many rows, fewer if so many rows of the whole table are more than ...
ZARR_CHUNK = 1 << 18
# ... this; `finish_rows` takes about five times as much, however long the table.
ZARR_BYTES = 64 << 20
# Below a Zarr group on an object store: parts that are still to be made its arrays.
PARTS = "_parts"


def start_rows(out: str | os.PathLike[str]) -> str:
    """Make the hidden folder that the parts go to; on an object store, claim `out`.

    Raises
    ------
    PathExistsError
        If `out` exists.
    InputError
        If `out` ends in neither ``.parquet`` nor ``.zarr``.
    """
    target = refuse_existing(out)
    if target.suffix not in SUFFIXES:
        raise InputError(
            f"the output must end in .parquet or .zarr, got {out}: a folder of Parquet files, or a "
            "Zarr group"
        )
    if not isinstance(target, ObjectPrefix):
        return str(staging_folder(Path(target)))
    claim(target)
    return str(target.join(PARTS) if target.suffix == ".zarr" else target)


def write_rows_part(staging: str, part: int, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Write one part; a part that is written again, even at the same time, replaces itself.

    Parameters
    ----------
    staging : str
        From `start_rows`.
    part : int
        Place of the part in the table.
    batches : iterable of dict
        Columns by name, each array with a row per task; an array with more dimensions becomes
        the columns ``name_0``, ``name_1``, ...

    Raises
    ------
    InputError
        If the columns or their types change from batch to batch, or two have one name.
    NoSpaceError
    """
    place, name = locate(staging), _part(part)
    beside = None if isinstance(place, ObjectPrefix) else staging
    writer: Any = None
    with (
        no_space_named(f"{place}/{name}"),
        # of its own, so that two attempts at one part do not meet
        tempfile.TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as attempt,
    ):
        partial = Path(attempt, name)
        try:
            for batch in batches:
                table = pa.table(_flat(batch))
                if writer is None:
                    writer = pq.ParquetWriter(partial, table.schema)
                elif table.schema != writer.schema:
                    raise InputError(_changed(writer.schema, table.schema, "one block", "the next"))
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"part {part} has no rows: give at least one batch")
        place.upload(name, partial)


def try_rows_part(staging: str) -> None:
    """Write a few bytes where parts go, and remove them; the error is what writing one would give.

    A folder must be there already: who does not see it has another disk.
    """
    place, name = locate(staging), f"probe-{uuid.uuid4().hex}"
    if not isinstance(place, ObjectPrefix) and place.is_missing():
        raise StoreError(f"the folder {staging} is not there")
    place.write(name, b"probe")
    place.remove(name)


def finish_rows(
    staging: str, out: str | os.PathLike[str], n_parts: int, *, empty: Collection[int] = ()
) -> None:
    """Check that every part is there and like the others, and publish the table.

    Memory: for Parquet, next to none; for Zarr, about 0.3 GB, however long the table.

    Parameters
    ----------
    staging, out
        As for `start_rows`.
    n_parts : int
    empty : collection of int
        Parts that have no rows, and were not written.

    Raises
    ------
    StoreError
        Naming the parts that are missing.
    InputError
        If the columns or their types differ between parts.
    PathExistsError
        If `out` came to exist meanwhile.
    """
    place, target = locate(staging), locate(out)
    numbers = [part for part in range(n_parts) if part not in empty]
    parts = [_part(part) for part in numbers]
    there = set(place.names())
    missing = [index for index, part in zip(numbers, parts, strict=True) if part not in there]
    if missing:
        raise StoreError(
            f"{len(missing)} of {n_parts} parts of {out} are missing: {missing[:10]}. Write them, "
            "or start again"
        )
    schema = _schema(place, parts[0])
    for index, part in zip(numbers, parts, strict=True):
        found = _schema(place, part)
        if found != schema:
            first = f"part {numbers[0]}"
            raise InputError(_changed(schema, found, first, f"part {index} of {out}"))
    if isinstance(target, ObjectPrefix):
        _publish_objects(Unpublished(str(target)), place, parts, schema)
        release(target)
        return
    with publishing(out) as final:
        if target.suffix == ".parquet":
            for part in parts:
                final.upload(part, Path(place, part))
        else:
            _write_zarr(final, place, parts, schema)
    abandon_rows(staging)


def abandon_rows(staging: str) -> None:
    """Remove what was written."""
    place = locate(staging)
    if isinstance(place, ObjectPrefix):
        url = place.parent if place.name == PARTS else place
        give_up(ObjectPrefix(str(url)))
    else:
        place.remove()


def read_column(path: str | os.PathLike[str], name: str) -> Iterator[np.ndarray]:
    """Yield a column of numbers of a published table, in order, a chunk at a time.

    Raises
    ------
    StoreError
        If the table has no such column.
    DamagedStoreError
        If it cannot be read.
    IncompleteStoreError
        On an object store, if its writer was stopped before it published.
    """
    table = locate(path)
    refuse_unfinished(table, "table of tasks")
    with _damage_named(path):
        yield from (_zarr_column if table.suffix == ".zarr" else _parquet_column)(table, name)


def _zarr_column(table: Location, name: str) -> Iterator[np.ndarray]:
    group = zarr.open_group(table.zarr_store(), mode="r")
    facts: Any = group.attrs[ATTRIBUTE]
    _check_column(name, facts["columns"], table)
    array: Any = group[name]
    if array.shape != (facts["n_tasks"],):
        raise ValueError(f"{name} has shape {array.shape}, of {facts['n_tasks']} tasks")
    for start in range(0, array.shape[0], ZARR_CHUNK):
        yield np.asarray(array[start : start + ZARR_CHUNK])


def _parquet_column(table: Location, name: str) -> Iterator[np.ndarray]:
    parts = [part for part in table.names() if part.endswith(".parquet")]
    _check_column(name, _schema(table, parts[0]).names, table)
    for part in parts:
        with table.open(part) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=ZARR_CHUNK, columns=[name]):
                yield batch.column(0).to_numpy()


def _check_column(name: str, columns: list[str], table: Location) -> None:
    if name not in columns:
        raise StoreError(f"no column {name!r} in {table}: it has {', '.join(columns)}")


@contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say what a table that cannot be read means."""
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except Exception as error:  # readers of Zarr and Parquet raise many kinds
        raise DamagedStoreError(
            f"the table {path} cannot be read ({error}): restore it, or write it again"
        ) from error


def _part(part: int) -> str:
    # readers of a folder take its files in the order of their names
    return f"part-{part:07d}.parquet"


def _schema(place: Location, part: str) -> Any:
    with place.open(part) as source:
        return pq.read_schema(source)


def _publish_objects(final: Unpublished, place: Location, parts: list[str], schema: Any) -> None:
    """Make a table valid whose parts lie where they will be; of a Zarr group, below it."""
    if final.suffix == ".zarr":
        _write_zarr(final, place, parts, schema)
        place.remove()
    else:
        content = {"kind": KIND, "format_version": FORMAT_VERSION, "parts": len(parts)}
        final.hold(MANIFEST, json.dumps(content).encode())
    final.publish()


def _flat(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, values in batch.items():
        if values.ndim == 1:
            flat = {name: values}
        else:
            wide = values.reshape(len(values), -1)
            flat = {f"{name}_{j}": wide[:, j] for j in range(wide.shape[1])}
        twice = sorted(columns.keys() & flat.keys())
        if twice:
            raise InputError(f"two columns are called {twice[0]!r}: rename one")
        columns.update(flat)
    return columns


def _changed(before: Any, after: Any, where: str, there: str) -> str:
    """Say how two schemas differ."""
    names = dict.fromkeys([*before.names, *after.names])
    of = [{field.name: str(field.type) for field in schema} for schema in (before, after)]
    unlike = [name for name in names if of[0].get(name) != of[1].get(name)] or list(names)
    name = unlike[0]
    return (
        f"every block must give the same columns, in one order: column {name!r} is "
        f"{of[0].get(name, 'absent')} in {where} but {of[1].get(name, 'absent')} in {there}"
    )


def _write_zarr(root: Location, place: Location, parts: list[str], schema: Any) -> None:
    """One array per column; batches are regrouped, so that every chunk is written once."""
    group = zarr.create_group(root.zarr_store(), zarr_format=3)
    totals = [_metadata(place, part) for part in parts]
    n_rows = sum(total.num_rows for total in totals)
    n_bytes = sum(t.row_group(i).total_byte_size for t in totals for i in range(t.num_row_groups))
    chunk = max(1, min(ZARR_CHUNK, ZARR_BYTES * n_rows // max(n_bytes, 1), n_rows))
    arrays = {}  # kept: opened again they would leave out chunks equal to the fill value
    for column in schema:
        _check_array_name(column.name)
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        arrays[column.name] = group.create_array(
            column.name,
            shape=(n_rows,),
            chunks=(chunk,),
            dtype=str if text else column.type.to_pandas_dtype(),
            compressors=codecs("none", 1),
            dimension_names=("task",),
            config={"write_empty_chunks": True},
        )
    start = 0
    for table in _regrouped(place, parts, chunk):
        for name, array in arrays.items():
            array[start : start + len(table)] = table.column(name).to_numpy()
        start += len(table)
    group.attrs[ATTRIBUTE] = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "columns": schema.names,
        "n_tasks": n_rows,
    }


def _metadata(place: Location, part: str) -> Any:
    with place.open(part) as source:
        return pq.read_metadata(source)


def _check_array_name(name: str) -> None:
    """Refuse names, which users and stores give, that would be paths."""
    if name in ("", ".", "..", "zarr.json") or set(name) & set("/\\\0"):
        raise InputError(
            f"a Zarr array cannot be called {name!r}: rename the column, or write .parquet"
        )


def _regrouped(place: Location, parts: list[str], n_rows: int) -> Iterator[Any]:
    """Tables of `n_rows` rows, the last one shorter."""
    waiting: list[Any] = []
    for part in parts:
        with place.open(part) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=n_rows):
                waiting.append(batch)
                if sum(map(len, waiting)) >= n_rows:
                    table = pa.Table.from_batches(waiting)
                    yield table.slice(0, n_rows)
                    waiting = table.slice(n_rows).to_batches()
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting)
