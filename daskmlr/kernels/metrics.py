"""How far an estimate is from the truth: matched components, labels, subspaces, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.linalg
from scipy.optimize import linear_sum_assignment

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

UNMATCHED = -1


def match_components(estimate: ArrayLike, truth: ArrayLike) -> NDArray[np.int64]:
    """Pair every true component with an estimated one, at the least total squared distance.

    The order of a mixture's components means nothing, so every comparison begins here. Solved
    exactly (linear sum assignment, Crouse 2016): ``O(k k' p + k^3)``.

    Parameters
    ----------
    estimate : array_like of shape (k, p)
        One component a row.
    truth : array_like of shape (k', p)
        In the same units; k' need not be k.

    Returns
    -------
    ndarray of shape (k',), int64
        Row of `estimate` paired with each row of `truth`, each used at most once; `UNMATCHED`
        (-1) where there are fewer estimates than truths and this one is left over.

    Raises
    ------
    InputError
        If either is not a finite matrix, or their widths differ.

    Examples
    --------
    >>> match_components([[0.0, 1.0], [1.0, 0.1]], [[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]).tolist()
    [1, 0, -1]
    """
    W_hat, W = _components(estimate, "estimate"), _components(truth, "truth")
    if W_hat.shape[1] != W.shape[1]:
        raise InputError(
            f"estimate and truth must have as many coefficients a component, but estimate has"
            f" shape {W_hat.shape} and truth {W.shape}; drop or add the intercept on both"
        )
    return _pair(np.sum((W[:, None, :] - W_hat[None, :, :]) ** 2, axis=2))


def coefficient_error(
    estimate: ArrayLike, truth: ArrayLike, *, match: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Distance ``|w_l - w_hat_l|`` of every true component from its match.

    The largest is the usual figure: the paper's guarantee (arXiv:2002.08936) holds for all
    components at once.

    Parameters
    ----------
    estimate : array_like of shape (k, p)
    truth : array_like of shape (k', p)
    match : array_like of shape (k',), int, optional
        As `match_components` gives it, which is the default.

    Returns
    -------
    ndarray of shape (k',), float64
        In the units of the coefficients; infinite for a component that nothing was paired with,
        so that a lost component shows in the largest.

    Raises
    ------
    InputError
        As in `match_components`; or `match` does not index the components.

    Examples
    --------
    >>> coefficient_error([[0.0, 1.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]]).tolist()
    [0.5, 0.0]
    """
    W_hat, W = _components(estimate, "estimate"), _components(truth, "truth")
    pairs = match_components(W_hat, W) if match is None else _match(match, len(W_hat), len(W))
    error: NDArray[np.float64] = np.linalg.norm(W_hat[pairs] - W, axis=1)
    error[pairs == UNMATCHED] = np.inf
    return error


def label_accuracy(
    labels: ArrayLike,
    truth_labels: ArrayLike,
    *,
    n_components: int,
    match: ArrayLike | None = None,
) -> float:
    """Share of the tasks whose label is the true one.

    Parameters
    ----------
    labels, truth_labels : array_like of shape (n_tasks,), int
        In ``0 .. n_components - 1``.
    n_components : int
        The larger number, where estimate and truth have different numbers of components.
    match : array_like of shape (n_components,), int, optional
        Estimated label for each true one, as `match_components` gives it. By default the pairing
        that agrees on the most tasks, which is an optimistic figure when there are few tasks.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    InputError
        If there are no tasks, the lengths differ, a label is out of range, or `match` does not
        index the components.

    Examples
    --------
    >>> label_accuracy([1, 1, 0, 0], [0, 0, 1, 0], n_components=2)
    0.75
    >>> label_accuracy([1, 1, 0, 0], [0, 0, 1, 0], n_components=2, match=[0, 1])
    0.25
    """
    found = _labels(labels, n_components, "labels")
    true = _labels(truth_labels, n_components, "truth_labels")
    if len(found) != len(true):
        raise InputError(
            f"labels and truth_labels must be of the same tasks, but there are"
            f" {len(found)} and {len(true)}"
        )
    if len(true) == 0:
        raise InputError("the accuracy of labels needs at least 1 task, and there are 0")
    counts = np.bincount(true * n_components + found, minlength=n_components**2)
    confusion = counts.reshape(n_components, n_components)
    pairs = _pair(-confusion) if match is None else _match(match, n_components, n_components)
    paired = pairs != UNMATCHED
    return float(confusion[paired, pairs[paired]].sum() / len(true))


def subspace_error(
    estimate: ArrayLike,
    truth: ArrayLike,
    *,
    norm: Literal["spectral", "frobenius"] = "spectral",
) -> float:
    """How much of the true directions lies outside the estimated subspace.

    With orthonormal bases ``U`` of the estimated and ``V`` of the true span,
    ``|(I - U U^T) V|_2``: the sine of the largest principal angle, zero if and only if the
    estimate contains the truth (Golub and Van Loan, section 6.4.3). The Frobenius measure is
    ``|(I - U U^T) V|_F / sqrt(rank V)``, the root mean square of the sines, which one lost
    direction does not saturate.

    Parameters
    ----------
    estimate, truth : array_like of shape (p, r), (p, r')
        Columns that span the subspaces. They need not be orthonormal nor independent: the true
        coefficients, transposed, will do.
    norm : {"spectral", "frobenius"}

    Returns
    -------
    float
        Between 0 and 1; the spectral one is 1 if the estimate has fewer directions than the truth.

    Raises
    ------
    InputError
        If either is not a finite matrix, the numbers of rows differ, or the truth spans nothing.

    Examples
    --------
    >>> round(subspace_error([[1.0], [0.0]], [[1.0], [1.0]]), 4)
    0.7071
    """
    if norm not in ("spectral", "frobenius"):
        raise InputError(f"norm must be 'spectral' or 'frobenius', not {norm!r}")
    first, second = _components(estimate, "estimate"), _components(truth, "truth")
    if len(first) != len(second):
        raise InputError(
            f"estimate and truth must lie in the same space, but have {len(first)} and"
            f" {len(second)} rows; directions are columns"
        )
    U, V = scipy.linalg.orth(first), scipy.linalg.orth(second)
    if V.shape[1] == 0:
        raise InputError("the true subspace must have at least 1 direction, and all are 0")
    outside = V - U @ (U.T @ V)
    if norm == "spectral":
        return min(1.0, float(np.linalg.norm(outside, 2)))
    return min(1.0, float(np.linalg.norm(outside) / np.sqrt(V.shape[1])))


def calibration_error(posterior: ArrayLike, labels: ArrayLike, *, n_bins: int = 15) -> float:
    """How far the probability given to the likeliest label is from how often it is right.

    Tasks are binned by the largest of their posteriors, in bins of equal width; the *expected
    calibration error* is ``sum_b (n_b / n) |right_b - mean posterior_b|`` (Naeini, Cooper,
    Hauskrecht, AAAI 2015). A bin of few tasks adds to it by chance, about ``sqrt(n_b) / (2 n)``.

    Parameters
    ----------
    posterior : array_like of shape (n_tasks, k)
        Columns in the order of the truth's components.
    labels : array_like of shape (n_tasks,), int
        True components.
    n_bins : int

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    InputError
        If the shapes do not fit, a label is no component, or there is no bin.

    Examples
    --------
    >>> round(calibration_error([[0.8, 0.2]] * 5, [0, 0, 0, 0, 1]), 12)
    0.0
    >>> round(calibration_error([[0.8, 0.2]] * 5, [0, 0, 0, 1, 1]), 12)
    0.2
    """
    number, right, confidence = calibration_bins(posterior, labels, n_bins=n_bins)
    return float(np.abs(right - confidence).sum() / number.sum())


def calibration_bins(
    posterior: ArrayLike, labels: ArrayLike, *, n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Bin tasks by the largest of their posteriors, in bins of equal width.

    Parameters and errors as of `calibration_error`.

    Returns
    -------
    number : ndarray of shape (n_bins,), int64
        Tasks in each bin.
    right, confidence : ndarray of shape (n_bins,), float64
        How many of them have the likeliest label; the sum of its posteriors.
    """
    shares = _components(posterior, "posterior")
    truth = _labels(labels, shares.shape[1], "labels")
    if len(truth) != len(shares):
        raise InputError(
            f"posterior and labels must be of the same tasks, but have {len(shares)} and"
            f" {len(truth)}"
        )
    if n_bins < 1:
        raise InputError(f"n_bins must be at least 1, got {n_bins}")
    highest, right = shares.max(axis=1), shares.argmax(axis=1) == truth
    bins = np.minimum((highest * n_bins).astype(np.int64), n_bins - 1)
    number = np.bincount(bins, minlength=n_bins).astype(np.int64)
    sums = np.zeros((2, n_bins))
    np.add.at(sums.T, bins, np.column_stack([right, highest]))
    return number, sums[0], sums[1]


def prediction_risk(
    estimate: ArrayLike,
    truth: ArrayLike,
    *,
    noise_variance: ArrayLike = 0.0,
    second_moment: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the expected squared error of predicting new examples, exactly.

    For ``y = w . a + e`` and the predictor ``w_hat . a``,
    ``E (y - w_hat . a)^2 = s^2 + (w_hat - w)^T E[a a^T] (w_hat - w)``; the paper's figure for a
    new task (arXiv:2002.08936) has ``E[a a^T] = I``.

    Parameters
    ----------
    estimate, truth : array_like of shape (n, p)
        One regression a row, already paired: of a component, or of a task (the posterior mean of
        its coefficients is the Bayes predictor).
    noise_variance : array_like of shape () or (n,)
        In squared units of the target; leave at 0 for the excess risk.
    second_moment : array_like of shape (p, p), optional
        ``E[a a^T]`` of the covariates, the constant included if the rows hold an intercept;
        identity by default.

    Returns
    -------
    ndarray of shape (n,), float64
        In squared units of the target.

    Raises
    ------
    InputError
        If the shapes do not fit, or a value is not finite.

    Examples
    --------
    >>> prediction_risk([[1.0, 0.5]], [[1.0, 0.0]], noise_variance=1.0).tolist()
    [1.25]
    """
    W_hat, W = _components(estimate, "estimate"), _components(truth, "truth")
    if W_hat.shape != W.shape:
        raise InputError(
            f"estimate and truth must be paired row by row, but have shapes"
            f" {W_hat.shape} and {W.shape}; pair components with match_components"
        )
    gap, noise = W_hat - W, np.asarray(noise_variance, dtype=np.float64)
    if noise.shape not in ((), (len(gap),)) or not np.isfinite(noise).all():
        raise InputError(
            f"noise_variance must be one finite number or {len(gap)}, one for each regression,"
            f" but is {noise.tolist()}"
        )
    moment = np.eye(gap.shape[1])
    if second_moment is not None:
        moment = _components(second_moment, "second_moment")
    if moment.shape != (gap.shape[1],) * 2:
        raise InputError(
            f"second_moment must have shape {(gap.shape[1],) * 2}, but has {moment.shape};"
            " the constant's row and column belong to it if the coefficients hold an intercept"
        )
    risk: NDArray[np.float64] = np.sum((gap @ moment) * gap, axis=1) + noise
    return risk


def _pair(cost: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Column of each row in the cheapest pairing, `UNMATCHED` for rows left over."""
    pairs = np.full(len(cost), UNMATCHED, dtype=np.int64)
    rows, columns = linear_sum_assignment(cost)
    pairs[rows] = columns
    return pairs


def _components(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return `values` as a finite float64 matrix."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise InputError(f"{name} must be a non-empty matrix, but has shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise InputError(
            f"{name} must be finite, but holds {matrix[row, column]} in row {row}, column {column}"
        )
    return matrix


def _labels(values: ArrayLike, n_components: int, name: str) -> NDArray[np.int64]:
    """Return `values` as int64 labels in ``0 .. n_components - 1``."""
    labels = np.asarray(values)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise InputError(
            f"{name} must be a vector of integers, but has shape {labels.shape} and"
            f" dtype {labels.dtype}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= n_components))
    if outside.size:
        raise InputError(
            f"{name} must be in 0 .. {n_components - 1}, but task {outside[0]} has"
            f" {labels[outside[0]]}; n_components is the larger of estimate's and truth's"
        )
    return labels.astype(np.int64)


def _match(values: ArrayLike, n_estimates: int, n_truths: int) -> NDArray[np.int64]:
    """Return a given pairing, checked: each estimate at most once."""
    pairs = np.asarray(values)
    if pairs.shape != (n_truths,) or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(
            f"match must be {n_truths} integers, one for each true component, but has shape"
            f" {pairs.shape} and dtype {pairs.dtype}"
        )
    paired = pairs[pairs != UNMATCHED]
    if ((paired < 0) | (paired >= n_estimates)).any():
        raise InputError(f"match must index {n_estimates} estimates, but is {pairs.tolist()}")
    if len(np.unique(paired)) != len(paired):
        raise InputError(f"match must use each estimate at most once, but is {pairs.tolist()}")
    return pairs.astype(np.int64)
