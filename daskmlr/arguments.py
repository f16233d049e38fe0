"""What a user hands to a model: rows by the names and numbers of its features, support by task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.errors import FeatureMismatchError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    Support = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]
    Assign = Callable[..., tuple[NDArray[Any], NDArray[np.float64]]]


def default_names(n_features: int) -> tuple[str, ...]:
    """Names of the features of arrays: ``x0``, ``x1``, ..."""
    return tuple(f"x{j}" for j in range(n_features))


def column_names(X: Any) -> tuple[str, ...] | None:
    """Names of the columns of a data frame, if all are strings, as scikit-learn takes them."""
    names = getattr(X, "columns", None)
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


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
        return array.astype(np.float64)
    except (TypeError, ValueError):
        names = column_names(X)
        for j, column in enumerate(array.T if array.ndim == 2 else ()):
            try:
                column.astype(np.float64)
            except (TypeError, ValueError) as error:
                name = repr(names[j]) if names else str(j)
                raise InputError(
                    f"column {name} of {where} is not numeric ({error}): leave it out, encode it "
                    "(pandas.get_dummies with drop_first=True), or ingest the table, which does"
                ) from None
        raise InputError(f"{where} must be an array of numbers, got {array.dtype}") from None


def checked_rows(X: ArrayLike, feature_names: Sequence[str], where: str) -> NDArray[np.float64]:
    """Return rows of a model's features as float64.

    Raises
    ------
    FeatureMismatchError
        If the columns of a data frame have other names, or are in another order.
    InputError
        For another shape, or values that are not finite numbers.
    """
    names = column_names(X)
    if names is not None and tuple(feature_names) != default_names(len(feature_names)):
        check_names(names, feature_names, where)
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


def check_names(theirs: Sequence[str], ours: Sequence[str], where: str) -> None:
    """Refuse features that are not those of a model, in the same order.

    Raises
    ------
    FeatureMismatchError
        Naming the first that differ.
    """
    if tuple(theirs) == tuple(ours):
        return
    missing = [name for name in ours if name not in theirs]
    extra = [name for name in theirs if name not in ours]
    difference = (
        f"it lacks {missing[:5]} and has {extra[:5]} besides"
        if missing or extra
        else "they are in another order"
    )
    raise FeatureMismatchError(
        f"the model was fitted on {len(ours)} features, {where} has {len(theirs)}: {difference}. "
        "Give the features of the model, in its order"
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
    wanted = np.asarray(groups)
    if len(wanted) != n:
        raise InputError(f"groups must have one entry per row of X ({n}), got {len(wanted)}")
    keys, shares = assign(*support)
    known = np.isin(wanted.astype(object), keys.astype(object))
    if len(keys) and n and not known.any():
        raise InputError(
            f"no task of X has support: its first is {wanted[0]!r}, the support's {keys[0]!r}. "
            "Task ids must be of one kind and spelt alike"
        )
    place = np.zeros(n, dtype=np.int64)
    place[known] = np.searchsorted(keys, wanted[known])
    return np.where(known[:, None], shares[place], prior) if len(keys) else prior
