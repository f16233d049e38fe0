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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import hash64, rows_not_excluded, segment_matrix, tasks_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, Part, TaskBlock

ALL_PAIRS = 0
SPLIT = 2


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


def random_signs(keys: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return +1 or -1 for each key, in whatever order they come."""
    return 1.0 - 2.0 * (hash64(keys, seed) >> np.uint64(63)).astype(np.float64)


def example_signs(piece: TaskBlock, seed: int) -> NDArray[np.float64]:
    """Return +1 or -1 for each example, whatever block it lies in; shape (n_rows,)."""
    task, bounds = _group_bounds(piece, ALL_PAIRS)
    return random_signs(_group_keys(piece, task, bounds), seed)


def moments_from_block(
    block: TaskBlock,
    frame: Frame,
    *,
    groups: int,
    signal_share: float,
    seed: int,
    part: Part | None = None,
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
    d = block.n_features
    gram = np.zeros((d + 2, d + 2))
    cross, null = np.zeros((d + 1, d + 1)), np.zeros((d + 1, d + 1))
    pairs = 0.0
    for piece in block.pieces():
        rows = frame.augment(piece)
        included = rows_not_excluded(part, piece)
        sound = rows if included is None else rows[included]
        gram += sound.T @ sound
        sizes = piece.sizes
        weight = np.where(tasks_in(part, piece), task_weight(sizes, signal_share), 0.0)
        root = np.repeat(np.sqrt(weight), sizes) * rows[:, -1]
        task, bounds = _group_bounds(piece, groups)
        sums = _group_sums(rows, root, bounds, groups)
        signs = random_signs(_group_keys(piece, task, bounds), seed)
        per_task = np.searchsorted(task, np.arange(piece.n_tasks + 1))
        for target, sign in ((cross, np.ones_like(signs)), (null, signs)):
            total = segment_matrix(per_task, sign.astype(rows.dtype)) @ sums
            target += total.T @ total
        own = sums.T @ sums
        cross -= own
        null -= own
        pairs += float(weight @ (sizes.astype(np.float64) ** 2))
        pairs -= float(weight[task] @ (np.diff(bounds).astype(np.float64) ** 2))
    n_paired = int(np.count_nonzero((block.sizes > 1) & tasks_in(part, block)))
    return Moments(gram, cross, null, pairs, block.n_rows, block.n_tasks, n_paired)


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
    if moments.n_paired == 0:
        raise InputError(
            f"no task has two examples or more ({moments.n_tasks} tasks, {moments.n_rows} rows): "
            "the regressions cannot be told apart from single examples. "
            "Is the task column the right one?"
        )
    return moments.cross / moments.pairs, moments.null / moments.pairs


def _group_bounds(piece: TaskBlock, groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the task of each group, and the groups' row offsets (one more)."""
    sizes = piece.sizes
    if groups == ALL_PAIRS:
        return np.repeat(np.arange(piece.n_tasks), sizes), np.arange(piece.n_rows + 1)
    task = np.repeat(np.arange(piece.n_tasks), groups)
    part = np.tile(np.arange(1, groups + 1), piece.n_tasks)
    ends = piece.offsets[task] + part * sizes[task] // groups
    return task, np.concatenate([[0], ends])


def _group_sums(
    rows: NDArray[np.floating],
    root: NDArray[np.float64],
    bounds: NDArray[np.int64],
    groups: int,
) -> NDArray[np.floating]:
    """Return ``sqrt(c) T_g`` of each group, shape (n_groups, d + 1), in the rows' dtype."""
    root = root.astype(rows.dtype)
    if groups == ALL_PAIRS:
        return rows[:, :-1] * root[:, None]
    sums: NDArray[np.floating] = segment_matrix(bounds, root) @ rows
    return sums[:, :-1]


def _group_keys(
    piece: TaskBlock, task: NDArray[np.int64], bounds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Key of each group that does not depend on the block: the task's place and the first row."""
    return ((piece.first_task + task) << 24) + (bounds[:-1] - piece.offsets[task])
