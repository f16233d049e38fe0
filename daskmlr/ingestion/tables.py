"""Ingest of tables: Parquet, CSV, pandas and Dask data frames."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc

from daskmlr.encoding import check_columns, columns_wanted
from daskmlr.errors import InputError
from daskmlr.ingestion.columns import read_columns
from daskmlr.ingestion.engine import Engine, check_space, engine_memory
from daskmlr.ingestion.inputs import open_inputs
from daskmlr.ingestion.survey import survey
from daskmlr.ingestion.wanted import wanted_columns
from daskmlr.progress import shown
from daskmlr.storage import layout
from daskmlr.storage.location import Folder
from daskmlr.storage.publish import refuse_existing
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import create_tasks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from daskmlr.ingestion.columns import Column
    from daskmlr.ingestion.survey import Survey
    from daskmlr.ingestion.wanted import Like, Wanted
    from daskmlr.progress import Show
    from daskmlr.storage.place import Location
    from daskmlr.storage.tasks import TaskStore
    from daskmlr.storage.writing import TaskWriter

# Python with the libraries that are loaded.
PROCESS_BYTES = 220 << 20
# Rows come from the sort in batches of about so many bytes of features.
BATCH_BYTES = 4 << 20
# A block that waits, the one it is cut from, the one that is written, and its encoded form, ...
BLOCKS_IN_MEMORY = 4
# ... and a batch as it came, as columns, and as features.
BATCHES_IN_MEMORY = 6


def ingest(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame | Any,
    out: str | os.PathLike[str],
    *,
    task: str | None = None,
    target: str | None = None,
    features: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    like: Like | None = None,
    missing: Literal["error", "drop"] = "error",
    dtype: Literal["float32", "float64"] | None = None,
    block_bytes: int | None = None,
    memory_limit: str | int | None = None,
    temporary_directory: str | os.PathLike[str] | None = None,
    progress: bool | Show = False,
) -> TaskStore:
    """Write a long table, one row per example, as a new task store.

    The rows of a task may lie anywhere in an input that is larger than memory: they are sorted on
    disk. The store depends on the rows alone: tasks come in the order of their ids, and the rows
    of a task in the order of the input, so that a sorted and an unsorted table give the same store.

    Parameters
    ----------
    inputs : path, sequence of paths, pandas DataFrame or dask DataFrame
        Parquet or CSV: files, folders (searched through) and globs, in the order given and by
        name within each. CSV has a first line of names.
    out : path or URL
        Of the new store.
    task : str
        Column that names the task of a row. Whole numbers give int64 ids, anything else strings.
        May be left out with `like`, and so may `target`.
    target : str
        Column to predict.
    features : sequence of str, optional
        By default all other columns.
    categorical : sequence of str, optional
        Features to take as categories although they are numbers. Text always is; see
        `FeatureEncoding` for what becomes of them.
    like : path, TaskStore or Model, optional
        A store or a model whose columns the table has: features, categories with their levels,
        dtype, and unless given task and target are taken as they are there, so that the model can
        use the store. A column may then hold one category only, and none that is not there.
        Excludes `features` and `categorical`.
    missing : {"error", "drop"}
        What to do about rows with a missing value. The provenance of the store counts those
        dropped.
    dtype : {"float32", "float64"}
        Of the store; by default float64, or that of the store `like`.
    block_bytes : int, optional
        Size of a block of the store; a task may not be larger.
    memory_limit : str or int, optional
        Memory that the process may use, such as ``"1GB"``, a data frame that is given not counted.
        By default half of the machine's, or of what its cgroup allows.
    temporary_directory : path, optional
        Where to sort; by default beside `out`, or for a URL where the system keeps temporary
        files. Of Dask data frames it must be shared by the
        workers.
    progress : bool or callable
        True shows bars in a terminal or a notebook; a callable is called with a
        `daskmlr.progress.Progress`.

    Returns
    -------
    TaskStore

    Raises
    ------
    InputError
        If the table cannot be used: what is wrong, where, and what to do; or if parameters
        contradict each other, or `like`.
    FeatureMismatchError
        If the table lacks a column that `like` has.
    StoreError
        If there is neither store nor model at `like`.
    PathExistsError
        If `out` exists.
    NoSpaceError
        If the disk has too little room, known before the sort begins.
    PlanError
        If `memory_limit` is too low.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> flights = pd.DataFrame(
    ...     {
    ...         "tail": ["N2", "N1", "N2"],
    ...         "carrier": ["UA", "AA", "UA"],
    ...         "distance": [500, 700, 900],
    ...         "delay": [1.0, -2.0, 5.0],
    ...     }
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = ingest(flights, f"{folder}/tasks", task="tail", target="delay")
    ...     tasks.feature_names, tasks.task_ids().tolist(), tasks.read_block(0).X.tolist()
    ...     one_carrier = flights[flights["carrier"] == "UA"]  # next month, say
    ...     more = ingest(one_carrier, f"{folder}/more", like=tasks)
    ...     more.feature_names, more.read_block(0).X.tolist()
    (('carrier=UA', 'distance'), ['N1', 'N2'], [[0.0, 700.0], [1.0, 500.0], [1.0, 900.0]])
    (('carrier=UA', 'distance'), [[1.0, 500.0], [1.0, 900.0]])
    """
    target_path = refuse_existing(out)
    wanted = wanted_columns(
        like, task=task, target=target, features=features, categorical=categorical, dtype=dtype
    )
    _check_parameters(missing, block_bytes)
    largest_block = layout.BLOCK_BYTES if block_bytes is None else block_bytes
    reserved = PROCESS_BYTES + BLOCKS_IN_MEMORY * largest_block + BATCHES_IN_MEMORY * BATCH_BYTES
    memory = engine_memory(memory_limit, reserved)
    folder = _scratch_folder(target_path, temporary_directory)
    if not folder.is_dir():
        raise InputError(f"temporary_directory {folder} is not a folder: create it")
    with shown(progress) as show, Engine(folder, target_path.name, memory, show) as engine:
        columns, seen = _looked_through(engine, inputs, wanted, missing)
        _check_fits(seen, target_path, folder, np.dtype(wanted.dtype), largest_block, memory)
        with create_tasks(
            out,
            feature_names=seen.encoding.feature_names,
            target_name=wanted.target,
            task_name=wanted.task,
            dtype=wanted.dtype,
            block_bytes=block_bytes,
            encoding=seen.encoding.to_dict(),
            provenance=_provenance(seen),
        ) as writer:
            _write(engine, columns, seen, writer, np.dtype(wanted.dtype))
    return open_tasks(out)


def _looked_through(
    engine: Engine, inputs: Any, wanted: Wanted, missing: Literal["error", "drop"]
) -> tuple[list[Column], Survey]:
    """Open the inputs, settle the types of the columns, and scan the rows."""
    needed = (wanted.task, wanted.target)
    with columns_wanted(f"wanted as in {wanted.whose}") if wanted.known else nullcontext():
        found = open_inputs(inputs, needed, wanted.features, engine)
    engine.set_threads(found.reading_bytes)
    names = [name for name in found.kinds if name not in needed]
    check_columns(wanted.categorical, names, "the features")
    if not names:
        raise InputError(f"no feature is left besides {' and '.join(map(repr, needed))}: name some")
    columns = read_columns(
        engine,
        found,
        task=wanted.task,
        target=wanted.target,
        features=names,
        categorical=wanted.categorical,
        known=wanted.known,
    )
    dtype = np.dtype(wanted.dtype)
    seen = survey(engine, found, columns, missing=missing, dtype=dtype, known=wanted.known)
    return columns, seen


def _check_parameters(missing: str, block_bytes: int | None) -> None:
    if missing not in ("error", "drop"):
        raise InputError(f"missing must be 'error' or 'drop', got {missing!r}")
    if block_bytes is not None and block_bytes < 1:
        raise InputError(f"block_bytes must be at least 1, got {block_bytes}")


def _check_fits(
    seen: Survey, out: Location, folder: Path, dtype: np.dtype[Any], block_bytes: int, memory: int
) -> None:
    """Refuse a task larger than a block, and disks with too little room."""
    row_bytes = (len(seen.encoding.feature_names) + 1) * dtype.itemsize
    task, size = seen.largest_task
    if size * row_bytes > block_bytes:
        raise InputError(
            f"task {task!r} has {size:,} examples, a block has room for "
            f"{block_bytes // row_bytes:,}: set block_bytes to at least {size * row_bytes:,}, or "
            "check that the task column is the right one"
        )
    sort_bytes = seen.rows_kept * seen.row_bytes
    needs = []
    if isinstance(out, Folder):
        needs.append((out.path.parent, seen.rows_kept * row_bytes, "the store"))
    if 2 * sort_bytes > memory:
        what = f"sorting {seen.rows_kept:,} rows of {seen.row_bytes} bytes"
        needs.append((folder, sort_bytes, what))
    check_space(needs)


def _scratch_folder(out: Location, given: str | os.PathLike[str] | None) -> Path:
    """Where to sort: beside the store, or where the system keeps temporary files."""
    if given is not None:
        return Path(given)
    return out.path.parent if isinstance(out, Folder) else Path(tempfile.gettempdir())


class _Rows(NamedTuple):
    """Consecutive tasks; the last one may go on in the next rows."""

    X: NDArray[np.float64]
    y: NDArray[np.floating]
    sizes: NDArray[np.int64]
    ids: NDArray[Any]


def _write(
    engine: Engine, columns: list[Column], seen: Survey, writer: TaskWriter, dtype: np.dtype[Any]
) -> None:
    """Sort, and write the rows as they come."""
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


def _provenance(seen: Survey) -> dict[str, Any]:
    """Say what became of the rows, not where they came from: equal rows give equal stores."""
    return {
        "command": "ingest",
        "rows_read": seen.rows_read,
        "rows_dropped": seen.rows_read - seen.rows_kept,
        "missing": seen.missing,
    }
