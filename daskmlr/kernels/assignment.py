"""Which component explains a task: log-likelihoods, posteriors, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.kernels.blocks import rows_in_piece, segment_matrix

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


def residuals(
    covariates: NDArray[np.floating],
    targets: NDArray[np.floating],
    coef: NDArray[np.float64],
) -> NDArray[np.floating]:
    """Return what every component foretells of every row too much, shape (n_rows, k).

    Parameters
    ----------
    covariates, targets : ndarray of shape (n_rows, d) and (n_rows,)
        As `Frame.rows` gives them.
    coef : ndarray of shape (k, d + 1)
    """
    dtype = covariates.dtype
    # one layout, so that BLAS takes one path, whatever was done to the coefficients before
    residual: NDArray[np.floating] = covariates @ coef[:, 1:].T.astype(dtype, order="C")
    # as a product: broadcasting to a few components takes a loop of its own for each row
    thin = np.ones((len(targets), 2), dtype=dtype)
    thin[:, 0] = targets
    residual -= thin @ np.stack([np.ones(len(coef)), -coef[:, 0]]).astype(dtype)
    return residual


def squared_residuals(
    covariates: NDArray[np.floating],
    targets: NDArray[np.floating],
    offsets: NDArray[np.int64],
    coef: NDArray[np.float64],
) -> NDArray[np.floating]:
    """Residual sum of squares of every task under every component.

    Parameters
    ----------
    covariates, targets : ndarray of shape (n_rows, d) and (n_rows,)
        As `Frame.rows` gives them.
    offsets : ndarray of shape (n_tasks + 1,), int64
    coef : ndarray of shape (k, d + 1)

    Returns
    -------
    ndarray of shape (n_tasks, k), in the dtype of the covariates
        Squared units of the target. Cost: ``2 n_rows d k`` operations.
    """
    return sums_of_squares(residuals(covariates, targets, coef), offsets)


def sums_of_squares(
    residual: NDArray[np.floating], offsets: NDArray[np.int64]
) -> NDArray[np.floating]:
    """Sum the squares of the rows of every task, by column if there are some."""
    ones = np.ones(len(residual), dtype=residual.dtype)
    summed: NDArray[np.floating] = segment_matrix(offsets, ones) @ np.square(residual)
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
    # a component after another in memory: sums over the few components are then sums of vectors
    joint = rss.T.astype(np.float64, order="C")
    joint *= (-0.5 / mixture.noise_variance)[:, None]
    joint -= sizes / 2 * np.log(2 * np.pi * mixture.noise_variance)[:, None]
    joint += log_weights[:, None]
    return joint.T


def rows_log_likelihood(
    covariates: NDArray[np.floating],
    targets: NDArray[np.floating],
    piece: TaskBlock,
    mixture: Mixture,
) -> NDArray[np.float64]:
    """Joint log-likelihood of every task of a block whose rows are in the frame, (n_tasks, k)."""
    rss = squared_residuals(covariates, targets, piece.offsets, mixture.coef)
    return joint_log_likelihood(rss, piece.sizes, mixture)


def block_log_likelihood(block: TaskBlock, frame: Frame, mixture: Mixture) -> NDArray[np.float64]:
    """Joint log-likelihood of every task of a block, shape (n_tasks, k), float64."""
    pieces = block.pieces(rows_in_piece(block, 2 * mixture.n_components))
    parts = [rows_log_likelihood(*frame.rows(piece), piece, mixture) for piece in pieces]
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
    top = joint.max(axis=1)
    shares = np.exp(joint - top[:, None])
    total = shares.sum(axis=1)
    shares /= total[:, None]
    return shares, top + np.log(total)


def log_add(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``log(exp(left) + exp(right))`` of finite numbers.

    As `numpy.logaddexp`, which works number by number; these are loops of vectors.
    """
    total = np.maximum(left, right)
    total += np.log1p(np.exp(-np.abs(left - right)))
    return total
