"""What the columns of a table hold: numbers, categories, or the keys of tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daskmlr.encoding import TIME_ADVICE
from daskmlr.errors import InputError
from daskmlr.ingestion.engine import literal, quoted
from daskmlr.ingestion.inputs import CATEGORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daskmlr.encoding import FeatureEncoding
    from daskmlr.ingestion.engine import Engine
    from daskmlr.ingestion.inputs import Inputs

# Integers as a program writes them; "007" is a name, and another one than "7".
INTEGER = r"(0|-?[1-9][0-9]*)(\.0+)?"
# A smaller share of text among numbers is no category.
FEW = 0.1
USABLE = ("number", "text", "time", "nothing")


@dataclass(frozen=True)
class Column:
    """A column that is used.

    Attributes
    ----------
    name : str
        In the input.
    alias : str
        In the engine's views: ``t`` the task, ``y`` the target, ``f0``, ``f1``, ... the features.
    kind : str
        See `Inputs`.
    declared : bool
        Whether the user, or the input, says that it is categorical.
    numeric : bool
        Whether it must hold numbers: the target, and features that are known to.
    as_text : bool
        Whether its values are text, whatever they look like.
    levels : tuple of str or int, optional
        Its categories, if they are known; then its values are text until they are encoded.
    type : str
        DOUBLE, BIGINT or VARCHAR; a feature of one of the last two is made one-hot.
    """

    name: str
    alias: str
    kind: str
    declared: bool = False
    numeric: bool = False
    as_text: bool = False
    levels: tuple[str | int, ...] | None = None
    type: str = ""

    @property
    def is_category(self) -> bool:
        """Whether it is a feature to be made one-hot."""
        return self.alias.startswith("f") and self.type != "DOUBLE"

    @property
    def is_key(self) -> bool:
        """Whether its values are names, not quantities, whatever they look like."""
        return self.declared or self.alias == "t"

    @property
    def levels_are_whole(self) -> bool:
        """Whether its categories are known, and whole numbers."""
        return self.levels is not None and all(isinstance(level, int) for level in self.levels)

    @property
    def sql(self) -> str:
        """The values in their type; a missing one is NULL."""
        if self.type == "DOUBLE":
            return f"nullif(CAST({self.alias} AS DOUBLE), 'nan'::DOUBLE)"
        if self.type == "BIGINT" and self.kind.endswith("text"):
            return f"CAST({_without_fraction(self.alias)} AS BIGINT)"
        if self.type == "BIGINT":
            return f"TRY_CAST({self.alias} AS BIGINT)"
        return f"nullif({_text(self)}, '')" if self.alias == "t" else _text(self)


def read_columns(
    engine: Engine,
    inputs: Inputs,
    *,
    task: str,
    target: str,
    features: Sequence[str],
    categorical: Sequence[str],
    known: FeatureEncoding | None = None,
    text_ids: bool = False,
) -> list[Column]:
    """Name the columns and settle their types by what they hold.

    Leaves them in the engine's view ``typed``, with ``file`` and ``row``, their place in the input.

    Parameters
    ----------
    engine : Engine
    inputs : Inputs
    task, target : str
    features : sequence of str
    categorical : sequence of str
        Of the features.
    known : FeatureEncoding, optional
        Of the features: they are numeric and categorical as it has them, not as they look.
    text_ids : bool
        Whether ids of tasks are text, whatever they look like.

    Returns
    -------
    list of Column
        Task, target, features.

    Raises
    ------
    InputError
        For text among numbers, numbers kept as text, dates, and types that are neither.
    """
    columns = [
        Column(task, "t", inputs.kinds[task], as_text=text_ids),
        Column(target, "y", inputs.kinds[target], numeric=True),
    ]
    for index, name in enumerate(features):
        column, kind = Column(name, f"f{index}", inputs.kinds[name]), inputs.kinds[name]
        if known is None:
            declared = name in categorical or kind.startswith(CATEGORY)
            columns.append(replace(column, declared=declared))
        elif name in known.categories:
            levels = known.categories[name]
            columns.append(replace(column, declared=True, as_text=True, levels=levels))
        else:
            columns.append(replace(column, kind=kind.removeprefix(CATEGORY), numeric=True))
    for column in columns:
        _refuse_kind(column)
    _create_raw(engine, inputs, columns)
    looks = [look for column in columns for look in _looks(column, inputs.untyped)]
    seen = engine.row(f"SELECT {', '.join(['1 AS one', *looks])} FROM raw", "types")  # noqa: S608 - aliases
    settle = _Settle(engine, inputs, seen)
    columns = [replace(column, type=settle(column)) for column in columns]
    typed = ", ".join(f"{column.sql} AS {column.alias}" for column in columns)
    engine.run(f"CREATE TEMP VIEW typed AS SELECT {typed}, file, row FROM raw")  # noqa: S608 - aliases
    return columns


def place(inputs: Inputs, file: int, row: int) -> str:
    """Say where a row is, counted from 1."""
    line = f" (line {row + 2})" if inputs.untyped else ""
    return f"row {row + 1:,}{line} of {inputs.names[file]}"


def _create_raw(engine: Engine, inputs: Inputs, columns: list[Column]) -> None:
    named = ", ".join(f"{quoted(column.name)} AS {column.alias}" for column in columns)
    files = ", ".join(map(literal, inputs.files))
    # without union_by_name, all files would be cast to the types of the first
    engine.run(
        f"CREATE TEMP VIEW raw AS SELECT {named}, file_index AS file, file_row_number AS row "  # noqa: S608 - quoted
        f"FROM read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    )


def _refuse_kind(column: Column) -> None:
    kind = column.kind.removeprefix(CATEGORY)
    if kind not in USABLE:
        raise InputError(
            f"column {column.name!r} holds {kind}: numbers, text or categories are wanted"
        )
    if kind == "time" and column.alias != "t":
        raise InputError(f"column {column.name!r} holds times: {TIME_ADVICE}")


def _looks(column: Column, untyped: bool) -> list[str]:
    """Return what must be counted to settle a column's type."""
    alias = column.alias
    if column.as_text:
        return []
    if column.is_key and column.kind.endswith("number"):
        return [
            f"count_if(nullif(CAST({alias} AS DOUBLE), 'nan'::DOUBLE) IS NOT NULL AND "
            f"{_is_fraction(alias)}) AS {alias}_odd"
        ]
    if column.is_key and not untyped:
        return []
    if column.is_key:
        whole = f"TRY_CAST({_without_fraction(alias)} AS BIGINT) IS NOT NULL"
        is_whole = f"regexp_full_match({alias}, {literal(INTEGER)}) AND {whole}"
        return [
            f"count_if(NOT ({is_whole})) AS {alias}_odd",
            f"count({alias}) - count(TRY_CAST({alias} AS DOUBLE)) AS {alias}_text",
            f"count_if({_is_fraction_text(alias)}) AS {alias}_fractions",
        ]
    if column.kind != "text":
        return []
    is_time = (
        f"coalesce(TRY_CAST({alias} AS TIMESTAMP)::VARCHAR, TRY_CAST({alias} AS TIME)::VARCHAR)"
    )
    return [
        f"count({alias}) AS {alias}_there",
        f"count(TRY_CAST({alias} AS DOUBLE)) AS {alias}_numbers",
        f"count({is_time}) AS {alias}_times",
    ]


class _Settle:
    """Chooses a column's type by what was counted; refuses what cannot be meant."""

    def __init__(self, engine: Engine, inputs: Inputs, seen: dict[str, Any]):
        self._engine, self._inputs, self._seen = engine, inputs, seen

    def __call__(self, column: Column) -> str:
        if column.as_text:
            return "VARCHAR"
        if column.is_key:
            return self._key(column)
        return self._value(column) if column.kind == "text" else "DOUBLE"

    def _key(self, column: Column) -> str:
        alias = column.alias
        if column.kind.endswith("number"):
            self._refuse_fractions(column, self._seen[f"{alias}_odd"], _is_fraction(alias))
            return "BIGINT"
        if not self._inputs.untyped:
            return "VARCHAR"
        if self._seen[f"{alias}_text"] == 0:  # numbers, then; "007" is one that stays text
            fractions = self._seen[f"{alias}_fractions"]
            self._refuse_fractions(column, fractions, _is_fraction_text(alias))
        return "BIGINT" if self._seen[f"{alias}_odd"] == 0 else "VARCHAR"

    def _refuse_fractions(self, column: Column, count: int, condition: str) -> None:
        if not count:
            return
        value, where = self._first(column, condition)
        what = "task ids" if column.alias == "t" else "categories"
        raise InputError(
            f"column {column.name!r} has {count:,} numbers that are not whole (or beyond 64 "
            f"bits), the first {value} in {where}: {what} are whole numbers or text"
        )

    def _value(self, column: Column) -> str:
        """Settle a text column that nobody declared: a category, or numbers in disguise."""
        there, numbers, times = (
            self._seen[f"{column.alias}_{what}"] for what in ("there", "numbers", "times")
        )
        if numbers == there and (self._inputs.untyped or there == 0):
            return "DOUBLE"
        if numbers == there:
            raise InputError(
                f"column {column.name!r} holds numbers stored as text: convert it"
                + self._or_declare(column)
            )
        if times == there:
            raise InputError(f"column {column.name!r} holds times: {TIME_ADVICE}")
        if column.numeric or 2 * numbers > there:
            value, where = self._first(column, f"TRY_CAST({column.alias} AS DOUBLE) IS NULL")
            raise InputError(
                f"column {column.name!r} holds text where numbers are wanted, in "
                f"{there - numbers:,} of {there:,} rows, the first {value!r} in {where}: "
                + _advice(str(value))
                + ("" if there - numbers < FEW * there else self._or_declare(column))
            )
        return "VARCHAR"

    def _or_declare(self, column: Column) -> str:
        return "" if column.numeric else ", or declare the column categorical"

    def _first(self, column: Column, condition: str) -> tuple[Any, str]:
        """First value that a condition holds of, and its place."""
        value, file, row = self._engine.run(
            f"SELECT {column.alias}, file, row FROM raw WHERE {column.alias} IS NOT NULL "  # noqa: S608 - aliases
            f"AND ({condition}) ORDER BY file, row LIMIT 1"
        )[0]
        return value, place(self._inputs, file, row)


def _text(column: Column) -> str:
    """Write a value as `str` does; whole numbers in one way, whatever they come as."""
    alias = column.alias
    if not column.kind.endswith("number"):
        text = f"CAST({alias} AS VARCHAR)"
        return _without_fraction(text) if column.levels_are_whole else text
    return (
        f"CASE WHEN NOT isnan(CAST({alias} AS DOUBLE)) THEN CASE WHEN {_is_fraction(alias)} "
        f"THEN CAST({alias} AS VARCHAR) ELSE CAST(TRY_CAST({alias} AS BIGINT) AS VARCHAR) END END"
    )


def _advice(text: str) -> str:
    """Say what to do with text that should be a number.

    Examples
    --------
    >>> _advice("12,5")
    'write it with a decimal point'
    """
    is_decimal = re.fullmatch(r"[+-]?\d+,\d+", text.strip())
    return "write it with a decimal point" if is_decimal else "correct or remove it"


def _is_fraction(alias: str) -> str:
    """Not NULL and false for whole numbers of 64 bits."""
    return f"coalesce(TRY_CAST({alias} AS BIGINT) <> CAST({alias} AS DOUBLE), true)"


def _is_fraction_text(alias: str) -> str:
    """Not NULL, and true for text that reads as a number which is not whole."""
    number = f"TRY_CAST({alias} AS DOUBLE)"
    return f"coalesce({number} <> trunc({number}), false)"


def _without_fraction(alias: str) -> str:
    r"""``"12.0"`` as ``"12"``: what a program writes for an integer that it holds as a float."""
    return rf"regexp_replace({alias}, '\.0+$', '')"
