"""A table with one row per task, written in parts by many processes and published whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from daskmlr.errors import InputError, StoreError
from daskmlr.storage import layout
from daskmlr.storage.publish import no_space_named, publishing, refuse_existing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    import numpy as np

SUFFIXES = (".parquet", ".zarr")
ZARR_CHUNK = 1 << 18


def start_rows(out: str | os.PathLike[str]) -> str:
    """Make the hidden folder that the parts go to.

    Raises
    ------
    PathExistsError
        If `out` exists.
    InputError
        If `out` ends in neither ``.parquet`` nor ``.zarr``.
    """
    target = refuse_existing(out)
    if target.suffix not in SUFFIXES:
        raise InputError(f"the output must end in .parquet or .zarr, got {out}")
    return tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=target.parent)


def write_rows_part(staging: str, part: int, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Write one part; a part that is written again replaces itself.

    Parameters
    ----------
    staging : str
        From `start_rows`.
    part : int
        Place of the part in the table.
    batches : iterable of dict
        Columns by name, each array with a row per task; an array with two dimensions becomes the
        columns ``name_0``, ``name_1``, ...
    """
    final = _part(Path(staging), part)
    partial = Path(tempfile.mkdtemp(dir=staging)) / final.name
    writer: Any = None
    with no_space_named(final):
        try:
            for batch in batches:
                table = pa.table(_flat(batch))
                if writer is None:
                    writer = pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        partial.replace(final)
        partial.parent.rmdir()


def finish_rows(staging: str, out: str | os.PathLike[str], n_parts: int) -> None:
    """Check that every part is there, and publish the table.

    Raises
    ------
    StoreError
        Naming the parts that are missing.
    """
    folder = Path(staging)
    missing = [part for part in range(n_parts) if not _part(folder, part).exists()]
    if missing:
        raise StoreError(f"{len(missing)} of {n_parts} parts of {out} are missing: {missing[:10]}")
    parts = [_part(folder, part) for part in range(n_parts)]
    with publishing(out) as final:
        if Path(out).suffix == ".parquet":
            for part in parts:
                part.rename(final / part.name)
        else:
            _write_zarr(final, parts)
    abandon_rows(staging)


def abandon_rows(staging: str) -> None:
    """Remove what was written."""
    shutil.rmtree(staging, ignore_errors=True)


def _part(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.parquet"


def _flat(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, values in batch.items():
        if values.ndim == 1:
            columns[name] = values
        else:
            wide = values.reshape(len(values), -1)
            columns.update({f"{name}_{j}": wide[:, j] for j in range(wide.shape[1])})
    return columns


def _write_zarr(root: Path, parts: list[Path]) -> None:
    """One array per column; batches are regrouped, so that every chunk is written once."""
    group = zarr.create_group(str(root), zarr_format=3, overwrite=True)
    n_rows = sum(pq.read_metadata(part).num_rows for part in parts)
    schema = pq.read_schema(parts[0])
    for column in schema:
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        group.create_array(
            column.name,
            shape=(n_rows,),
            chunks=(ZARR_CHUNK,),
            dtype=str if text else column.type.to_pandas_dtype(),
            compressors=layout.codecs("none", 1),
            dimension_names=("task",),
            config={"write_empty_chunks": True},
        )
    start = 0
    for table in _regrouped(parts):
        for name in schema.names:
            values = table.column(name).to_numpy()
            group[name][start : start + len(values)] = values
        start += len(table)


def _regrouped(parts: list[Path]) -> Iterator[Any]:
    """Tables of `ZARR_CHUNK` rows, the last one shorter."""
    waiting: list[Any] = []
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(batch_size=ZARR_CHUNK):
            waiting.append(batch)
            if sum(map(len, waiting)) >= ZARR_CHUNK:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, ZARR_CHUNK)
                waiting = table.slice(ZARR_CHUNK).to_batches()
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting)
