"""How the columns of a table become features: numeric as they are, categorical one-hot."""

from __future__ import annotations

import decimal
import difflib
import numbers
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import pandas as pd

from daskmlr.errors import FeatureMismatchError, InputError, MissingColumnError
from daskmlr.storage.checking import difference

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


class Encoded(Protocol):
    """A store or a model."""

    @property
    def encoding(self) -> dict[str, Any] | None:
        """See `FeatureEncoding.to_dict`."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the d features."""


@dataclass(frozen=True)
class FeatureEncoding:
    """The columns of a table that make the features, and how.

    A numeric column is one feature. A categorical column with categories ``c_0, c_1, ...`` makes
    the features ``column=c_1``, ``column=c_2``, ..., each 1 in the rows of its category and 0
    elsewhere. The first category is the reference level: it has no feature, so that the others
    are not collinear with the intercept.

    Attributes
    ----------
    columns : tuple of str
        In the order of the features.
    categories : mapping of str to tuple of str or int
        Categories of each categorical column, the reference level first. A column that is not
        listed is numeric.

    Raises
    ------
    InputError
        If a column is given twice, or a categorical column has fewer than two categories, a
        repeated one, or is not among the columns.

    Examples
    --------
    >>> import pandas as pd
    >>> encoding = FeatureEncoding(("hour", "carrier"), {"carrier": ("AA", "B6", "UA")})
    >>> encoding.feature_names
    ('hour', 'carrier=B6', 'carrier=UA')
    >>> encoding.encode(pd.DataFrame({"carrier": ["UA", "AA"], "hour": [5, 6]}))
    array([[5., 0., 1.],
           [6., 0., 0.]])
    """

    columns: tuple[str, ...]
    categories: Mapping[str, tuple[str | int, ...]]

    def __post_init__(self) -> None:
        repeated = {name for name in self.columns if self.columns.count(name) > 1}
        if repeated:
            raise InputError(f"features are given twice: {sorted(repeated)}")
        check_columns(self.categories, self.columns, "the features")
        for name, values in self.categories.items():
            if len(values) < 2:
                raise InputError(
                    f"column {name!r} has one category only ({values[0]!r}): it says no more than "
                    "the intercept does; leave it out of the features, or take its categories "
                    "from an earlier store or model (like=..., on the command line --like)"
                    if values
                    else f"column {name!r} has no categories"
                )
            if len(set(values)) < len(values):
                raise InputError(f"column {name!r} has repeated categories: {list(values)}")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the d features."""
        names: list[str] = []
        for column in self.columns:
            if column in self.categories:
                names += [f"{column}={value}" for value in self.categories[column][1:]]
            else:
                names.append(column)
        return tuple(names)

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Make the features of a data frame.

        Parameters
        ----------
        frame : DataFrame of n rows
            Its other columns are not looked at; the order of columns does not matter.

        Returns
        -------
        ndarray of shape (n, d), float64
            Numeric features in the units of their columns.

        Raises
        ------
        InputError
            For a column that is not there, text in a numeric column, a category that is not in
            the encoding, or a value that is missing or infinite.
        """
        check_columns(self.columns, frame.columns, "the table")
        out = np.zeros((len(frame), len(self.feature_names)))
        start = 0
        for column in self.columns:
            if (same := list(frame.columns).count(column)) > 1:
                raise InputError(f"the table has {same} columns named {column!r}")
            series = frame[column]
            if column in self.categories:
                codes = _codes(series, self.categories[column])
                rows = np.flatnonzero(codes)
                out[rows, start + codes[rows] - 1] = 1
                start += len(self.categories[column]) - 1
            else:
                out[:, start] = numeric_values(series)
                start += 1
        return out

    @classmethod
    def of(cls, source: Encoded) -> FeatureEncoding:
        """Give that of a store or a model; without one, its features are columns as they are."""
        if source.encoding is None:
            return cls(tuple(source.feature_names), {})
        return cls.from_dict(source.encoding)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes; JSON can hold it."""
        return {
            "columns": list(self.columns),
            "categories": {name: list(values) for name, values in self.categories.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FeatureEncoding:
        """Inverse of `to_dict`."""
        return cls(
            tuple(content["columns"]),
            {name: tuple(values) for name, values in content["categories"].items()},
        )


def check_columns(wanted: Iterable[str], there: Collection[Any], where: str) -> None:
    """Refuse a column that is not there, naming the nearest that is.

    Raises
    ------
    MissingColumnError
    """
    for name in wanted:
        if name in there:
            continue
        by_lower = {str(other).lower(): str(other) for other in there}
        near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
        hint = (
            f"did you mean {by_lower[near[0]]!r}?"
            if near
            else f"there are {', '.join(repr(str(other)) for other in list(there)[:20])}"
            + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        )
        raise MissingColumnError(f"column {name!r} is not in {where}: {hint}")


@contextmanager
def columns_wanted(why: str) -> Iterator[None]:
    """Add to the error about a column that is not there why it is wanted.

    Raises
    ------
    FeatureMismatchError
    """
    try:
        yield
    except MissingColumnError as error:
        raise FeatureMismatchError(f"{error} ({why})") from None


def check_levels(
    theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None, where: str
) -> None:
    """Refuse data whose categories have other levels than a model's, or another reference level.

    Names of features do not tell the reference: ``sex=M`` may be against F or against E.

    Parameters
    ----------
    theirs, ours : dict or None
        Encodings of the data and of the model, see `FeatureEncoding.to_dict`. Without one of them,
        as of arrays, nothing is known of levels, and nothing refused.
    where : str
        What the data are called.

    Raises
    ------
    FeatureMismatchError
        Naming the column, and its levels there and in the model.

    Examples
    --------
    >>> ours, theirs = ({"categories": {"sex": [first, "M"]}} for first in "FE")
    >>> check_levels(theirs, ours, "the store")
    Traceback (most recent call last):
        ...
    daskmlr.errors.FeatureMismatchError: column 'sex' has the levels 'F' (the reference), 'M' in ...
    """
    if theirs is None or ours is None:
        return
    found, wanted = (
        {name: [*map(str, levels)] for name, levels in encoding.get("categories", {}).items()}
        for encoding in (theirs, ours)
    )
    for name in [*wanted, *found]:
        there, here = found.get(name, []), wanted.get(name, [])
        if differs := difference(there, here):
            raise FeatureMismatchError(
                f"column {name!r} has {_listed(here)} in the model, {_listed(there)} in {where} "
                f"({differs}): coefficients and intercept would mean something else. Ingest "
                "the table again, --like the model (in Python, like=model)"
            )


def _listed(levels: list[str]) -> str:
    """Name the first levels of a categorical column."""
    if not levels:
        return "no levels (it is numeric, or not there)"
    first, *others = map(repr, levels[:8])
    more = f" and {len(levels) - 8} more" if len(levels) > 8 else ""
    return f"the levels {', '.join([f'{first} (the reference)', *others])}{more}"


def numeric_values(series: pd.Series[Any]) -> NDArray[np.float64]:
    """Return the values of a numeric column: ints, floats, booleans, decimals; all finite.

    Raises
    ------
    InputError
        For text, dates, and missing or infinite values, naming the column and the row.
    """
    dtype = series.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        raise InputError(
            f"column {series.name!r} holds times ({dtype}), not numbers: {TIME_ADVICE}"
        )
    if not pd.api.types.is_numeric_dtype(dtype):
        _refuse_non_numbers(series)
    values: NDArray[np.float64] = series.to_numpy(dtype=np.float64, na_value=np.nan)
    _refuse(series, np.isnan(values), "missing values: drop or fill them")
    _refuse(series, np.isinf(values), "infinite values: drop or replace them")
    return values


TIME_ADVICE = (
    "make numbers of it first, such as the hour, the weekday, or the days since some date, or "
    "leave it out of the features"
)


def _codes(series: pd.Series[Any], categories: tuple[str | int, ...]) -> NDArray[np.intp]:
    """Position of each row's category."""
    _refuse(series, series.isna().to_numpy(), "missing values: drop or fill them")
    known_values = pd.Index(categories)
    if isinstance(series.dtype, pd.CategoricalDtype):
        # look up each category, not each row
        levels = pd.Index(series.cat.categories.to_numpy(dtype=object))
        codes = known_values.get_indexer(levels)[series.cat.codes]
    else:
        codes = known_values.get_indexer(pd.Index(series.to_numpy(dtype=object)))
    _refuse(series, codes < 0, unknown_category(categories))
    return codes


def unknown_category(categories: Sequence[str | int]) -> str:
    """Say what is wrong with values that are none of the categories."""
    known = ", ".join(repr(value) for value in categories[:10])
    more = f" and {len(categories) - 10} more" if len(categories) > 10 else ""
    return f"values that are no known category (known are {known}{more})"


def _refuse_non_numbers(series: pd.Series[Any]) -> None:
    """Let pass objects that are numbers, such as decimals, and those that are missing."""
    numeric = [
        isinstance(value, (numbers.Real, decimal.Decimal)) for value in series.astype(object)
    ]
    bad = ~np.array(numeric, dtype=bool) & series.notna().to_numpy()
    _refuse(series, bad, "values that are not numbers: correct, drop, or declare it categorical")


def _refuse(series: pd.Series[Any], bad: NDArray[np.bool_], what: str) -> None:
    """Raise if any row is bad, naming the first."""
    if not bad.any():
        return
    first = int(np.argmax(bad))
    value = series.iloc[first]
    if isinstance(value, np.generic):
        value = value.item()
    where = f"row {series.index[first]!r}"
    refuse_values(str(series.name), int(np.count_nonzero(bad)), what, value, where)


def refuse_values(column: str, count: int, what: str, first: object, where: str) -> NoReturn:
    """Say how many values of a column are bad, and where the first is.

    Raises
    ------
    InputError
    """
    raise InputError(f"column {column!r} has {count:,} {what}; the first is {first!r} in {where}")
