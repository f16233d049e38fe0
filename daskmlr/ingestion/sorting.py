"""The rows of a table, sorted out of core, into a writer task after task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.ingestion.columns import Column
    from daskmlr.ingestion.engine import Engine
    from daskmlr.ingestion.survey import Survey
    from daskmlr.storage.writing import TaskWriter

# Rows come from the sort in batches of about so many bytes of features.
BATCH_BYTES = 4 << 20


class _Rows(NamedTuple):
    """Consecutive tasks; the last one may go on in the next rows."""

    X: NDArray[np.float64]
    y: NDArray[np.floating]
    sizes: NDArray[np.int64]
    ids: NDArray[Any]


def write_sorted(
    engine: Engine, columns: list[Column], seen: Survey, writer: TaskWriter, dtype: np.dtype[Any]
) -> None:
    """Sort the view ``kept``, and write the rows as they come.

    Raises
    ------
    InputError
        If the input changed since the survey, and what `TaskWriter.write` refuses.
    NoSpaceError, PlanError
    """
    done = 0
    for rows in _whole_tasks(_sorted(engine, columns, seen, dtype)):
        writer.write(rows.X, rows.y, rows.sizes, rows.ids)
        done += len(rows.y)
        engine.show("write", done, seen.rows_kept)
    if done != seen.rows_kept:
        raise InputError(
            f"the input changed while it was read: {seen.rows_kept:,} rows at first, then {done:,}"
        )


def _sorted(
    engine: Engine, columns: list[Column], seen: Survey, dtype: np.dtype[Any]
) -> Iterator[_Rows]:
    """Give all rows by task, and within a task in the order of the input."""
    float_type = "FLOAT" if dtype == np.float32 else "DOUBLE"
    terms = ", ".join(
        f"CAST({column.alias} AS {float_type}) AS {column.alias}"
        if column.type == "DOUBLE"
        else f"CAST({column.alias} AS BIGINT) AS {column.alias}"
        if column.levels_are_whole
        else column.alias
        for column in columns
    )
    names = [column.name for column in columns[2:]]
    n_rows = max(BATCH_BYTES // (8 * len(seen.encoding.feature_names)), 1024)
    for batch in engine.stream(
        f"SELECT {terms} FROM kept ORDER BY t, file, row",  # noqa: S608 - aliases
        n_rows,
        "sort",
    ):
        runs = pc.run_end_encode(batch.column("t"))
        frame = batch.select([column.alias for column in columns[2:]]).rename_columns(names)
        yield _Rows(
            seen.encoding.encode(frame.to_pandas()),
            batch.column("y").to_numpy(),
            np.diff(runs.run_ends.to_numpy(), prepend=0).astype(np.int64),
            runs.values.to_numpy(zero_copy_only=False),
        )


def _whole_tasks(parts: Iterator[_Rows]) -> Iterator[_Rows]:
    """Move the beginning of each part's last task to the next part."""
    carried: _Rows | None = None
    for part in parts:
        rows = part if carried is None else _joined(carried, part)
        if len(rows.ids) > 1:
            cut = len(rows.y) - int(rows.sizes[-1])
            yield _Rows(rows.X[:cut], rows.y[:cut], rows.sizes[:-1], rows.ids[:-1])
            rows = _Rows(rows.X[cut:], rows.y[cut:], rows.sizes[-1:], rows.ids[-1:])
        carried = rows
    if carried is not None:
        yield carried


def _joined(one: _Rows, other: _Rows) -> _Rows:
    """Join a task with the rows that follow, which may go on with it."""
    X, y = np.concatenate([one.X, other.X]), np.concatenate([one.y, other.y])
    if one.ids[0] != other.ids[0]:
        sizes, ids = np.append(one.sizes, other.sizes), np.append(one.ids, other.ids)
        return _Rows(X, y, sizes, ids)
    sizes = other.sizes.copy()
    sizes[0] += one.sizes[0]
    return _Rows(X, y, sizes, other.ids)
