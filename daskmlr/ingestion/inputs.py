"""What the user names as input becomes Parquet files that the engine reads."""

from __future__ import annotations

import csv
import glob
import gzip
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dask.base import is_dask_collection

from daskmlr.encoding import check_columns
from daskmlr.errors import InputError
from daskmlr.ingestion.engine import check_space, literal, quoted
from daskmlr.storage.publish import no_space_named

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from daskmlr.ingestion.engine import Engine

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# Fields of a text file that stand for a missing value.
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")
CATEGORY = "category of "
DELIMITERS = (",", ";", "\t", "|")
# The numbers of the rows, as pandas writes them to Parquet, and to CSV without any name.
UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
UNNAMED = "__index_level_0__"
# About the size of a row group that is written here.
GROUP_BYTES = 8 << 20
# Pages are about so long, except DuckDB's, which are as long as their chunk.
PAGE_BYTES = 1 << 20
# Buffers of a page that reading may hold: as measured, rounded up.
PAGE_BUFFERS, DUCKDB_PAGE_BUFFERS = 2, 4


@dataclass(frozen=True)
class Inputs:
    """Parquet files of one schema.

    Attributes
    ----------
    files : tuple of Path
        In the order of their rows.
    names : tuple of str
        What the user calls each.
    untyped : bool
        The files come from CSV: every column is text.
    kinds : dict of str to str
        Columns in order; "number", "text", "time", either of the first two with "category of "
        before it, "nothing" (no value at all), or the name of a type that cannot be used.
    reading_bytes : int
        What a thread may need to read the columns.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    untyped: bool
    kinds: dict[str, str]
    reading_bytes: int


def match_files(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files that paths, folders and globs stand for: in the order given, each sorted by name.

    Raises
    ------
    InputError
        If there is none, one is named twice, or they are of several formats.
    """
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    files = [file for path in given for file in _match(str(path))]
    if not files:
        raise InputError("no input was given: name files, folders or globs")
    twice = {str(file) for file in files if files.count(file) > 1}
    if twice:
        raise InputError(f"named more than once among the inputs: {', '.join(sorted(twice))}")
    formats = {file_format(file) for file in files}
    if len(formats) > 1:
        raise InputError("the inputs are both Parquet and CSV: ingest one format at a time")
    return files


def open_inputs(
    inputs: Any, needed: Sequence[str], columns: Sequence[str] | None, engine: Engine
) -> Inputs:
    """Find the files, or write a data frame or CSV to temporary ones, and check the schemas.

    Parameters
    ----------
    inputs : path, sequence of paths, pandas or dask DataFrame
    needed : sequence of str
        Columns that must be there.
    columns : sequence of str, optional
        Other columns to take; by default all.
    engine : Engine

    Raises
    ------
    InputError
    NoSpaceError
    """
    if columns is not None:
        columns = [*needed, *columns]
    if isinstance(inputs, pd.DataFrame):
        return _of_pandas(*_taken(inputs, needed, columns), engine)
    if is_dask_collection(inputs):
        return _of_dask(*_taken(inputs, needed, columns), engine)
    found = match_files(inputs)
    names = tuple(str(file) for file in found)
    untyped = file_format(found[0]) == "csv"
    files = _of_csv(found, columns, engine) if untyped else found
    opened = _checked(files, names, columns, untyped=untyped)
    check_columns(needed, opened.kinds, names[0])
    return opened


def _match(path: str) -> list[Path]:
    if "://" in path:
        raise InputError(f"{path} is a URL: tables are read from paths; fetch it, or mount it")
    plain = Path(path)
    if plain.is_dir():
        found = sorted(
            file
            for file in plain.rglob("*")
            if file.name.lower().endswith(PARQUET + CSV)
            and not any(part.startswith((".", "_")) for part in file.relative_to(plain).parts)
        )
        if not found:
            raise InputError(f"the folder {path} holds no file that ends in {_endings()}")
        return found
    if plain.is_file():
        return [plain]
    found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - may be absolute
    if not found:
        what = "no file matches" if glob.has_magic(path) else "there is no file or folder"
        raise InputError(f"{what} {path}")
    return [file for name in found for file in _match(str(name))]


def file_format(file: Path) -> str:
    """Tell "parquet" or "csv" by the name of a file."""
    name = file.name.lower()
    if name.endswith(PARQUET):
        return "parquet"
    if name.endswith(CSV):
        return "csv"
    raise InputError(f"{file} is neither Parquet nor CSV by its name: it must end in {_endings()}")


def _endings() -> str:
    return ", ".join(PARQUET + CSV)


def _checked(
    files: Sequence[Path],
    names: Sequence[str],
    columns: Sequence[str] | None,
    *,
    untyped: bool,
) -> Inputs:
    """Check that the files have rows and that their columns agree."""
    kinds: dict[str, str] | None = None
    kept: list[tuple[Path, str]] = []
    reading_bytes = 0
    for file, name in zip(files, names, strict=True):
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name} cannot be read as Parquet: {error}") from error
        if footer.num_rows == 0:
            continue
        kept.append((file, name))
        kinds = _merged(kinds, _kinds(footer.schema.to_arrow_schema(), columns, name), kept)
        reading_bytes = max(reading_bytes, _reading_bytes(footer, kinds))
    if kinds is None:
        raise InputError(f"the input is empty: {', '.join(names[:3])} without a row")
    return Inputs(
        tuple(file for file, _ in kept),
        tuple(name for _, name in kept),
        untyped,
        kinds,
        reading_bytes,
    )


def _reading_bytes(footer: pq.FileMetaData, columns: Container[str]) -> int:
    """Bytes that a thread may need to read one row group of a file."""
    whole = str(footer.created_by).startswith("DuckDB")
    most = 0
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        chunks = [group.column(j) for j in range(group.num_columns)]
        pages = [
            chunk.total_uncompressed_size
            if whole
            else min(chunk.total_uncompressed_size, PAGE_BYTES)
            for chunk in chunks
            if chunk.path_in_schema in columns
        ]
        # buffers are powers of two
        most = max(most, sum(1 << page.bit_length() for page in pages))
    return most * (DUCKDB_PAGE_BUFFERS if whole else PAGE_BUFFERS)


def _group_rows(n_columns: int) -> int:
    return max(GROUP_BYTES // (8 * max(n_columns, 1)) // 2048, 1) * 2048


def _kinds(schema: pa.Schema, columns: Sequence[str] | None, where: str) -> dict[str, str]:
    """Kind of each needed column of one file."""
    named = [name for name in schema.names if not UNNAMED_INDEX.fullmatch(name)]
    wanted = named if columns is None else list(columns)
    check_columns(wanted, schema.names, where)
    for name in wanted:
        # the engine does not tell upper from lower case in names
        same = [other for other in schema.names if other.lower() == name.lower()]
        if len(same) > 1:
            raise InputError(f"{where} has columns {same} that differ in case at most: rename them")
    return {name: _kind(schema.field(name).type) for name in wanted}


def _kind(type_: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(type_):
        return CATEGORY + _kind(type_.value_type)
    if any(
        test(type_)
        for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    ):
        return "number"
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "text"
    if types.is_temporal(type_):
        return "time"
    return "nothing" if types.is_null(type_) else str(type_)


def _merged(
    before: dict[str, str] | None, new: dict[str, str], files: list[tuple[Path, str]]
) -> dict[str, str]:
    """Kinds that hold for both, or an error that names file and column."""
    if before is None:
        return new
    first, here = files[0][1], files[-1][1]
    for name in new.keys() - before.keys():
        raise InputError(f"{here} has a column {name!r} that {first} lacks: name the features")
    merged = dict(before)
    for name, kind in before.items():
        check_columns([name], new, here)
        pair = {kind, new[name]} - {"nothing"}
        if len({one.removeprefix(CATEGORY) for one in pair}) > 1:
            raise InputError(
                f"column {name!r} is {new[name]} in {here} but {kind} in {first}: "
                "make the files agree"
            )
        merged[name] = max(pair, key=len, default="nothing")
    return merged


def _taken(
    frame: Any, needed: Sequence[str], columns: Sequence[str] | None
) -> tuple[Any, list[str]]:
    """Return the frame with names that are str, and the columns to take of it."""
    if not hasattr(frame, "to_parquet") or not hasattr(frame, "columns"):
        raise InputError(f"of Dask's collections a DataFrame is wanted, got {type(frame).__name__}")
    frame = _text_names(frame)
    wanted = list(frame.columns) if columns is None else list(columns)
    both = [*needed, *wanted]
    check_columns(both, frame.columns, "the data frame" + _index_hint(frame, both))
    return frame, wanted


def _of_pandas(frame: pd.DataFrame, wanted: list[str], engine: Engine) -> Inputs:
    n_bytes = int(frame[wanted].memory_usage(index=False, deep=True).sum())
    check_space([(engine.scratch, n_bytes, "the data frame as Parquet")])
    table = pa.table({name: _arrow(frame[name]) for name in wanted})
    file = engine.scratch / "frame.parquet"
    with no_space_named(file):
        pq.write_table(table, file, row_group_size=_group_rows(len(wanted)))
    return _checked([file], ["the data frame"], wanted, untyped=False)


def _of_dask(frame: Any, wanted: list[str], engine: Engine) -> Inputs:
    """Let Dask write its partitions, so that each is in memory for a moment only."""
    folder = engine.scratch / "frame"
    n_parts = frame.npartitions
    with no_space_named(folder):
        frame[wanted].to_parquet(
            str(folder), write_index=False, name_function=lambda index: f"{index:08d}.parquet"
        )
    files = [folder / f"{index:08d}.parquet" for index in range(n_parts)]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {n_parts} partitions were not written to {folder}: give a "
            "temporary_directory that all workers share"
        )
    names = [f"partition {index} of the data frame" for index in range(n_parts)]
    return _checked(files, names, wanted, untyped=False)


def _text_names(frame: Any) -> Any:
    """Return the frame with names that are str, as Parquet wants them."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the data frame has several columns named {', '.join(map(repr, twice))}")
    return frame.rename(columns=dict(zip(frame.columns, names, strict=True)))


def _index_hint(frame: Any, wanted: Iterable[str]) -> str:
    names = getattr(frame.index, "names", None) or [frame.index.name]
    inside = [name for name in names if name in set(wanted) - set(frame.columns)]
    return f" (its index is named {inside[0]!r}: call reset_index() first)" if inside else ""


def _arrow(series: pd.Series[Any]) -> pa.Array:
    """Return a column as Arrow, a missing value being null."""
    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        values = series.to_numpy(dtype=object)
        text = np.array([isinstance(value, str) for value in values], dtype=bool)
        if not text.any():
            raise InputError(f"column {series.name!r} cannot be used: {error}") from error
        # numbers among much text are as wrong as text among numbers
        odd = text if text.mean() < 0.5 else ~text & series.notna().to_numpy()
        row = int(np.argmax(odd))
        raise InputError(
            f"column {series.name!r} mixes text and numbers: {values[row]!r} in row {row + 1} of "
            "the data frame, and most others are different. Make them one type"
        ) from error


def _of_csv(files: Sequence[Path], columns: Sequence[str] | None, engine: Engine) -> list[Path]:
    """Write each file as Parquet, every column as text: its types need all rows to be known."""
    n_bytes = sum(file.stat().st_size for file in files)
    check_space([(engine.scratch, n_bytes, "the CSV files as Parquet")])
    out: list[Path] = []
    for index, file in enumerate(files):
        engine.show("read", index, len(files))
        header, delimiter = csv_header(file)
        wanted = [name for name in header if name] if columns is None else list(columns)
        check_columns(wanted, header, str(file))
        out.append(engine.scratch / f"{index:08d}.parquet")
        options = ", ".join(
            [
                "auto_detect = false, header = true, quote = '\"', escape = '\"'",
                f"delim = {literal(delimiter)}",
                f"nullstr = [{', '.join(map(literal, MISSING))}]",
                "columns = {"
                + ", ".join(f"{literal(name or UNNAMED)}: 'VARCHAR'" for name in header)
                + "}",
            ]
        )
        names = ", ".join(map(quoted, wanted))
        engine.run(
            f"COPY (SELECT {names} FROM read_csv({literal(file)}, {options})) "  # noqa: S608 - quoted
            f"TO {literal(out[-1])} (FORMAT parquet, ROW_GROUP_SIZE {_group_rows(len(wanted))})",
            reads=file,
        )
    engine.show("read", len(files), len(files))
    return out


def csv_header(file: Path) -> tuple[list[str], str]:
    """Names of the columns of a CSV file, and what separates them."""
    opener: Any = gzip.open if file.name.lower().endswith(".gz") else open
    with opener(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
        delimiter = max(DELIMITERS, key=first.count)
        lines.seek(0)
        names = next(csv.reader(lines, delimiter=delimiter), [])
    if not any(names):
        raise InputError(f"{file} is empty: a first line with the names of the columns is wanted")
    lowered = [name.lower() for name in names]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice:
        raise InputError(f"{file} has columns {twice} that differ in case at most: rename them")
    return names, delimiter
