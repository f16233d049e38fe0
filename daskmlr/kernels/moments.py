"""First and second moments of all tasks, from one pass: the spectral step's statistic.

With the augmented covariate ``a`` and the target ``r`` of a `Frame`, each task contributes

    G = sum_j [a_j, r_j] [a_j, r_j]^T                    (every task)
    M = c_i sum over pairs of different groups g, g' of T_g T_g'^T,   T_g = sum_{j in g} r_j a_j

With every example a group of its own, ``M`` is the U-statistic over all ordered pairs of different
examples, ``S S^T - sum_j r_j^2 a_j a_j^T``; with two groups it is Algorithm 2 of Kong et al.
(2020, arXiv:2002.08936). Both are unbiased for ``sum_l p_l w_l w_l^T`` in coordinates where the
covariates are white, and both turn into any other coordinates by a congruence, after the pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import (
    add_joint_gram,
    cut_rows,
    hash64,
    rows_in_cache,
    rows_in_piece,
    rows_not_excluded,
    segment_matrix,
    tasks_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, Part, TaskBlock

ALL_PAIRS = 0
SPLIT = 2
WORDS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Moments:
    """Sums over tasks; `combine_moments` adds two.

    Attributes
    ----------
    gram : ndarray of shape (d + 2, d + 2), float64
        ``sum [a, r] [a, r]^T`` over every example, but those of excluded tasks.
    cross : ndarray of shape (d + 1, d + 1), float64
        Weighted sum of ``M`` over the tasks with two examples or more.
    null : ndarray of shape (d + 1, d + 1), float64
        The same with a random sign for each group: its expectation is zero, its fluctuation
        that of `cross`, so its largest eigenvalue is the edge of the noise.
    pairs : float
        Weighted number of ordered pairs in `cross`.
    n_rows, n_tasks, n_paired : int
        Examples, tasks, and tasks with two examples or more that count.
    """

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    null: NDArray[np.float64]
    pairs: float
    n_rows: int
    n_tasks: int
    n_paired: int

    @classmethod
    def zeros(cls, d: int) -> Moments:
        """Return the sum over no task."""
        square = (d + 1, d + 1)
        return cls(np.zeros((d + 2, d + 2)), np.zeros(square), np.zeros(square), 0.0, 0, 0, 0)


def task_weight(sizes: NDArray[np.int64], signal_share: float) -> NDArray[np.float64]:
    """Weight of a task's pairs by its size: inverse to the variance of its contribution.

    With ``rho^2`` the variance of ``r`` and ``v = signal_share * rho^2`` the squared coefficient
    along one direction, the entries of a task's sum over ``t (t - 1)`` pairs have variance
    proportional to ``t (t - 1) (2 rho^4 + 4 rho^2 v (t - 1) + v^2 t (t - 1))``. The weight
    saturates, so that no single very large task dominates. Zero for a task without a pair.
    """
    t = np.maximum(sizes, 1).astype(np.float64)
    v = signal_share
    return np.where(t > 1, 1 / (2 + 4 * v * (t - 1) + v * v * t * (t - 1)), 0.0)


def random_signs(keys: NDArray[np.int64], seed: int) -> NDArray[np.int8]:
    """Return +1 or -1 for each key, in whatever order they come."""
    return 1 - 2 * (hash64(keys, seed) >> np.uint64(63)).astype(np.int8)


def example_signs(piece: TaskBlock, seed: int) -> NDArray[np.int8]:
    """Return +1 or -1 for each example, whatever block it lies in; shape (n_rows,).

    Each 64 examples of a task take theirs from the bits of one hash.
    """
    sizes = piece.sizes
    n_words = (sizes + 63) >> 6
    task = np.repeat(np.arange(piece.n_tasks), n_words)
    word = np.arange(len(task)) - np.repeat(np.cumsum(n_words) - n_words, n_words)
    bits = hash64(((piece.first_task + task) << 24) + word, seed)
    lengths = np.minimum(sizes[task] - (word << 6), 64).astype(np.uint8)
    octets = bits.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    picked = [np.zeros(0, dtype=np.uint8)]
    for start in range(0, len(bits), WORDS_AT_ONCE):  # one of few examples takes as much room
        some = slice(start, start + WORDS_AT_ONCE)
        longest = lengths[some].max()
        drawn = np.unpackbits(octets[some], axis=1, count=int(longest), bitorder="little")
        picked.append(drawn[np.arange(longest, dtype=np.uint8) < lengths[some, None]])
    signs: NDArray[np.int8] = 1 - 2 * np.concatenate(picked).view(np.int8)
    return signs


def moments_from_block(
    block: TaskBlock,
    frame: Frame,
    *,
    groups: int,
    signal_share: float,
    seed: int,
    part: Part | None = None,
    onto: Moments | None = None,
) -> Moments:
    """Sum the moments of one block.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    groups : int
        Groups per task: `ALL_PAIRS` makes every example its own group, `SPLIT` halves each task.
        A fraction ``1 - 1/g`` of the pairs is used; the cost falls from ``(t + 1) d^2`` to
        ``(g + 1) d^2`` multiplications per task.
    signal_share : float
        See `task_weight`.
    seed : int
        Of the random signs of the null.
    part : Part, optional
        Only its tasks count for `cross` and `null`; excluded ones do not count for `gram` either.
    onto : Moments, optional
        The sum of other blocks, to add to; its arrays are used again.

    Raises
    ------
    InputError
        If `groups` is 1 or negative.

    Examples
    --------
    >>> from daskmlr.kernels.blocks import Frame, TaskBlock
    >>> block = TaskBlock(np.ones((4, 1)), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 2, 4]))
    >>> frame = Frame(np.zeros(1), np.ones(1), np.zeros(2))
    >>> m = moments_from_block(block, frame, groups=ALL_PAIRS, signal_share=0.0, seed=0)
    >>> round(float(m.cross[0, 0]), 6)  # half of 2 * (1 * 2) + 2 * (3 * 4)
    14.0
    """
    if groups < 0 or groups == 1:
        raise InputError(
            f"groups must be 0 (all pairs) or at least 2 (2 is the paper's split), got {groups}: "
            "a single group has no pairs"
        )
    total = Moments.zeros(block.n_features) if onto is None else onto
    own = np.zeros_like(total.cross)
    pairs = total.pairs
    for piece in block.pieces(rows_in_piece(block)):
        covariates, targets = frame.rows(piece)
        _add_gram(total.gram, covariates, targets, rows_not_excluded(part, piece))
        sizes = piece.sizes
        weight = np.where(tasks_in(part, piece), task_weight(sizes, signal_share), 0.0)
        root = np.repeat(np.sqrt(weight), sizes)
        root *= targets
        squares = _add_pairs(
            total, own, piece, covariates, root.astype(targets.dtype), groups, seed
        )
        pairs += float(weight @ (sizes.astype(np.float64) ** 2 - squares))
    for moment in (total.cross, total.null):
        moment -= own
    return replace(
        total,
        pairs=pairs,
        n_rows=total.n_rows + block.n_rows,
        n_tasks=total.n_tasks + block.n_tasks,
        n_paired=total.n_paired + int(np.count_nonzero((block.sizes > 1) & tasks_in(part, block))),
    )


def combine_moments(left: Moments, right: Moments) -> Moments:
    """Add two sums."""
    return Moments(
        left.gram + right.gram,
        left.cross + right.cross,
        left.null + right.null,
        left.pairs + right.pairs,
        left.n_rows + right.n_rows,
        left.n_tasks + right.n_tasks,
        left.n_paired + right.n_paired,
    )


def finalise_moments(moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unbiased second moment and its null, each of shape (d + 1, d + 1).

    Raises
    ------
    InputError
        If no task has two examples.
    """
    check_pairs(moments.n_paired, moments.n_tasks, moments.n_rows)
    return moments.cross / moments.pairs, moments.null / moments.pairs


def check_pairs(n_paired: int, n_tasks: int, n_rows: int) -> None:
    """Refuse tasks none of which has two examples."""
    if n_paired == 0:
        raise InputError(
            f"no task has two examples or more ({n_tasks} tasks, {n_rows} rows): "
            "the regressions cannot be told apart from single examples. "
            "Is the task column the right one?"
        )


def group_bounds(
    piece: TaskBlock, groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cut the tasks of a piece into groups.

    Returns
    -------
    bounds : ndarray of shape (n_groups + 1,), int64
        First row of each group, and the number of rows.
    starts : ndarray of shape (n_tasks + 1,), int64
        First group of each task, and their number.
    squares : ndarray of shape (n_tasks,), float64
        Sum of the squared sizes of a task's groups.
    """
    sizes = piece.sizes
    if groups == ALL_PAIRS:
        return np.arange(piece.n_rows + 1), piece.offsets, sizes.astype(np.float64)
    inner = np.arange(groups + 1)[:, None] * sizes // groups
    bounds = np.append((piece.offsets[:-1] + inner[:-1]).ravel(order="F"), piece.n_rows)
    squares = np.square(np.diff(inner, axis=0).astype(np.float64)).sum(axis=0)
    return bounds, np.arange(piece.n_tasks + 1) * groups, squares


def group_signs(piece: TaskBlock, groups: int, seed: int) -> NDArray[np.int8]:
    """Return +1 or -1 for each group, whatever block it lies in."""
    if groups == ALL_PAIRS:
        return example_signs(piece, seed)
    task = piece.first_task + np.arange(piece.n_tasks)
    return random_signs(((task << 24)[:, None] + np.arange(groups)).ravel(), seed)


def _add_gram(
    total: NDArray[np.float64],
    covariates: NDArray[np.floating],
    targets: NDArray[np.floating],
    included: NDArray[np.bool_] | None,
) -> None:
    """Add ``sum [1, x, r] [1, x, r]^T`` over the rows included, all by default."""
    if included is not None:
        covariates, targets = covariates[included], targets[included]
    thin = np.ones((len(targets), 2), dtype=targets.dtype)
    thin[:, 1] = targets
    add_joint_gram(total, _in_cache(covariates, thin))


def _add_pairs(
    total: Moments,
    own: NDArray[np.float64],
    piece: TaskBlock,
    covariates: NDArray[np.floating],
    root: NDArray[np.floating],
    groups: int,
    seed: int,
) -> NDArray[np.float64]:
    """Add all pairs of groups to `total`, those of a group with itself included, and them to `own`.

    Parameters
    ----------
    root : ndarray of shape (n_rows,)
        ``sqrt(c) r``.

    Returns
    -------
    ndarray of shape (n_tasks,), float64
        Sum of the squared sizes of a task's groups.
    """
    bounds, starts, squares = group_bounds(piece, groups)
    if groups == ALL_PAIRS:  # the sum of a group is a row, and need not be kept
        add_joint_gram(own, _scaled(covariates, root))
        wide, thin, factor = covariates, np.ones_like(root), root
    else:
        summing = segment_matrix(bounds, root)
        wide, thin = summing @ covariates, summing @ np.ones_like(root)
        factor = np.ones_like(thin)
        add_joint_gram(own, _in_cache(wide, thin[:, None]))
    summing = segment_matrix(starts, factor)
    signed = factor * group_signs(piece, groups, seed)
    for moment, weights in ((total.cross, factor), (total.null, signed)):
        summing.data = weights
        add_joint_gram(moment, _in_cache(summing @ wide, (summing @ thin)[:, None]))
    return squares


def _in_cache(
    wide: NDArray[np.floating], thin: NDArray[np.floating]
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    for rows in cut_rows(0, len(wide), wide):
        yield wide[rows], thin[rows]


def _scaled(
    wide: NDArray[np.floating], factor: NDArray[np.floating]
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Yield the rows ``factor [wide, 1]``, in memory that each piece takes from the last."""
    room = np.empty((rows_in_cache(wide), wide.shape[1]), dtype=wide.dtype)
    for rows in cut_rows(0, len(wide), wide):
        thin = factor[rows, None]
        yield np.multiply(wide[rows], thin, out=room[: len(thin)]), thin
