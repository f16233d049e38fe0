"""The best anyone could do: labels at the true parameters, least squares with the true labels.

Written apart from the kernels of the fit, in plain float64, as a yardstick has to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import segment_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.synthetic.truth import MixtureTruth


def oracle_assign(block: TaskBlock, truth: MixtureTruth) -> NDArray[np.int16]:
    """Label every task by its largest posterior at the true parameters.

    No rule that sees only a task's examples has a better expected accuracy (for Gaussian noise):
    the figure to put beside a fit's. ``argmax_l log p_l - t/2 log s_l^2 - rss_l / (2 s_l^2)``.

    Parameters
    ----------
    block : TaskBlock
    truth : MixtureTruth

    Returns
    -------
    ndarray of shape (n_tasks,), int16
        A task without examples takes the component of the largest weight.

    Raises
    ------
    InputError
        If the block has another number of features than the truth.
    """
    if block.n_features != truth.n_features:
        raise InputError(
            f"the tasks have {block.n_features} features, but the truth has {truth.n_features}"
        )
    labels = np.empty(block.n_tasks, dtype=np.int16)
    done = 0
    for piece in block.pieces():
        residual = piece.y[:, None] - (piece.X @ truth.coef.T + truth.intercept)
        rss = segment_matrix(piece.offsets, np.ones(piece.n_rows)) @ residual**2
        posterior = np.log(truth.weights) - rss / (2 * truth.noise_variance)
        posterior -= np.outer(piece.sizes / 2, np.log(truth.noise_variance))
        labels[done : done + piece.n_tasks] = posterior.argmax(axis=1)
        done += piece.n_tasks
    return labels


def truth_sums_from_block(
    block: TaskBlock, labels: NDArray[np.integer], *, n_components: int
) -> NDArray[np.float64]:
    """Sum the normal equations of every component over its own tasks.

    The sums of blocks add (``numpy.add``); `oracle_coefficients` of the total is the fit that
    knows every label.

    Parameters
    ----------
    block : TaskBlock
    labels : ndarray of shape (n_tasks_of_the_store,), int
        True labels of the whole store, as `load_truth` gives them; the block's own begin at
        ``block.first_task``.
    n_components : int

    Returns
    -------
    ndarray of shape (k, d + 2, d + 2), float64
        ``sum a' a'^T`` with ``a' = [1, x, y]``.

    Raises
    ------
    InputError
        If `labels` ends before the block does, or a label is out of range.
    """
    stop = block.first_task + block.n_tasks
    if len(labels) < stop:
        raise InputError(f"the block ends at task {stop}, but there are {len(labels)} labels")
    own = labels[block.first_task : stop]
    if own.size and not 0 <= own.min() <= own.max() < n_components:
        raise InputError(
            f"labels must be in 0 .. {n_components - 1}, but lie in {own.min()} .. {own.max()}"
        )
    sums = np.zeros((n_components, block.n_features + 2, block.n_features + 2))
    done = 0
    for piece in block.pieces():
        label_of_row = np.repeat(own[done : done + piece.n_tasks], piece.sizes)
        rows = np.column_stack([np.ones(piece.n_rows), piece.X, piece.y])
        for label in np.unique(label_of_row):
            chosen = rows[label_of_row == label]
            sums[label] += chosen.T @ chosen
        done += piece.n_tasks
    return sums


def oracle_coefficients(
    sums: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of every component from the sums over its own tasks.

    Parameters
    ----------
    sums : ndarray of shape (k, d + 2, d + 2)
        See `truth_sums_from_block`.

    Returns
    -------
    coef : ndarray of shape (k, d)
    intercept : ndarray of shape (k,)
    noise_variance : ndarray of shape (k,)
        Maximum likelihood: residual sum of squares over examples. All are NaN for a component
        without an example.

    Examples
    --------
    >>> rows = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 3.0], [1.0, 2.0, 5.0]])
    >>> coef, intercept, noise = oracle_coefficients((rows.T @ rows)[None])
    >>> coef.round(6).tolist(), intercept.round(6).tolist(), abs(noise.round(6)).tolist()
    ([[2.0]], [1.0], [0.0])
    """
    k, width = sums.shape[:2]
    coef, intercept, noise = np.full((k, width - 2), np.nan), np.full(k, np.nan), np.full(k, np.nan)
    for label in np.flatnonzero(sums[:, 0, 0]):
        n, total = sums[label, 0, 0], sums[label, 0, 1:]
        # centred, or a mean far from zero would cost the digits
        centred = sums[label, 1:, 1:] - np.outer(total, total) / n
        slopes = scipy.linalg.lstsq(centred[:-1, :-1], centred[:-1, -1])[0]
        coef[label] = slopes
        intercept[label] = (total[-1] - slopes @ total[:-1]) / n
        noise[label] = (centred[-1, -1] - slopes @ centred[:-1, -1]) / n
    return coef, intercept, noise
