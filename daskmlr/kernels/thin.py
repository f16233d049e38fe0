"""Many features: products of the moments with a few directions, never the moments themselves.

A pass over the tasks gives ``G Z``, ``M Z`` and ``N Y`` for thin ``Z`` and ``Y``, with the second
moment of the covariates ``G``, that of the coefficients ``M`` and its null ``N`` of `moments`: of
the order of ``d`` numbers for each direction where the matrices have ``d^2``. Once directions are
found, a `SubspaceFrame` turns the problem into one of as many features as there are directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.kernels.assignment import posterior, rows_log_likelihood
from daskmlr.kernels.blocks import Frame, rows_not_excluded, segment_matrix, tasks_in
from daskmlr.kernels.moments import check_pairs, group_bounds, group_signs, task_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Part, TaskBlock

# A direction that varies by less than this share of its square is the intercept.
CONSTANT = 1e-5


@dataclass(frozen=True)
class SubspaceFrame(Frame):
    """A frame of few covariates, ``v = basis^T a``, of those of a wide one.

    Attributes
    ----------
    basis : ndarray of shape (d + 1, r), float64
        Acts on ``a = [1, (x - shift) / scale]``. `offset` is the target's mean alone.
    """

    basis: NDArray[np.float64]

    @classmethod
    def of(cls, frame: Frame, basis: NDArray[np.float64]) -> SubspaceFrame:
        """Return the frame of ``v = basis^T a`` with ``a`` as in another frame."""
        return cls(frame.shift, frame.scale, frame.offset, basis)

    def rows(self, block: TaskBlock) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return ``v`` and ``r`` of every row, in the block's dtype."""
        covariates, targets = super().rows(block)
        return along(covariates, self.basis), targets

    @property
    def whole(self) -> Frame:
        """The frame of all covariates."""
        return Frame(self.shift, self.scale, self.offset)

    def wide(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn coefficients on ``[1, v]``, shape (k, r + 1), into those on ``a``."""
        found = coef[:, 1:] @ self.basis.T
        found[:, 0] += coef[:, 0]
        return found

    def to_user(self, coef: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn coefficients on ``[1, v]`` into slopes and intercepts in the user's units."""
        return super().to_user(self.wide(coef))

    def from_user(
        self, slopes: NDArray[np.float64], intercepts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Inverse of `to_user` for what lies in the subspace; the nearest in it, of the rest."""
        whole = super().from_user(slopes, intercepts)
        inner = np.linalg.lstsq(self.basis[1:], whole[:, 1:].T)[0].T
        return np.column_stack([whole[:, 0] - inner @ self.basis[0], inner])


def direction_names(n_directions: int) -> tuple[str, ...]:
    """Names of the covariates of a subspace, for messages."""
    return tuple(f"direction {i}" for i in range(n_directions))


@dataclass(frozen=True)
class ThinMoments:
    """Sums over tasks; `combine_thin` adds two.

    Attributes
    ----------
    gram : ndarray of shape (d + 1, m + q), float64
        ``G [Z, Y]``: ``sum a a^T`` over every example, but those of excluded tasks.
    cross : ndarray of shape (d + 1, m), float64
        ``M Z``, weighted as `Moments.cross`.
    null : ndarray of shape (d + 1, q), float64
        ``N Y``, as `Moments.null`.
    total : ndarray of shape (d + 1,), float64
        ``sum a``, over the examples of `gram`.
    pairs : float
        Weighted number of ordered pairs in `cross`.
    n_paired, n_tasks, n_rows : int
        Tasks with two examples or more that count; all tasks and examples.
    """

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    null: NDArray[np.float64]
    total: NDArray[np.float64]
    pairs: float
    n_paired: int
    n_tasks: int
    n_rows: int


def thin_from_block(
    block: TaskBlock,
    frame: Frame,
    directions: NDArray[np.float64],
    null_directions: NDArray[np.float64],
    *,
    groups: int,
    signal_share: float,
    seed: int,
    part: Part | None = None,
) -> ThinMoments:
    """Multiply the moments of one block by a few directions.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    directions, null_directions : ndarray of shape (d + 1, m) and (d + 1, q)
        ``Z`` and ``Y``; they act on ``a``.
    groups, signal_share, seed, part
        As for `moments_from_block`. Cost: ``2 n_rows d (3 m + 3 q)`` operations, whatever `groups`.
    """
    d, m = block.n_features, directions.shape[1]
    both = np.column_stack([directions, null_directions])
    products = np.zeros((d + 1, 2 * both.shape[1]))
    total, pairs = np.zeros(d + 1), 0.0
    for piece in block.pieces():
        covariates, targets = frame.rows(piece)
        projected = along(covariates, both)
        sizes = piece.sizes
        weight = np.where(tasks_in(part, piece), task_weight(sizes, signal_share), 0.0)
        root = (np.repeat(np.sqrt(weight), sizes) * targets).astype(targets.dtype)
        bounds, starts, squares = group_bounds(piece, groups)
        signs = group_signs(piece, groups, seed).astype(root.dtype)[:, None]
        sums = segment_matrix(bounds, root) @ projected
        sums[:, m:] *= signs
        others = _sum_of_others(sums, starts)
        others[:, m:] *= signs
        by_row = np.repeat(others, np.diff(bounds), axis=0) * root[:, None]
        in_gram = rows_not_excluded(part, piece)
        ones = np.ones_like(targets)
        if in_gram is not None:
            ones *= in_gram
            projected *= in_gram[:, None]
        right = np.hstack([projected, by_row])
        products[1:] += covariates.T @ right
        products[0] += right.sum(axis=0, dtype=np.float64)
        total[1:] += ones @ covariates
        total[0] += ones.sum(dtype=np.float64)
        pairs += float(weight @ (sizes.astype(np.float64) ** 2 - squares))
    gram, cross, null = np.split(products, [both.shape[1], both.shape[1] + m], axis=1)
    n_paired = int(np.count_nonzero((block.sizes > 1) & tasks_in(part, block)))
    return ThinMoments(gram, cross, null, total, pairs, n_paired, block.n_tasks, block.n_rows)


def combine_thin(left: ThinMoments, right: ThinMoments) -> ThinMoments:
    """Add two sums."""
    return ThinMoments(
        left.gram + right.gram,
        left.cross + right.cross,
        left.null + right.null,
        left.total + right.total,
        left.pairs + right.pairs,
        left.n_paired + right.n_paired,
        left.n_tasks + right.n_tasks,
        left.n_rows + right.n_rows,
    )


def finalise_thin(
    sums: ThinMoments,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return ``E[a a^T] [Z, Y]``, the unbiased ``M Z``, the null ``N Y``, and ``E[a]``.

    Raises
    ------
    InputError
        If no task has two examples.
    """
    check_pairs(sums.n_paired, sums.n_tasks, sums.n_rows)
    n = sums.total[0]
    return sums.gram / n, sums.cross / sums.pairs, sums.null / sums.pairs, sums.total / n


def centred_basis(
    vectors: NDArray[np.float64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Part directions into what varies and the intercept.

    Parameters
    ----------
    vectors : ndarray of shape (d + 1, r)
        ``v = vectors^T a`` with ``E[v v^T] = I``.
    mean : ndarray of shape (d + 1,)
        Of ``a``.

    Returns
    -------
    basis : ndarray of shape (d + 1, s), s at most r
        ``u = basis^T a`` has mean zero and covariance one.
    mixing : ndarray of shape (s + 1, r)
        ``v = mixing^T [1, u]``: orthonormal columns.
    """
    means = vectors.T @ mean
    values, rotation = np.linalg.eigh(np.eye(len(means)) - np.outer(means, means))
    varies = values > CONSTANT
    scales = np.sqrt(values[varies])
    rotation = rotation[:, varies]
    basis = vectors @ (rotation / scales)
    basis[0] -= (means @ rotation) / scales
    return basis, np.vstack([means, (rotation * scales).T])


def varying(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal combinations of covariates that are not constant.

    Parameters
    ----------
    gram : ndarray of shape (r + 1, r + 1)
        ``sum [1, v] [1, v]^T``.

    Returns
    -------
    ndarray of shape (r, s), s at most r
    """
    covariance = gram[1:, 1:] - np.outer(gram[0, 1:], gram[0, 1:]) / gram[0, 0]
    values, vectors = np.linalg.eigh(covariance)
    kept: NDArray[np.float64] = vectors[:, values > CONSTANT * values[-1]]
    return kept


def gradients_from_block(
    block: TaskBlock, frame: Frame, mixture: Mixture, *, part: Part | None = None
) -> NDArray[np.float64]:
    """Sum, for each component, how its tasks' residuals still go with the covariates.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    mixture : Mixture
        On ``a``.
    part : Part, optional
        Only its tasks count.

    Returns
    -------
    ndarray of shape (d + 1, k), float64
        ``sum_i share_il sum_j (r_j - a_j w_l) a_j``: proportional to the gradient of the
        log-likelihood with respect to ``w_l``. Cost: ``4 n_rows d k`` operations.
    """
    total = np.zeros((block.n_features + 1, mixture.n_components))
    for piece in block.pieces():
        covariates, targets = frame.rows(piece)
        shares = posterior(rows_log_likelihood(covariates, targets, piece, mixture))[0]
        shares *= tasks_in(part, piece)[:, None]
        residual = targets[:, None] - along(covariates, mixture.coef.T)
        residual *= np.repeat(shares.astype(targets.dtype), piece.sizes, axis=0)
        total[1:] += covariates.T @ residual
        total[0] += residual.sum(axis=0, dtype=np.float64)
    return total


def along(
    covariates: NDArray[np.floating], directions: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Return ``a^T directions`` of every row, in the dtype of the covariates."""
    dtype = covariates.dtype
    projected: NDArray[np.floating] = covariates @ directions[1:].astype(dtype, order="C")
    projected += directions[0].astype(dtype)
    return projected


def _sum_of_others(sums: NDArray[np.floating], starts: NDArray[np.int64]) -> NDArray[np.floating]:
    """Sum over the other groups of each group's task, from the sums of the groups."""
    of_task = segment_matrix(starts, np.ones(len(sums), dtype=sums.dtype)) @ sums
    others: NDArray[np.floating] = np.repeat(of_task, np.diff(starts), axis=0) - sums
    return others
