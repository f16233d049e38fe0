"""Which component explains a task: log-likelihoods, posteriors, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from daskmlr.kernels.blocks import segment_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, TaskBlock


@dataclass(frozen=True)
class Mixture:
    """The parameters of the k regressions, in a frame.

    Attributes
    ----------
    coef : ndarray of shape (k, d + 1), float64
        On ``a``, for ``r``; intercept first.
    noise_variance : ndarray of shape (k,), float64
        In squared units of the target.
    weights : ndarray of shape (k,), float64
        Share of each component among tasks; zero for an empty component.
    """

    coef: NDArray[np.float64]
    noise_variance: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.weights)

    def take(self, order: NDArray[np.int64]) -> Mixture:
        """Return some of the components, in that order."""
        return Mixture(self.coef[order], self.noise_variance[order], self.weights[order])


def squared_residuals(
    rows: NDArray[np.floating], offsets: NDArray[np.int64], coef: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Residual sum of squares of every task under every component.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, d + 2)
        ``[a, r]`` of each example, as `Frame.augment` gives it.
    offsets : ndarray of shape (n_tasks + 1,), int64
    coef : ndarray of shape (k, d + 1)

    Returns
    -------
    ndarray of shape (n_tasks, k), in the dtype of `rows`
        Squared units of the target. Cost: ``2 n_rows d k`` operations.
    """
    map_to_residual = np.column_stack([-coef, np.ones(len(coef))]).astype(rows.dtype)
    residual = rows @ map_to_residual.T
    residual *= residual
    ones = np.ones(len(rows), dtype=rows.dtype)
    summed: NDArray[np.floating] = segment_matrix(offsets, ones) @ residual
    return summed


def joint_log_likelihood(
    rss: NDArray[np.floating], sizes: NDArray[np.int64], mixture: Mixture
) -> NDArray[np.float64]:
    """``log p_l + log N(r_i; a_i w_l, s_l^2 I)`` of every task and component.

    Algorithm 4 of Kong et al. (2020) with the prior added, and with the constant
    ``-t/2 log(2 pi)``, so that likelihoods can be compared between programs.

    Parameters
    ----------
    rss : ndarray of shape (n_tasks, k)
    sizes : ndarray of shape (n_tasks,)
    mixture : Mixture

    Returns
    -------
    ndarray of shape (n_tasks, k), float64
    """
    with np.errstate(divide="ignore"):
        log_weights = np.log(mixture.weights)
    half_sizes = sizes.astype(np.float64)[:, None] / 2
    joint = rss.astype(np.float64) * (-0.5 / mixture.noise_variance)
    joint -= half_sizes * np.log(2 * np.pi * mixture.noise_variance)
    joint += log_weights
    return joint


def rows_log_likelihood(
    rows: NDArray[np.floating], piece: TaskBlock, mixture: Mixture
) -> NDArray[np.float64]:
    """Joint log-likelihood of every task of a block whose rows are augmented, (n_tasks, k)."""
    rss = squared_residuals(rows, piece.offsets, mixture.coef)
    return joint_log_likelihood(rss, piece.sizes, mixture)


def block_log_likelihood(block: TaskBlock, frame: Frame, mixture: Mixture) -> NDArray[np.float64]:
    """Joint log-likelihood of every task of a block, shape (n_tasks, k), float64."""
    parts = [rows_log_likelihood(frame.augment(piece), piece, mixture) for piece in block.pieces()]
    return np.concatenate(parts) if parts else np.zeros((0, mixture.n_components))


def posterior(joint: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior of the labels and log-likelihood of the tasks.

    Parameters
    ----------
    joint : ndarray of shape (n_tasks, k)

    Returns
    -------
    posterior : ndarray of shape (n_tasks, k)
        Rows sum to one.
    log_likelihood : ndarray of shape (n_tasks,)
        Natural logarithm of the density of the task's targets.

    Examples
    --------
    >>> p, log_likelihood = posterior(np.log([[0.1, 0.3]]))
    >>> p.round(2).tolist(), round(float(np.exp(log_likelihood[0])), 2)
    ([[0.25, 0.75]], 0.4)
    """
    log_likelihood = logsumexp(joint, axis=1)
    return np.exp(joint - log_likelihood[:, None]), log_likelihood
