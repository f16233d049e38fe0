"""Ingest of tables: Parquet, CSV, pandas and Dask data frames."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from daskmlr.encoding import check_columns, columns_wanted
from daskmlr.errors import InputError
from daskmlr.ingestion.columns import read_columns
from daskmlr.ingestion.engine import Engine, check_space, engine_memory
from daskmlr.ingestion.inputs import open_inputs
from daskmlr.ingestion.sorting import BATCH_BYTES, write_sorted
from daskmlr.ingestion.survey import survey
from daskmlr.ingestion.wanted import wanted_columns
from daskmlr.progress import shown
from daskmlr.storage import layout
from daskmlr.storage.location import Folder, locate
from daskmlr.storage.publish import refuse_existing
from daskmlr.storage.returning import ReturningTasks
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import append_tasks, create_tasks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from daskmlr.ingestion.columns import Column
    from daskmlr.ingestion.survey import Survey
    from daskmlr.ingestion.wanted import Like, Wanted
    from daskmlr.progress import Show
    from daskmlr.storage.place import Location
    from daskmlr.storage.tasks import TaskStore

# Python with the libraries that are loaded.
PROCESS_BYTES = 220 << 20
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
    if block_bytes is not None and block_bytes < 1:
        raise InputError(f"block_bytes must be at least 1, got {block_bytes}")
    largest = layout.BLOCK_BYTES if block_bytes is None else block_bytes
    itemtype = np.dtype(wanted.dtype)
    with _engine(target_path, largest, memory_limit, temporary_directory, progress) as engine:
        columns, seen = _looked_through(engine, inputs, wanted, missing)
        _check_fits(seen, target_path, itemtype, largest, engine, "set block_bytes to")
        with create_tasks(
            out,
            feature_names=seen.encoding.feature_names,
            target_name=wanted.target,
            task_name=wanted.task,
            dtype=wanted.dtype,
            block_bytes=block_bytes,
            encoding=seen.encoding.to_dict(),
            provenance=_provenance(seen, "ingest"),
        ) as writer:
            write_sorted(engine, columns, seen, writer, itemtype)
    return open_tasks(out)


def append_tables(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame | Any,
    store: str | os.PathLike[str],
    *,
    task: str | None = None,
    target: str | None = None,
    missing: Literal["error", "drop"] = "error",
    memory_limit: str | int | None = None,
    temporary_directory: str | os.PathLike[str] | None = None,
    progress: bool | Show = False,
) -> TaskStore:
    """Append the tasks of a long table to a task store; all of them, or none.

    The table is read as by `ingest` with the store as `like`; its tasks must be new.

    Parameters
    ----------
    inputs
        As for `ingest`.
    store : path or URL
    task, target : str, optional
        As for `ingest`; by default as in the store.
    missing, memory_limit, temporary_directory, progress
        As for `ingest`.

    Returns
    -------
    TaskStore
        With the tasks appended.

    Raises
    ------
    InputError
        If the table cannot be used; if the store has some of its tasks already, with their number
        and the first of them.
    FeatureMismatchError
        If the table lacks a column.
    StoreError
        If there is no complete task store at `store`, or another process is appending to it.
    NoSpaceError, PlanError
        As `ingest`.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> visits = pd.DataFrame({"who": ["ann", "bob"], "dose": [1, 2], "effect": [0.5, 0.9]})
    >>> more = pd.DataFrame({"who": ["cid", "cid"], "dose": [1, 3], "effect": [0.4, 1.4]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = ingest(visits, f"{folder}/tasks", task="who", target="effect")
    ...     append_tables(more, f"{folder}/tasks").task_ids().tolist()
    ['ann', 'bob', 'cid']
    """
    tasks = open_tasks(store)
    wanted = wanted_columns(tasks, task=task, target=target)
    largest = tasks.block_rows * (tasks.n_features + 1) * tasks.itemsize
    place = locate(store)
    with _engine(place, largest, memory_limit, temporary_directory, progress) as engine:
        columns, seen = _looked_through(engine, inputs, wanted, missing)
        remedy = "write the store again with block_bytes of"
        _check_fits(seen, place, tasks.dtype, largest, engine, remedy)
        _refuse_returning(engine, columns[0], tasks)
        with append_tasks(store, provenance=_provenance(seen, "append")) as writer:
            write_sorted(engine, columns, seen, writer, tasks.dtype)
    return open_tasks(store)


def _refuse_returning(engine: Engine, column: Column, tasks: TaskStore) -> None:
    """Refuse tasks that the store has, before anything is sorted."""
    if column.type == "VARCHAR" and not column.as_text:
        raise InputError(
            f"column {column.name!r} holds text, the task ids in {tasks.path} are whole numbers: "
            "give such ids, or write a new store of all rows"
        )
    returning = ReturningTasks(tasks)
    query = "SELECT t FROM kept GROUP BY t ORDER BY t"
    for batch in engine.stream(query, BATCH_BYTES // 64, "tasks"):
        returning.look_up(batch.column("t").to_numpy(zero_copy_only=False))
    returning.refuse()


@contextmanager
def _engine(
    out: Location,
    block_bytes: int,
    memory_limit: str | int | None,
    temporary_directory: str | os.PathLike[str] | None,
    progress: bool | Show,
) -> Iterator[Engine]:
    """Start the engine with the memory that blocks of that size leave it."""
    reserved = PROCESS_BYTES + BLOCKS_IN_MEMORY * block_bytes + BATCHES_IN_MEMORY * BATCH_BYTES
    memory = engine_memory(memory_limit, reserved)
    folder = _scratch_folder(out, temporary_directory)
    if not folder.is_dir():
        raise InputError(f"temporary_directory {folder} is not a folder: create it")
    with shown(progress) as show, Engine(folder, out.name, memory, show) as engine:
        yield engine


def _looked_through(
    engine: Engine, inputs: Any, wanted: Wanted, missing: Literal["error", "drop"]
) -> tuple[list[Column], Survey]:
    """Open the inputs, settle the types of the columns, and scan the rows."""
    if missing not in ("error", "drop"):
        raise InputError(f"missing must be 'error' or 'drop', got {missing!r}")
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
        text_ids=wanted.text_ids,
    )
    dtype = np.dtype(wanted.dtype)
    seen = survey(engine, found, columns, missing=missing, dtype=dtype, known=wanted.known)
    return columns, seen


def _check_fits(
    seen: Survey,
    out: Location,
    dtype: np.dtype[Any],
    block_bytes: int,
    engine: Engine,
    remedy: str,
) -> None:
    """Refuse a task larger than a block, and disks with too little room."""
    row_bytes = (len(seen.encoding.feature_names) + 1) * dtype.itemsize
    task, size = seen.largest_task
    if size * row_bytes > block_bytes:
        raise InputError(
            f"task {task!r} has {size:,} examples, a block has room for "
            f"{block_bytes // row_bytes:,}: {remedy} at least {size * row_bytes:,}, or "
            "check that the task column is the right one"
        )
    sort_bytes = seen.rows_kept * seen.row_bytes
    needs = []
    if isinstance(out, Folder):
        needs.append((out.path.parent, seen.rows_kept * row_bytes, "the store"))
    if 2 * sort_bytes > engine.memory:
        what = f"sorting {seen.rows_kept:,} rows of {seen.row_bytes} bytes"
        needs.append((engine.folder, sort_bytes, what))
    check_space(needs)


def _scratch_folder(out: Location, given: str | os.PathLike[str] | None) -> Path:
    """Where to sort: beside the store, or where the system keeps temporary files."""
    if given is not None:
        return Path(given)
    return out.path.parent if isinstance(out, Folder) else Path(tempfile.gettempdir())


def _provenance(seen: Survey, command: str) -> dict[str, Any]:
    """Say what became of the rows, not where they came from: equal rows give equal stores."""
    return {
        "command": command,
        "rows_read": seen.rows_read,
        "rows_dropped": seen.rows_read - seen.rows_kept,
        "missing": seen.missing,
    }
