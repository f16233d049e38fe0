"""What speaks against a fitted mixture: one pass at its parameters.

A component that another could replace at little loss is one too many. A component whose own
tasks still have coefficients in common, once its regression is taken out of them, holds more than
one: the second moment of `moments`, of residuals and within one component, then has an eigenvalue
above its noise edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from daskmlr.kernels.assignment import joint_log_likelihood, posterior, squared_residuals
from daskmlr.kernels.blocks import segment_matrix, tasks_in
from daskmlr.kernels.moments import task_weight
from daskmlr.kernels.regression import NEGLIGIBLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, Part, TaskBlock


@dataclass(frozen=True)
class DiagnosisSums:
    """Sums over tasks; `combine_diagnosis` adds two.

    Attributes
    ----------
    examples : ndarray of shape (k,), float64
        Posterior-weighted examples of each component.
    entropy : float
        Of the posteriors of the labels, natural logarithm, summed over tasks.
    absorption : ndarray of shape (k,), float64
        Log-likelihood lost if a component's weight went to its nearest and it were gone.
    cross : ndarray of shape (k, r, r), float64
        Weighted sum, over ordered pairs of different examples of a component's tasks, of
        ``e v e' v'^T`` with residuals ``e``.
    pairs : ndarray of shape (k,), float64
        Weighted number of those pairs.
    spread : ndarray of shape (k,), float64
        Sum of ``(weight |e v| |e' v'|)^2`` over them: how far `cross` moves by chance.
    """

    examples: NDArray[np.float64]
    entropy: float
    absorption: NDArray[np.float64]
    cross: NDArray[np.float64]
    pairs: NDArray[np.float64]
    spread: NDArray[np.float64]


def diagnosis_from_block(
    block: TaskBlock,
    frame: Frame,
    mixture: Mixture,
    basis: NDArray[np.float64],
    heirs: NDArray[np.int64],
    *,
    part: Part | None = None,
) -> DiagnosisSums:
    """Sum what a block says against a mixture.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    mixture : Mixture
    basis : ndarray of shape (d + 1, r)
        ``v = basis^T a``: white coordinates, in which the residual moments are taken.
    heirs : ndarray of shape (k,)
        The component that each would leave its weight to.
    part : Part, optional
        Only its tasks count.
    """
    k, r = mixture.n_components, basis.shape[1]
    examples, absorption = np.zeros(k), np.zeros(k)
    cross, pairs, spread = np.zeros((k, r, r)), np.zeros(k), np.zeros(k)
    entropy = 0.0
    for piece in block.pieces():
        rows = frame.augment(piece)
        rss = squared_residuals(rows, piece.offsets, mixture.coef)
        shares, _ = posterior(joint_log_likelihood(rss, piece.sizes, mixture))
        counted = tasks_in(part, piece)
        examples += (piece.sizes * counted) @ shares
        entropy += float(entr(shares).sum(axis=1) @ counted)
        absorption += counted @ _absorption(shares, mixture.weights, heirs)
        weights = task_weight(piece.sizes, 1 / k) * counted
        shares = np.where(shares < NEGLIGIBLE, 0, shares) * weights[:, None]
        pairs += (piece.sizes * (piece.sizes - 1.0)) @ shares
        _add_residual_moments(cross, spread, rows, piece, mixture, basis, shares)
    return DiagnosisSums(examples, entropy, absorption, cross, pairs, spread)


def combine_diagnosis(left: DiagnosisSums, right: DiagnosisSums) -> DiagnosisSums:
    """Add two sums."""
    return DiagnosisSums(
        left.examples + right.examples,
        left.entropy + right.entropy,
        left.absorption + right.absorption,
        left.cross + right.cross,
        left.pairs + right.pairs,
        left.spread + right.spread,
    )


def residual_signal(sums: DiagnosisSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the examples of a task still share after its component's regression.

    Without anything to share, `cross` is a symmetric matrix of independent entries of mean zero
    (twice the variance on the diagonal), the largest of whose r eigenvalues stays below ``2 sqrt(r)
    + 3.3 r^(-1/6)`` standard deviations of an entry in 999 of 1000 cases (Tracy and Widom 1996).

    Returns
    -------
    signal : ndarray of shape (k,), float64
        Largest eigenvalue of the second moment of what the coefficients of a component's tasks
        differ by, in squared target units: with two regressions in it, half a unit of distance
        each from their mean, a quarter.
    edge : ndarray of shape (k,), float64
        What noise alone gives, at most.
    """
    r = sums.cross.shape[1]
    pairs = np.maximum(sums.pairs, np.finfo(float).tiny)
    signal = np.linalg.eigvalsh(sums.cross)[:, -1] / pairs
    deviation = np.sqrt(sums.spread) / (r * pairs)
    return signal, deviation * (2 * np.sqrt(r) + 3.3 * r ** (-1 / 6))


def _absorption(
    shares: NDArray[np.float64], weights: NDArray[np.float64], heirs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Loss of every task and component, (n, k): ``-log(1 - g_j + p_j g_h / p_h)``."""
    tiny = np.finfo(float).tiny
    inherited = shares[:, heirs] * (weights / np.maximum(weights[heirs], tiny))
    loss: NDArray[np.float64] = -np.log(np.maximum(1 - shares + inherited, tiny))
    return loss


def _add_residual_moments(
    cross: NDArray[np.float64],
    spread: NDArray[np.float64],
    rows: NDArray[np.floating],
    piece: TaskBlock,
    mixture: Mixture,
    basis: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Add each component's sums over pairs of residuals, in place; weights are (n, k)."""
    v = rows[:, :-1] @ basis.astype(rows.dtype)
    sum_of_task = segment_matrix(piece.offsets, np.ones(len(rows), dtype=rows.dtype))
    for component in np.flatnonzero(weights.any(axis=0)):
        residual = rows[:, -1] - rows[:, :-1] @ mixture.coef[component].astype(rows.dtype)
        root = np.repeat(np.sqrt(weights[:, component]), piece.sizes)
        own = v * (root * residual).astype(rows.dtype)[:, None]
        total = sum_of_task @ own
        cross[component] += total.T @ total - own.T @ own
        lengths = np.einsum("ij,ij->i", own, own)
        spread[component] += np.sum((sum_of_task @ lengths) ** 2) - np.sum(lengths**2)
