"""The first scan: what is missing or infinite, which categories and how many tasks there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from daskmlr.encoding import FeatureEncoding, refuse_values, unknown_category
from daskmlr.errors import InputError
from daskmlr.ingestion.columns import place
from daskmlr.ingestion.engine import literal

if TYPE_CHECKING:
    from daskmlr.ingestion.columns import Column
    from daskmlr.ingestion.engine import Engine
    from daskmlr.ingestion.inputs import Inputs

MAX_CATEGORIES = 1000
# Of a row while it is sorted, besides its values: file, row, and the engine's own.
SORT_OVERHEAD = 32


@dataclass(frozen=True)
class Survey:
    """What the scan found.

    Attributes
    ----------
    encoding : FeatureEncoding
    rows_read, rows_kept, n_tasks : int
    largest_task : tuple
        Its id, and how many rows it has.
    missing : dict of str to int
        Missing values of each column that has some.
    row_bytes : int
        Of a row while it is sorted.
    """

    encoding: FeatureEncoding
    rows_read: int
    rows_kept: int
    n_tasks: int
    largest_task: tuple[Any, int]
    missing: dict[str, int]
    row_bytes: int


def survey(
    engine: Engine,
    inputs: Inputs,
    columns: list[Column],
    *,
    missing: Literal["error", "drop"],
    dtype: np.dtype[Any],
    known: FeatureEncoding | None = None,
) -> Survey:
    """Scan the engine's view ``typed``, and leave its complete rows in the view ``kept``.

    Raises
    ------
    InputError
        For infinite values, missing ones unless they are to be dropped, categories that are too
        many or only one or, where they are `known`, others; or no row that is complete.
    """
    complete = " AND ".join(f"{column.alias} IS NOT NULL" for column in columns)
    engine.run(f"CREATE TEMP VIEW kept AS SELECT * FROM typed WHERE {complete}")  # noqa: S608 - aliases
    counts = _count(engine, columns, complete, dtype)
    lacking = {
        column.name: counts["n"] - counts[f"{column.alias}_there"]
        for column in columns
        if counts[f"{column.alias}_there"] < counts["n"]
    }
    for column in columns:
        if counts.get(f"{column.alias}_infinite"):
            _refuse_infinite(engine, inputs, column, counts, dtype)
    if lacking and (missing == "error" or counts["kept"] == 0):
        _refuse_missing(engine, inputs, columns, lacking, counts, missing)
    for column in columns:
        if counts.get(f"{column.alias}_unknown"):
            _refuse_unknown(engine, inputs, column, counts)
    encoding = _encoding(engine, columns, counts) if known is None else known
    tasks = engine.row(
        "SELECT count(*) AS n, max(size) AS size, arg_max(t, size) AS id "
        "FROM (SELECT t, count(*) AS size FROM kept GROUP BY t)",
        "tasks",
    )
    return Survey(
        encoding,
        rows_read=counts["n"],
        rows_kept=counts["kept"],
        n_tasks=tasks["n"],
        largest_task=(tasks["id"], tasks["size"]),
        missing=lacking,
        row_bytes=SORT_OVERHEAD + sum(_width(column, counts, dtype) for column in columns),
    )


def _count(
    engine: Engine, columns: list[Column], complete: str, dtype: np.dtype[Any]
) -> dict[str, Any]:
    terms = ["count(*) AS n", f"count_if({complete}) AS kept"]
    for column in columns:
        alias = column.alias
        terms.append(f"count({alias}) AS {alias}_there")
        if column.type == "DOUBLE":
            terms.append(f"count_if({_is_infinite(alias, dtype)}) AS {alias}_infinite")
        if column.type == "VARCHAR":
            terms.append(f"avg(strlen({alias})) AS {alias}_length")
        if column.levels is not None:
            terms.append(f"count_if({complete} AND {_is_unknown(column)}) AS {alias}_unknown")
        elif column.is_category:
            terms.append(f"approx_count_distinct({alias}) AS {alias}_levels")
    return engine.row(f"SELECT {', '.join(terms)} FROM typed", "values")  # noqa: S608 - aliases


def _is_infinite(alias: str, dtype: np.dtype[Any]) -> str:
    """Infinite, or beyond the range of the output's type."""
    if dtype == np.float64:
        return f"isinf({alias})"
    return f"abs({alias}) > {float(np.finfo(dtype).max)!r}"


def _width(column: Column, counts: dict[str, Any], dtype: np.dtype[Any]) -> int:
    """Bytes of a value while it is sorted; the key of a sort holds its text a second time."""
    if column.type == "VARCHAR":
        length = 16 + int(counts[f"{column.alias}_length"] or 0)
        return 2 * length if column.alias == "t" else length
    if column.type == "BIGINT":
        return 16 if column.alias == "t" else 8
    return dtype.itemsize


def _refuse_infinite(
    engine: Engine, inputs: Inputs, column: Column, counts: dict[str, Any], dtype: np.dtype[Any]
) -> None:
    value, task, file, row = engine.run(
        f"SELECT {column.alias}, t, file, row FROM typed "  # noqa: S608 - aliases
        f"WHERE {_is_infinite(column.alias, dtype)} ORDER BY file, row LIMIT 1"
    )[0]
    raise InputError(
        f"column {column.name!r} has {counts[f'{column.alias}_infinite']:,} values that are "
        f"infinite in {dtype}, the first {value} of task {task!r} in {place(inputs, file, row)}: "
        "drop or replace them"
    )


def _refuse_missing(
    engine: Engine,
    inputs: Inputs,
    columns: list[Column],
    lacking: dict[str, int],
    counts: dict[str, Any],
    missing: Literal["error", "drop"],
) -> None:
    listed = ", ".join(f"{name!r} {count:,}" for name, count in lacking.items())
    absent = [f"{column.alias} IS NULL" for column in columns]
    file, row, *gone = engine.run(
        f"SELECT file, row, {', '.join(absent)} FROM typed WHERE {' OR '.join(absent)} "  # noqa: S608 - aliases
        "ORDER BY file, row LIMIT 1"
    )[0]
    first = next(column.name for column, is_gone in zip(columns, gone, strict=True) if is_gone)
    said = (
        f"values are missing in {counts['n'] - counts['kept']:,} of {counts['n']:,} rows "
        f"({listed}), the first of {first!r} in {place(inputs, file, row)}"
    )
    if counts["kept"] == 0 and missing == "drop":
        raise InputError(f"no row is complete: {said}")
    leave = any(column.name in lacking and column.alias.startswith("f") for column in columns)
    raise InputError(
        f"{said}: fill them, {'leave the column out of the features, ' if leave else ''}or drop "
        "these rows with missing='drop' (on the command line: --missing drop)"
    )


def _is_unknown(column: Column) -> str:
    """Tell a value that is none of the known categories."""
    return f"{column.alias} NOT IN ({', '.join(map(literal, column.levels or ()))})"


def _refuse_unknown(
    engine: Engine, inputs: Inputs, column: Column, counts: dict[str, Any]
) -> NoReturn:
    value, file, row = engine.run(
        f"SELECT {column.alias}, file, row FROM kept WHERE {_is_unknown(column)} "  # noqa: S608 - aliases, literals
        "ORDER BY file, row LIMIT 1"
    )[0]
    refuse_values(
        column.name,
        counts[f"{column.alias}_unknown"],
        unknown_category(column.levels or ()),
        value,
        place(inputs, file, row),
    )


def _encoding(engine: Engine, columns: list[Column], counts: dict[str, Any]) -> FeatureEncoding:
    """Make the encoding that the values suggest."""
    features = [column for column in columns if column.alias.startswith("f")]
    return FeatureEncoding(
        tuple(column.name for column in features),
        {
            column.name: _categories(engine, column, counts)
            for column in features
            if column.is_category
        },
    )


def _categories(engine: Engine, column: Column, counts: dict[str, Any]) -> tuple[str | int, ...]:
    about = counts[f"{column.alias}_levels"]
    if about <= 2 * MAX_CATEGORIES:  # the count is approximate; beyond this it is certain enough
        found = engine.run(f"SELECT DISTINCT {column.alias} FROM kept LIMIT {MAX_CATEGORIES + 1}")  # noqa: S608 - aliases
        if len(found) <= MAX_CATEGORIES:
            return tuple(sorted(value for (value,) in found))
    raise InputError(
        f"column {column.name!r} has more than {MAX_CATEGORIES:,} categories (about {about:,}): "
        "each would be a feature. Leave it out of the features, or group its values first"
    )
