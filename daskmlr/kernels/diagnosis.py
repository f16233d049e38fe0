"""What speaks against a fitted mixture: one pass at its parameters.

Two components that their common regression could replace at little loss are one too many. A
component whose own tasks still have coefficients in common, once its regression is taken out of
them, holds more than one: the second moment of `moments`, of residuals and within one component,
then has an eigenvalue above its noise edge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from daskmlr.kernels.assignment import (
    joint_log_likelihood,
    log_add,
    posterior,
    residuals,
    rows_log_likelihood,
    sums_of_squares,
)
from daskmlr.kernels.blocks import (
    crossprod,
    rows_in_piece,
    rows_of_tasks,
    segment_matrix,
    tasks_excluded,
    tasks_in,
)
from daskmlr.kernels.moments import example_signs, task_weight
from daskmlr.kernels.regression import NEGLIGIBLE
from daskmlr.kernels.thin import along

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, Part, TaskBlock

TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class DiagnosisSums:
    """Sums over tasks; `combine_diagnosis` adds two.

    Attributes
    ----------
    examples : ndarray of shape (k,), float64
        Posterior-weighted examples of each component.
    entropy : float
        Of the posteriors of the labels, natural logarithm, summed over tasks.
    merging_loss : ndarray of shape (k,), float64
        Log-likelihood lost if a component and its nearest were replaced by one.
    cross : ndarray of shape (k, r, r), float64
        Weighted sum, over ordered pairs of different examples of a component's tasks, of
        ``e v e' v'^T`` with residuals ``e``.
    null : ndarray of shape (k, r, r), float64
        The same with a random sign for each example.
    pairs : ndarray of shape (k,), float64
        Weighted number of those pairs.
    spread : ndarray of shape (k,), float64
        Sum of ``(weight |e v| |e' v'|)^2`` over them: how far `cross` moves by chance.
    left_out : float
        Log-likelihood of the excluded tasks, each under the pooled regression with a noise of its
        own, no less than the least of a component: what no mixture has to explain, for a price
        that hardly depends on the mixture.
    """

    examples: NDArray[np.float64]
    entropy: float
    merging_loss: NDArray[np.float64]
    cross: NDArray[np.float64]
    null: NDArray[np.float64]
    pairs: NDArray[np.float64]
    spread: NDArray[np.float64]
    left_out: float


def diagnosis_from_block(
    block: TaskBlock,
    frame: Frame,
    mixture: Mixture,
    basis: NDArray[np.float64],
    nearest: NDArray[np.int64],
    merged: Mixture,
    *,
    seed: int,
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
    nearest : ndarray of shape (k,)
        The other component that each might be one with.
    merged : Mixture
        What would replace each and its nearest: k components, their weights those of both.
    seed : int
        Of the random signs.
    part : Part, optional
        Only its tasks count.
    """
    k, r = mixture.n_components, basis.shape[1]
    examples, merging_loss = np.zeros(k), np.zeros(k)
    moments = _ResidualMoments.zeros(k, r)
    others = 1 - np.eye(k) - np.eye(k)[:, nearest]
    entropy, left_out = 0.0, 0.0
    for piece in block.pieces(rows_in_piece(block, 3 * k + 2 * r)):
        covariates, targets = frame.rows(piece)
        residual = residuals(covariates, targets, mixture.coef)
        rss = sums_of_squares(residual, piece.offsets)
        shares, log_likelihood = posterior(joint_log_likelihood(rss, piece.sizes, mixture))
        counted = tasks_in(part, piece)
        if (excluded := tasks_excluded(part, piece)).any():
            square = sums_of_squares(targets, piece.offsets)
            left_out += _explained_alone(
                square[excluded], piece.sizes[excluded], mixture.noise_variance.min()
            )
        examples += (piece.sizes * counted) @ shares
        entropy += float(entr(shares).sum(axis=1) @ counted)
        if k > 1:
            in_one = (
                rows_log_likelihood(covariates, targets, piece, merged) - log_likelihood[:, None]
            )
            in_others = np.log(np.maximum(shares @ others, TINY))
            merging_loss -= counted @ log_add(in_others, in_one)
        weights = task_weight(piece.sizes, 1 / k) * counted
        shares = np.where(shares < NEGLIGIBLE, 0, shares) * weights[:, None]
        moments.pairs += (piece.sizes * (piece.sizes - 1.0)) @ shares
        moments.add(along(covariates, basis), residual, piece, shares, example_signs(piece, seed))
    return DiagnosisSums(
        examples, entropy, merging_loss, moments.cross, moments.null, moments.pairs, moments.spread,
        left_out,
    )  # fmt: skip


def _explained_alone(square: NDArray[np.floating], sizes: NDArray[np.int64], least: float) -> float:
    """Log-likelihood of tasks, each under its own noise variance around zero."""
    variance = np.maximum(square / np.maximum(sizes, 1), least)
    return float(-0.5 * (sizes * np.log(2 * np.pi * variance) + square / variance).sum())


def combine_diagnosis(left: DiagnosisSums, right: DiagnosisSums) -> DiagnosisSums:
    """Add two sums."""
    return DiagnosisSums(
        left.examples + right.examples,
        left.entropy + right.entropy,
        left.merging_loss + right.merging_loss,
        left.cross + right.cross,
        left.null + right.null,
        left.pairs + right.pairs,
        left.spread + right.spread,
        left.left_out + right.left_out,
    )


def residual_signal(sums: DiagnosisSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the examples of a task still share after its component's regression.

    Without anything to share, `cross` is a symmetric matrix of independent entries of mean zero
    (twice the variance on the diagonal), the largest of whose r eigenvalues stays below ``2 sqrt(r)
    + 3.3 r^(-1/6)`` standard deviations of an entry in 999 of 1000 cases (Tracy and Widom 1996).
    Where entries vary unequally, as rare categories make them, `null` says how far it reaches.

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
    pairs = np.maximum(sums.pairs, TINY)
    signal = np.linalg.eigvalsh(sums.cross)[:, -1] / pairs
    deviation = np.sqrt(sums.spread) / (r * pairs)
    edge = deviation * (2 * np.sqrt(r) + 3.3 * r ** (-1 / 6))
    return signal, np.maximum(edge, np.abs(np.linalg.eigvalsh(sums.null)).max(axis=1) / pairs)


@dataclass
class _ResidualMoments:
    """The sums over pairs of residuals, filled in place."""

    cross: NDArray[np.float64]
    null: NDArray[np.float64]
    pairs: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def zeros(cls, k: int, r: int) -> _ResidualMoments:
        return cls(np.zeros((k, r, r)), np.zeros((k, r, r)), np.zeros(k), np.zeros(k))

    def add(
        self,
        v: NDArray[np.floating],
        residual: NDArray[np.floating],
        piece: TaskBlock,
        weights: NDArray[np.float64],
        signs: NDArray[np.int8],
    ) -> None:
        """Add a piece: v is (n_rows, r), residuals are (n_rows, k), weights (n_tasks, k)."""
        component, task = np.nonzero(weights.T)
        index, offsets = rows_of_tasks(piece.sizes, task)
        lengths = piece.sizes[task]
        root = np.repeat(np.sqrt(weights[task, component]), lengths)
        own = v[index]
        own *= (root * residual[index, np.repeat(component, lengths)]).astype(v.dtype)[:, None]
        sum_of_task = segment_matrix(offsets, np.ones(len(own), dtype=own.dtype))
        total = sum_of_task @ own
        signed = segment_matrix(offsets, signs[index].astype(own.dtype)) @ own
        squares = np.einsum("ij,ij->i", own, own)
        spread = (sum_of_task @ squares) ** 2 - sum_of_task @ squares**2
        self.spread += np.bincount(component, spread, minlength=len(self.spread))
        firsts = np.searchsorted(component, np.arange(len(self.cross) + 1))
        for one, (first, last) in enumerate(itertools.pairwise(firsts.tolist())):
            rows = own[offsets[first] : offsets[last]]
            itself = crossprod(rows, rows)
            for target, sums in ((self.cross, total[first:last]), (self.null, signed[first:last])):
                target[one] += crossprod(sums, sums) - itself
