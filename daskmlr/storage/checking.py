"""What a writer accepts, and what it says about the rest."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.errors import FeatureMismatchError, InputError
from daskmlr.storage import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

# The largest magnitude that a dtype is trusted with: float32 holds no more, and beyond this
# the squares of float64 overflow when they are summed.
LARGEST = {"float32": float(np.finfo(np.float32).max), "float64": 1e140}

# Beyond it a float64 may stand for several integers.
LARGEST_EXACT = 2**53


def checked_names(feature_names: Sequence[str]) -> list[str]:
    """Return feature names that are given, and distinct."""
    if isinstance(feature_names, str):
        raise InputError(f"feature_names must be a list of str, got the str {feature_names!r}")
    names = [str(name) for name in feature_names]
    repeated = sorted({name for name in names if names.count(name) > 1}) if names else []
    if not names or repeated or "" in names:
        raise InputError(
            f"feature names must be given, not empty, and distinct, got {names[:20]}"
            + (f": {repeated[:5]} more than once" if repeated else "")
        )
    return names


def difference(theirs: Sequence[object], ours: Sequence[object]) -> str:
    """Say what tells a list of distinct things from the one that is wanted; empty if nothing does.

    Examples
    --------
    >>> difference(["a", "c"], ["a", "b"]), difference(["b", "a"], ["a", "b"])
    ("it lacks ['b'] and has ['c'] besides", 'they are in another order')
    """
    missing = [thing for thing in ours if thing not in theirs]
    extra = [thing for thing in theirs if thing not in ours]
    if missing or extra:
        said = [f"lacks {missing[:5]}"] if missing else []
        said += [f"has {extra[:5]} besides"] if extra else []
        return f"it {' and '.join(said)}"
    return "" if list(theirs) == list(ours) else "they are in another order"


def default_names(n_features: int) -> tuple[str, ...]:
    """Names of the features of arrays: ``x0``, ``x1``, ..."""
    return tuple(f"x{j}" for j in range(n_features))


def column_names(X: Any) -> tuple[str, ...] | None:
    """Names of the columns of a data frame, if all are strings, as scikit-learn takes them."""
    names = getattr(X, "columns", None)
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def check_names(
    theirs: Sequence[str],
    ours: Sequence[str],
    where: str,
    *,
    whose: str = "model",
    remedy: str | None = None,
) -> None:
    """Refuse features that are not those of a model, or of a store, in the same order.

    Parameters
    ----------
    theirs, ours : sequence of str
    where : str
        Whose features `theirs` are.
    whose : {"model", "store"}
        Whose features `ours` are.
    remedy : str, optional
        What to do where none is lacking.

    Raises
    ------
    FeatureMismatchError
        Naming the first that differ.
    """
    if differs := difference(theirs, ours):
        if remedy is None or set(ours) - set(theirs):
            remedy = f"Give the features of the {whose}, in its order"
        raise FeatureMismatchError(
            f"the {whose} has {len(ours)} features, {where} has {len(theirs)}: {differs}. {remedy}"
        )


def check_columns_of(
    X: Any,
    feature_names: Sequence[str],
    where: str,
    *,
    whose: str = "model",
    remedy: str | None = None,
) -> None:
    """Refuse a data frame whose columns are not the features, in the same order.

    Parameters as for `check_names`.

    Raises
    ------
    FeatureMismatchError
    """
    names, unnamed = column_names(X), default_names(len(feature_names))
    # as scikit-learn: what was made of an array has no names to hold columns against
    if names is not None and (tuple(feature_names) != unnamed or {*names} & {*unnamed}):
        check_names(names, feature_names, where, whose=whose, remedy=remedy)


def checked_dtype(dtype: str) -> np.dtype[Any]:
    """Return float32 or float64 in the machine's byte order."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in layout.DTYPES:
        raise InputError(f"dtype must be one of {layout.DTYPES}, got {dtype!r}")
    return np.dtype(name)


def checked_block_bytes(block_bytes: int | None) -> int:
    """Return the bytes of a block."""
    if block_bytes is None:
        return layout.BLOCK_BYTES
    try:
        number = operator.index(block_bytes)
    except TypeError:
        number = 0
    if not 1 <= number <= layout.LARGEST_BLOCK_BYTES:
        raise InputError(
            f"block_bytes must be a whole number from 1 to {layout.LARGEST_BLOCK_BYTES:,}, got "
            f"{block_bytes!r}"
        )
    return number


def checked_json(name: str, value: dict[str, Any] | None) -> None:
    """Refuse what the store's attributes cannot hold, before any task is written."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be JSON-able: {error}") from error


def checked_sizes(sizes: ArrayLike) -> NDArray[np.int64]:
    """Return the sizes of tasks as int64: a copy."""
    array = np.asarray(sizes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(
            f"sizes must be whole numbers, one per task, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def checked_ids(ids: ArrayLike) -> NDArray[Any]:
    """Return task ids as int64, or as str objects: a copy.

    Raises
    ------
    InputError
        For anything else: mixed types, fractions, missing or empty ids, integers beyond int64.
    """
    keys = np.asarray(ids)
    if keys.ndim != 1:
        raise InputError(f"task ids must be one per task, got shape {keys.shape}")
    if keys.dtype.kind == "f" and len(keys):
        exact = np.abs(keys) < LARGEST_EXACT  # false for NaN and infinity too
        if (exact & (keys == np.floor(keys))).all():
            keys = keys.astype(np.int64)  # integers as pandas makes them of a column with gaps
    if keys.dtype.kind in "iu":
        if keys.dtype == np.uint64 and len(keys) and keys.max() > np.iinfo(np.int64).max:
            raise InputError(f"task id {keys.max()} does not fit int64: use strings")
        keys = keys.astype(np.int64)
        if (keys == layout.MISSING_ID).any():
            raise InputError(f"task id {layout.MISSING_ID} is reserved: use another")
        return keys
    texts: NDArray[Any] = keys.astype(object)
    # a list of integers and strings becomes an array of strings: look at what was given
    given = ids if isinstance(ids, (list, tuple)) else texts
    for key in given:
        if not isinstance(key, str) or not key:
            raise InputError(
                f"task ids must be integers or non-empty strings, all alike, got {key!r} "
                f"({type(key).__name__}): convert them with astype(int) or astype(str)"
            )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"task ids must be valid Unicode: {error}") from error
    return texts


def check_shapes(
    X: NDArray[Any], y: NDArray[Any], sizes: NDArray[np.int64], ids: NDArray[Any], d: int
) -> None:
    """Refuse arrays that do not fit each other, or are not numbers."""
    if X.ndim != 2 or X.shape[1] != d or y.shape != X.shape[:1] or sizes.sum() != len(y):
        raise InputError(
            f"X must be (n_rows, {d}), y (n_rows,), and sizes add up to n_rows: got {X.shape}, "
            f"{y.shape}, and {sizes.sum()} rows in {len(sizes)} tasks"
        )
    if ids.shape != sizes.shape:
        raise InputError(f"ids must be one per task: got {len(ids)} ids, {len(sizes)} sizes")
    for name, values in (("X", X), ("y", y)):
        if values.dtype.kind not in "biuf":
            raise InputError(f"{name} must be numeric, got dtype {values.dtype}")


def check_sizes(
    sizes: NDArray[np.int64], ids: NDArray[Any], *, block_rows: int, row_bytes: int, fixed: bool
) -> None:
    """Refuse tasks without examples, and tasks larger than a block."""
    if sizes.min() < 1:
        at = int(sizes.argmin())
        raise InputError(f"task {ids.item(at)!r} has {sizes[at]} examples: leave it out")
    if sizes.max() > block_rows:
        at = int(sizes.argmax())
        remedy = "write the store again with" if fixed else "set"
        raise InputError(
            f"task {ids.item(at)!r} has {sizes[at]:,} examples, more than the {block_rows:,} rows "
            f"of a block: {remedy} block_bytes={int(sizes[at]) * row_bytes} or more, or split the "
            "task"
        )


def check_distinct(ids: NDArray[Any], last: object) -> None:
    """Refuse an id that equals its neighbour, or is of another kind than `last`, the one before.

    `last` is None if there is none.
    """
    if last is not None and isinstance(last, str) != (ids.dtype == object):
        raise InputError(
            f"task ids must be all integers or all strings: {last!r} came before {ids.item(0)!r}"
        )
    same = np.flatnonzero(ids[1:] == ids[:-1])
    if len(same) or ids.item(0) == last:
        key = ids.item(int(same[0])) if len(same) else last
        raise InputError(
            f"task id {key!r} is given twice in a row: give all rows of a task together, under one "
            "id"
        )


def check_values(
    X: NDArray[Any],
    y: NDArray[Any],
    sizes: NDArray[np.int64],
    ids: NDArray[Any],
    *,
    names: Sequence[str],
    dtype: np.dtype[Any],
) -> None:
    """Refuse NaN, infinity, and what `dtype` cannot hold or square."""
    limit = LARGEST[dtype.name]
    if all(_within(values, limit) for values in (X, y)):
        return
    with np.errstate(invalid="ignore"):
        bad = ~np.column_stack([np.abs(v.astype(np.longdouble)) <= limit for v in (X, y)])
    row, column = (int(v) for v in np.argwhere(bad)[0])
    value = float(y[row] if column == X.shape[1] else X[row, column])
    ends = np.cumsum(sizes)
    task = int(np.searchsorted(ends, row, side="right"))
    others = np.count_nonzero(bad) - 1
    remedy = (
        f"{dtype} is used up to {limit:.3g}: rescale it"
        if np.isfinite(value)
        else "drop or fill missing and infinite values first"
    )
    raise InputError(
        f"{names[column]!r} is {value} in row {row - int(ends[task] - sizes[task])} of task "
        f"{ids.item(task)!r}{f', and {others} more such values' if others else ''}: {remedy}"
    )


def _within(values: NDArray[Any], limit: float) -> bool:
    # NaN fails every comparison; minimum and maximum need no temporary the size of the data
    with np.errstate(invalid="ignore"):
        return bool(-limit <= float(values.min()) and float(values.max()) <= limit)
