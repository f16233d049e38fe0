"""Predictions for the rows of a table, from the support examples in another."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from daskmlr.arguments import check_common_tasks
from daskmlr.encoding import FeatureEncoding, check_columns, columns_wanted, numeric_values
from daskmlr.errors import InputError
from daskmlr.ingestion.columns import INTEGER
from daskmlr.ingestion.inputs import MISSING, csv_header, file_format, match_files
from daskmlr.storage.files import publishing_file
from daskmlr.storage.publish import refuse_existing
from daskmlr.uncertainty import check_level

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.model import Model

ADDED = ("prediction", "std", "low", "high", "label", "probability")


@dataclass(frozen=True)
class Predicted:
    """What was predicted: rows and tasks, and how many of the tasks had support.

    Attributes
    ----------
    rows, tasks, tasks_with_support : int
    rows_left_out, examples_left_out : int
        Rows of the query, and of the support, that miss a value.
    """

    rows: int
    tasks: int
    tasks_with_support: int
    rows_left_out: int = 0
    examples_left_out: int = 0


def predict_tables(
    model: Model,
    support: str | os.PathLike[str],
    query: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: Literal["bayes", "map"] = "bayes",
    missing: Literal["error", "drop"] = "error",
    level: float = 0.95,
) -> Predicted:
    """Predict the rows of one table from the examples of the same tasks in another.

    Both tables are held in memory. A task of the query without support is predicted from the
    weights of the components.

    Parameters
    ----------
    model : Model
        Its encoding says how columns become features; without one, columns named like the
        features are wanted.
    support : path
        CSV or Parquet: the model's task column, the columns of its features, and its target.
    query : path
        CSV or Parquet: the same without the target; other columns are kept as they are.
    out : path or URL
        A new ``.csv`` or ``.parquet`` file: the rows of the query in their order, with the columns
        ``prediction``, its standard deviation ``std``, and the bounds ``low`` and ``high``, all in
        target units; ``label``, the likeliest component of the row's task, and its
        ``probability``, given the task's support.
    method : {"bayes", "map"}
        Of ``prediction`` and ``std``: see `Model.predict`.
    missing : {"error", "drop"}
        What to do with rows that miss a feature or a target: refuse them; or leave them out, so
        that rows of the query get no prediction.
    level : float
        Probability that a target lies between its bounds: see `Model.predict_interval`.

    Returns
    -------
    Predicted

    Raises
    ------
    FeatureMismatchError
        If a table lacks a column.
    InputError
        For values that cannot be encoded, naming table, column and row; if no task of the query
        has support; for another method, or a level that is not between 0 and 1.
    PathExistsError
        If `out` exists, before anything is read.
    NoSpaceError
    """
    check_level(level)
    refuse_existing(out)
    if Path(out).suffix not in (".csv", ".parquet"):
        raise InputError(f"predictions go to a .csv or .parquet file, got {out}")
    examples, rows = _Table(support, model), _Table(query, model)
    taken = [name for name in ADDED if name in rows.frame.columns]
    if taken:
        raise InputError(f"{query} has columns named {taken}, which are to be added: rename them")
    every = rows.frame
    if missing == "drop":
        examples.drop_missing(model.target_name)
        rows.drop_missing()
    target = examples.numbers(model.target_name)
    ids = examples.tasks(), rows.tasks()
    known, wanted = _same_kind(*ids)
    tasks = pd.Index(wanted).unique()
    n_supported = int(tasks.isin(known).sum())
    if not n_supported:
        check_common_tasks(*ids, str(support), str(query))
    support_rows = (examples.features(), target, known)
    found = model.predictive(rows.features(), support=support_rows, groups=wanted)
    told = found.likeliest() if method == "map" else found
    label = pd.array(found.label, dtype="Int64")  # keeps whole numbers where rows are left out
    columns = (told.mean, told.std, *found.interval(level), label, found.probability)
    added = pd.DataFrame(dict(zip(ADDED, columns, strict=True)), index=rows.frame.index)
    result = every.join(added)
    with publishing_file(out) as staging:
        if staging.suffix == ".csv":
            result.to_csv(staging, index=False)
        else:
            pq.write_table(pa.Table.from_pandas(result, preserve_index=False), staging)
    return Predicted(len(rows.frame), len(tasks), n_supported, rows.n_dropped, examples.n_dropped)


class _Table:
    """A table in memory, read with the types that a model's encoding wants.

    Rows are counted from 1, the first after the header.
    """

    def __init__(self, path: str | os.PathLike[str], model: Model):
        self._path, self._model = path, model
        self._encoding = FeatureEncoding.of(model)
        files = match_files(path)
        self._untyped = file_format(files[0]) == "csv"
        self.frame = pd.concat([_read(file) for file in files], ignore_index=True)
        if self.frame.empty:
            raise InputError(f"{path} is empty: it has no rows")
        self.frame.index += 1
        self.n_dropped = 0

    def drop_missing(self, *others: str) -> None:
        """Leave out the rows that miss a feature, or a value of other columns."""
        names = [*self._encoding.columns, *others]
        self._check(names)
        complete = self.frame[names].notna().all(axis=1)
        self.n_dropped = int((~complete).sum())
        if not complete.any():
            raise InputError(f"{self._path}: every row misses one of {', '.join(names)}")
        self.frame = self.frame[complete]

    def features(self) -> NDArray[np.float64]:
        """Encode the rows, shape (n, d)."""
        encoding = self._encoding
        self._check(encoding.columns)
        typed = pd.DataFrame(
            {
                name: self._typed(name, numeric=name not in encoding.categories)
                for name in encoding.columns
            }
        )
        with self._named():
            return encoding.encode(typed)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Values of a numeric column, shape (n,)."""
        self._check([name])
        with self._named():
            return numeric_values(self._typed(name, numeric=True))

    def tasks(self) -> NDArray[Any]:
        """Task of each row, shape (n,): int64, or str objects."""
        name = self._model.task_name
        self._check([name])
        series = self.frame[name]
        missing = series.isna()
        if missing.any():
            raise InputError(
                f"{self._path}: column {name!r} has {missing.sum():,} missing values, the first in "
                f"row {missing.idxmax()}: each row needs its task"
            )
        if pd.api.types.is_integer_dtype(series.dtype):
            return series.to_numpy(dtype=np.int64)
        if pd.api.types.is_float_dtype(series.dtype):
            return _whole(series, self._path)
        texts = series.astype(str).to_numpy(dtype=object)
        if self._untyped and pd.Series(texts).str.fullmatch(INTEGER).all():
            return np.array([int(text.split(".")[0]) for text in texts])
        return texts

    def _typed(self, name: str, *, numeric: bool) -> pd.Series[Any]:
        """Give a column of a CSV file, all text, the type that is wanted; other text stays."""
        series = self.frame[name]
        if not self._untyped:
            return series
        if numeric:
            values = pd.to_numeric(series, errors="coerce").astype(object)
            return values.where(values.notna() | series.isna(), series).infer_objects()
        if any(isinstance(value, str) for value in self._encoding.categories[name]):
            return series
        whole = series.str.fullmatch(INTEGER, na=False)
        return series.astype(object).mask(whole, series[whole].map(lambda v: int(v.split(".")[0])))

    def _check(self, names: tuple[str, ...] | list[str]) -> None:
        with columns_wanted("the model was fitted with that column"):
            check_columns(names, self.frame.columns, str(self._path))

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._path}: {error}") from None


def _read(file: Path) -> pd.DataFrame:
    """Read a file; the columns of CSV as text, those of Parquet in types that keep every value."""
    try:
        if file_format(file) == "parquet":
            table = pq.read_table(file)
            frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
            return frame
        _, delimiter = csv_header(file)
        return pd.read_csv(
            file,
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            na_values=list(MISSING),
            encoding="utf-8-sig",
        )
    except (pa.ArrowException, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def _whole(series: pd.Series[Any], where: object) -> NDArray[np.int64]:
    values = series.to_numpy(dtype=np.float64)
    odd = ~(np.abs(values) < 2**53) | (values != np.floor(values))
    if odd.any():
        row = int(np.argmax(odd))
        raise InputError(
            f"{where}: task {float(values[row])} in row {series.index[row]} is not a whole number: "
            "task ids are integers or text"
        )
    return values.astype(np.int64)


def _same_kind(known: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make both text if one of them is."""
    if known.dtype == wanted.dtype:
        return known, wanted
    return known.astype(str).astype(object), wanted.astype(str).astype(object)
