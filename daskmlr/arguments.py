"""What a user hands to a model: rows by the names and numbers of its features, support by task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from daskmlr.errors import FeatureMismatchError, InputError
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.storage.checking import check_columns_of, checked_ids, column_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    Support = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]
    Assign = Callable[..., tuple[NDArray[Any], NDArray[np.float64]]]

# What puts the columns of a data frame X in order.
SELECT = (
    "Give X[model.feature_names_in_], that is the features of the model in its order (of a Model: "
    "X[list(model.feature_names)])"
)


def numbers(X: ArrayLike, where: str) -> NDArray[Any]:
    """Return rows as an array of numbers.

    Raises
    ------
    InputError
        Naming the first column that holds something else.
    """
    array = np.asarray(X)
    if array.dtype.kind in "fiub":
        return array
    try:
        return _floats(array)
    except (TypeError, ValueError):
        names = column_names(X)
        for j, column in enumerate(array.T if array.ndim == 2 else ()):
            try:
                _floats(column)
            except (TypeError, ValueError) as error:
                name = repr(names[j]) if names else str(j)
                raise InputError(
                    f"column {name} of {where} is not numeric ({error}): leave it out, encode it "
                    "(pandas.get_dummies with drop_first=True), or ingest the table, which does"
                ) from None
        raise InputError(f"{where} must be an array of numbers, got {array.dtype}") from None


def _floats(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind in "mM":  # NumPy would count nanoseconds
        raise TypeError(f"it holds times, {values.dtype}")
    if values.dtype.kind == "O":  # pandas has a missing value of its own
        values = np.where(pd.isna(values), np.nan, values)
    return values.astype(np.float64)


def checked_rows(X: ArrayLike, feature_names: Sequence[str], where: str) -> NDArray[np.float64]:
    """Return rows of a model's features as float64.

    Raises
    ------
    FeatureMismatchError
        If the columns of a data frame have other names, or are in another order.
    InputError
        For another shape, or values that are not finite numbers.
    """
    check_columns_of(X, feature_names, where, remedy=SELECT)
    rows = np.asarray(numbers(X, where), dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(feature_names):
        raise FeatureMismatchError(
            f"{where} must have shape (n, {len(feature_names)}), got {rows.shape}: "
            f"the features are {', '.join(feature_names[:8])}"
        )
    bad = ~np.isfinite(rows)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{where} has {np.count_nonzero(bad)} NaN or infinite values, the first in row {row}, "
            f"feature {feature_names[column]!r}"
        )
    return rows


def checked_targets(y: ArrayLike, where: str) -> NDArray[Any]:
    """Return targets as an array of numbers.

    Raises
    ------
    InputError
        If they are no numbers, or not all finite.
    """
    targets = numbers(y, where)
    bad = np.argwhere(~np.isfinite(targets))
    if bad.size:
        raise InputError(
            f"{where} has {len(bad):,} NaN or infinite values, the first in row {bad[0, 0]}: "
            "leave such rows out, of X and groups too"
        )
    return targets


def task_ids(groups: ArrayLike, what: str = "groups") -> NDArray[Any]:
    """Return the task of each row as int64 or str objects; floats that are whole are integers.

    Parameters
    ----------
    groups : array of shape (n,)
    what : str
        Their name, for the errors.

    Raises
    ------
    InputError
        For ids of several types, missing ones, and numbers that are not whole.

    Examples
    --------
    >>> task_ids([2.0, 1.0]).tolist(), task_ids(["b", "a"]).tolist()
    ([2, 1], ['b', 'a'])
    """
    # a list of integers and strings would become an array of strings
    mixed = isinstance(groups, (list, tuple)) and any(isinstance(key, str) for key in groups)
    keys = np.asarray(groups, dtype=object if mixed else None)
    if keys.ndim != 1:
        raise InputError(f"{what} must name one task per row, got shape {keys.shape}")
    missing = np.asarray(pd.isna(keys))
    if missing.any():
        raise InputError(
            f"{what} has {np.count_nonzero(missing)} missing values, the first in row "
            f"{missing.argmax()}: name the task of every row, or drop these rows"
        )
    if keys.dtype.kind == "O":
        types = sorted({type(key).__name__ for key in keys.tolist()})
        if "str" in types and len(types) > 1:
            raise InputError(
                f"{what} has ids of types {' and '.join(types)}: make them all integers, or all "
                "text (astype(str))"
            )
        if "str" not in types:
            keys = np.array(keys.tolist())  # such as those of a column of integers with gaps
    return checked_ids(keys)


def grouped_rows(
    X: ArrayLike, y: ArrayLike, groups: ArrayLike, feature_names: Sequence[str]
) -> tuple[NDArray[Any], TaskBlock]:
    """Return the tasks of a support, sorted, and its rows task after task.

    Raises
    ------
    InputError
        For arrays of different lengths, or values that are not finite numbers.
    """
    rows = checked_rows(X, feature_names, "X of the support")
    targets = np.asarray(checked_targets(y, "y of the support"), dtype=np.float64)
    groups = task_ids(groups, "groups of the support")
    if not len(rows) == len(targets) == len(groups):
        raise InputError(
            "support examples must be as many in X, y and groups, "
            f"got {len(rows)}, {len(targets)} and {len(groups)}"
        )
    keys, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return keys, TaskBlock(rows[order], targets[order], offsets)


def check_common_tasks(
    known: NDArray[Any], wanted: NDArray[Any], support: str = "the support", query: str = "X"
) -> None:
    """Refuse rows to predict of which none has support, since that is a mistake.

    Parameters
    ----------
    known, wanted : ndarray
        Ids of the tasks that have support, and of those to predict.
    support, query : str
        Where they come from.

    Raises
    ------
    InputError
        If both have tasks and none is in both, with an example of each and its type.
    """
    if not len(known) or not len(wanted) or pd.Index(wanted).isin(known).any():
        return
    first, has = (f"{ids.item(0)!r} ({type(ids.item(0)).__name__})" for ids in (wanted, known))
    raise InputError(
        f"no task of {query} has support: its first is {first}, the first of {support} {has}. "
        "Task ids must be of one type and spelt alike"
    )


def label_shares(
    n: int,
    weights: NDArray[np.float64],
    support: Support | None,
    groups: ArrayLike | None,
    assign: Assign,
) -> NDArray[np.float64]:
    """Posterior of the labels for each of `n` rows to predict, shape (n, k).

    Parameters
    ----------
    weights : ndarray of shape (k,)
        For rows without support.
    support : tuple (X, y) or (X, y, groups), optional
    groups : array of shape (n,), optional
    assign : callable
        ``assign(X, y, groups) -> (tasks, posterior)``.

    Raises
    ------
    InputError
        If only one of support and rows has groups, or no task of the rows has support.
    """
    prior = np.broadcast_to(weights, (n, len(weights)))
    if support is None:
        return prior
    if len(support) == 2:
        if groups is not None:
            raise InputError(
                "groups name the tasks of X, but the support does not name its own: give "
                "support=(X, y, groups)"
            )
        _, shares = assign(*support, groups=np.zeros(len(np.asarray(support[1]))))
        return np.broadcast_to(shares[0], prior.shape) if len(shares) else prior
    if groups is None:
        raise InputError("support has groups: give the groups of the rows of X too")
    wanted = task_ids(groups)
    if len(wanted) != n:
        raise InputError(f"groups must have one entry per row of X ({n}), got {len(wanted)}")
    keys, shares = assign(*support)
    check_common_tasks(keys, wanted)
    place = pd.Index(keys).get_indexer(pd.Index(wanted))
    return np.where((place >= 0)[:, None], shares[place], prior) if len(keys) else prior
