"""The subspace filter: leave out what is extreme along the directions it itself brought in.

The double filter of Kong, Somani, Kakade, Oh (2020, arXiv:2006.09702, Algorithm 2). Corrupted
samples that turn the top eigenvectors must be large along them, so the mean of the projected
scores rises above that of the bulk; then the largest scores go, and the eigenvectors are computed
again. Here the cut is deterministic, and the scores are those of samples or of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import segment_matrix, tasks_in
from daskmlr.kernels.moments import task_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, Part, TaskBlock

# The cut, as a share of the largest excess over the bulk's mean. The paper draws it uniformly;
# low draws cost many good samples, and a fixed high share takes the far cluster in one round.
CUT = 0.7
# A Gaussian's own tail may rise this much above its expectation.
SLACK = 1.1
MAX_ROUNDS = 50


@dataclass(frozen=True)
class Extremes:
    """The largest scores, and sums over the others; `combine_extremes` joins two.

    Attributes
    ----------
    score, position : ndarray of shape (m,), float64 and int64
        The at most `most` largest scores, descending, and whose they are; ties by position.
    most : int
    rest : int
        Number of the other scores.
    total, square : float
        Their sum and sum of squares.
    """

    score: NDArray[np.float64]
    position: NDArray[np.int64]
    most: int
    rest: int
    total: float
    square: float

    @property
    def count(self) -> int:
        """Number of all scores."""
        return self.rest + len(self.score)

    def keep(self, most: int) -> Extremes:
        """Count all but the `most` largest among the others."""
        other = self.score[most:]
        return Extremes(
            self.score[:most],
            self.position[:most],
            most,
            self.rest + len(other),
            self.total + float(other.sum()),
            self.square + float(other @ other),
        )


def extremes(score: NDArray[np.float64], position: NDArray[np.int64], most: int) -> Extremes:
    """Keep the largest scores of some, and sums over the others."""
    order = np.lexsort((position, -score))
    return Extremes(score[order], position[order], len(score), 0, 0.0, 0.0).keep(most)


def combine_extremes(left: Extremes, right: Extremes) -> Extremes:
    """Join two; the order in which scores come makes no difference to which are kept."""
    score = np.concatenate([left.score, right.score])
    position = np.concatenate([left.position, right.position])
    order = np.lexsort((position, -score))
    joined = Extremes(
        score[order],
        position[order],
        len(score),
        left.rest + right.rest,
        left.total + right.total,
        left.square + right.square,
    )
    return joined.keep(left.most)


def double_filter(found: Extremes, fraction: float, tolerance: float) -> NDArray[np.int64]:
    """Choose whom to leave out: nobody, if the mean of the scores is near that of their bulk.

    The bulk is what remains without the largest scores, a share `fraction` of all (first filter).
    While they raise the mean by more than `tolerance` standard deviations of the bulk, those of
    them go whose excess over the bulk's mean is near the largest (second filter).

    Parameters
    ----------
    found : Extremes
        With at least ``ceil(fraction * count)`` scores.
    fraction : float
    tolerance : float

    Returns
    -------
    ndarray of int64
        Positions, ascending.

    Examples
    --------
    >>> scores = np.r_[np.random.default_rng(0).exponential(size=999), 500.0]
    >>> double_filter(extremes(scores, np.arange(1000), 10), 0.01, 0.1).tolist()
    [999]
    """
    m = int(np.ceil(fraction * found.count))
    if m == 0 or m >= found.count:
        return np.zeros(0, dtype=np.int64)
    found = found.keep(m)
    bulk = found.total / found.rest
    spread = np.sqrt(max(found.square / found.rest - bulk**2, 0.0))
    excess = found.score - bulk
    kept_excess = excess[::-1].cumsum()[::-1]  # of those from each place on
    allowed = tolerance * spread * (found.rest + np.arange(m, 0, -1))
    cut = 0
    while cut < m and kept_excess[cut] > allowed[cut]:
        cut = int(np.searchsorted(-excess, -CUT * excess[cut], side="right"))
    return np.sort(found.position[:cut])


def gaussian_tolerance(fraction: float, n_directions: int) -> float:
    """How far the tail of ``chi2_k`` raises its mean, in standard deviations of its bulk.

    The score of a Gaussian sample, ``|U^T x|^2``, is of that law up to a factor.
    """
    k, cut = n_directions, chi2.isf(fraction, n_directions)
    mean, square = (
        (moment * (1 - chi2.sf(cut, k + shift))) / (1 - fraction)
        for moment, shift in ((k, 2), (k * (k + 2), 4))
    )
    return float(SLACK * (k - mean) / np.sqrt(square - mean**2))


def robust_subspace(
    X: NDArray[np.floating], n_directions: int, *, fraction: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Top principal directions of samples of which a fraction is corrupted.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Centred; near Gaussian along any direction, but for the corrupted ones.
    n_directions : int
        At most d.
    fraction : float
        At least the share of corrupted samples; between 0 and 0.5.

    Returns
    -------
    directions : ndarray of shape (d, n_directions), orthonormal columns
    kept : ndarray of shape (n,), bool

    Raises
    ------
    InputError
        If `fraction` or `n_directions` is out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(5000, 3)) * [2, 1, 1]
    >>> X[:50] = [0, 0, 40]
    >>> U, kept = robust_subspace(X, 1, fraction=0.02)
    >>> bool(abs(U[0, 0]) > 0.99), int(kept[:50].sum())
    (True, 0)
    """
    check_fraction("fraction", fraction)
    if not 1 <= n_directions <= X.shape[1]:
        raise InputError(f"n_directions must be between 1 and {X.shape[1]}, got {n_directions}")
    kept = np.ones(len(X), dtype=bool)
    tolerance = gaussian_tolerance(fraction, n_directions)
    for _ in range(MAX_ROUNDS):
        directions = _top_directions(X[kept], n_directions)
        places = np.flatnonzero(kept)
        scores = ((X[kept] @ directions) ** 2).sum(axis=1).astype(np.float64)
        found = extremes(scores, places, int(np.ceil(fraction * len(places))))
        extreme = double_filter(found, fraction, tolerance)
        if extreme.size == 0:
            break
        kept[extreme] = False
    return directions, kept


def pair_scores(
    block: TaskBlock,
    frame: Frame,
    basis: NDArray[np.float64],
    *,
    signal_share: float,
    most: int,
    part: Part | None,
) -> Extremes:
    """Score the tasks of a block by what they bring to the second moment along the subspace.

    With ``v = basis^T a``, the sum over pairs of different examples of ``r_j r_j' v_j . v_j'``,
    divided by its standard deviation (up to a factor) for a task of the size: an unbiased
    estimate of the squared length of the task's coefficients there. The score is its magnitude.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    basis : ndarray of shape (d + 1, r)
    signal_share : float
        See `task_weight`.
    most : int
        Scores to keep.
    part : Part or None
        Only its tasks count; nor does a task without a pair.
    """
    parts = []
    for piece in block.pieces():
        rows = frame.augment(piece)
        pulled = (rows[:, :-1] @ basis.astype(rows.dtype)).astype(np.float64)
        pulled *= rows[:, -1:]
        sums = segment_matrix(piece.offsets, np.ones(len(rows))) @ np.column_stack(
            [pulled, (pulled**2).sum(axis=1)]
        )
        t = piece.sizes.astype(np.float64)
        scale = np.sqrt(task_weight(piece.sizes, signal_share) / np.maximum(t * (t - 1), 1))
        counted = np.flatnonzero(tasks_in(part, piece) & (t > 1))
        scores = np.abs((sums[:, :-1] ** 2).sum(axis=1) - sums[:, -1]) * scale
        parts.append((scores[counted], piece.first_task + counted))
    score, position = (np.concatenate(p) for p in zip(*parts, strict=True)) if parts else ((), ())
    return extremes(np.asarray(score, dtype=np.float64), np.asarray(position, dtype=np.int64), most)


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a fraction of corrupted tasks or samples that no method could bear.

    Raises
    ------
    InputError
    """
    if not 0 < fraction < 0.5:
        raise InputError(
            f"{name} bounds the corrupted share and must be between 0 and 0.5, got {fraction}: "
            "half or more could not be told from the rest"
        )


def _top_directions(X: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    vectors: NDArray[np.float64] = np.linalg.eigh((X.T @ X).astype(np.float64))[1]
    return vectors[:, : -k - 1 : -1]
