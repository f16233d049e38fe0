"""Tasks in the subspace: what a mixture of regressions can ask of them, small enough to keep.

In the subspace a task is small: the moments of its examples, ``(r, r)``, ``(r,)`` and a sum of
squares, say all that a mixture of regressions can ask of it. They fit memory for thousands of
tasks, so that a search over them can afford many runs of expectation-maximisation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture, joint_log_likelihood, posterior
from daskmlr.kernels.blocks import hash64, rows_of_tasks, segment_matrix
from daskmlr.kernels.outliers import worst_explained
from daskmlr.kernels.thin import along

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, TaskBlock

NOISE_FLOOR = 1e-8
RIDGE = 1e-6
RIDGES_AT_ONCE = 1024


@dataclass(frozen=True)
class ProjectedTasks:
    """Moments of a few tasks in the coordinates ``v = B^T a``; `combine_projected` joins two.

    Attributes
    ----------
    gram : ndarray of shape (n, r (r + 1) / 2), float64
        Upper triangle of ``sum_j v_j v_j^T`` of each task, row by row.
    cross : ndarray of shape (n, r), float64
        ``sum_j r_j v_j``.
    square : ndarray of shape (n,), float64
        ``sum_j r_j^2``.
    size : ndarray of shape (n,), int64
        Examples.
    halves : ndarray of shape (n, n_batches, 2, r), float64
        Mean of ``r v`` over each half of each of `n_batches` disjoint batches of the examples.
    """

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    square: NDArray[np.float64]
    size: NDArray[np.int64]
    halves: NDArray[np.float64]

    def take(self, order: NDArray[np.int64]) -> ProjectedTasks:
        """Return some of the tasks, in that order."""
        return ProjectedTasks(*(getattr(self, f.name)[order] for f in fields(self)))


def select_largest(
    sizes_in_pieces: Callable[[], Iterable[NDArray[np.integer]]], count: int, *, least: int = 0
) -> NDArray[np.int64]:
    """Positions of the `count` largest tasks, ascending; ties are spread over the store.

    Ties are cut into as many runs as are wanted, and one is drawn of each: at even distances they
    could all be of one kind, where kinds follow each other in turn.

    Parameters
    ----------
    sizes_in_pieces : callable
        Returns the sizes of all tasks, some at a time; called twice.
    count : int
    least : int
        Tasks of fewer examples are not chosen.

    Raises
    ------
    InputError
        If `count` is negative.

    Examples
    --------
    >>> sizes = np.array([2, 9, 2, 2, 2])
    >>> select_largest(lambda: [sizes], 3).tolist()
    [1, 2, 4]
    """
    if count < 0:
        raise InputError(f"the number of largest tasks must not be negative, got {count}")
    of_size = np.zeros(1, dtype=np.int64)
    for sizes in sizes_in_pieces():
        counted = np.bincount(sizes, minlength=len(of_size))
        counted[: len(of_size)] += of_size
        of_size = counted
    of_size[:least] = 0
    at_least = of_size[::-1].cumsum()[::-1]
    count = min(count, int(at_least[0]))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    smallest = int(np.flatnonzero(at_least >= count)[-1])
    n_tied = int(of_size[smallest])
    n_larger = int(at_least[smallest]) - n_tied
    wanted = count - n_larger
    bounds = np.linspace(0, n_tied, wanted + 1).astype(np.int64)
    drawn = hash64(np.arange(wanted), 0) % np.diff(bounds).astype(np.uint64)
    spread = bounds[:-1] + drawn.astype(np.int64)
    chosen, n_before, start = [], 0, 0
    for sizes in sizes_in_pieces():
        tied = np.flatnonzero(sizes == smallest)
        first, last = np.searchsorted(spread, [n_before, n_before + len(tied)])
        chosen.append(start + np.flatnonzero(sizes > smallest))
        chosen.append(start + tied[spread[first:last] - n_before])
        n_before += len(tied)
        start += len(sizes)
    return np.sort(np.concatenate(chosen))


def projected_from_block(
    block: TaskBlock,
    frame: Frame,
    basis: NDArray[np.float64],
    positions: NDArray[np.int64],
    *,
    n_batches: int,
) -> ProjectedTasks:
    """Project the tasks of a block that are among `positions` (ascending places in the store).

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    basis : ndarray of shape (d + 1, r)
        ``v = basis^T a``.
    positions : ndarray of int64
    n_batches : int
        Disjoint batches of each task for the paper's median; 0 leaves `halves` empty.
    """
    first, last = np.searchsorted(positions, [block.first_task, block.first_task + block.n_tasks])
    chosen = block.take(positions[first:last] - block.first_task)
    r = basis.shape[1]
    nothing = ProjectedTasks(
        np.empty((0, r * (r + 1) // 2)),
        np.empty((0, r)),
        np.empty(0),
        np.empty(0, dtype=np.int64),
        np.empty((0, n_batches, 2, r)),
    )
    pieces = [_project(piece, frame, basis, n_batches) for piece in chosen.pieces()]
    return reduce(combine_projected, pieces, nothing)


def combine_projected(left: ProjectedTasks, right: ProjectedTasks) -> ProjectedTasks:
    """Join two, in order."""
    return ProjectedTasks(
        **{
            f.name: np.concatenate([getattr(left, f.name), getattr(right, f.name)])
            for f in fields(ProjectedTasks)
        }
    )


def _project(
    block: TaskBlock, frame: Frame, basis: NDArray[np.float64], n_batches: int
) -> ProjectedTasks:
    """Project all tasks of a block."""
    covariates, targets = (part.astype(np.float64) for part in frame.rows(block))
    v = along(covariates, basis)
    n, r, sizes = block.n_tasks, basis.shape[1], block.sizes
    upper = np.triu_indices(r)
    gram = np.empty((n, len(upper[0])))
    for size in np.unique(sizes).tolist():  # products of equally many rows are taken at once
        tasks = np.flatnonzero(sizes == size)
        own = v[rows_of_tasks(sizes, tasks)[0]].reshape(len(tasks), size, r)
        gram[tasks] = (own.transpose(0, 2, 1) @ own)[:, upper[0], upper[1]]
    # of 2 n_batches runs of a task's rows the first ones are longer by one if rows do not divide
    run = np.arange(2 * n_batches)[:, None]
    length, longer = np.divmod(sizes, max(2 * n_batches, 1))
    starts = block.offsets[:-1] + run * length + np.minimum(run, longer)
    ends = np.append(starts.ravel(order="F"), len(v))
    halves = segment_matrix(ends, targets) @ v if n_batches else np.empty((0, r))
    halves /= np.maximum(np.diff(ends), 1)[: len(halves), None]
    return ProjectedTasks(
        gram,
        segment_matrix(block.offsets, targets) @ v,
        segment_matrix(block.offsets, targets) @ targets,
        sizes,
        halves.reshape(n, n_batches, 2, r),
    )


def unpack(triangle: NDArray[np.float64], r: int) -> NDArray[np.float64]:
    """Symmetric matrices from their upper triangles: (n, r (r + 1) / 2) to (n, r, r)."""
    upper, lower = np.triu_indices(r)
    full = np.empty((len(triangle), r, r))
    full[:, upper, lower] = triangle
    full[:, lower, upper] = triangle
    return full


@dataclass(frozen=True)
class Expectation:
    """What a mixture says of the tasks: ``E`` of expectation-maximisation.

    Attributes
    ----------
    posterior : ndarray of shape (n, k), float64
        Of the labels; rows sum to one.
    log_likelihood : ndarray of shape (n,), float64
        Of the projected tasks.
    rss : ndarray of shape (n, k), float64
        Residual sum of squares of every task under every component.
    counted : ndarray of shape (n,), bool
        Whether the task counts: posterior and log-likelihood of one that does not are zero.
    """

    posterior: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    rss: NDArray[np.float64]
    counted: NDArray[np.bool_]


def expectation(tasks: ProjectedTasks, mixture: Mixture, *, trim: float = 0.0) -> Expectation:
    """Posteriors and likelihoods of the tasks, without a share `trim`, the worst explained.

    The trimmed likelihood (Neykov, Filzmoser, Dimova, Neytchev 2007) is that of the others.
    """
    rss = projected_rss(tasks, mixture.coef)
    shares, log_likelihood = posterior(joint_log_likelihood(rss, tasks.size, mixture))
    counted = np.ones(len(rss), dtype=bool)
    if trim:
        counted[worst_explained(rss, tasks.size, mixture)[: int(trim * len(rss))]] = False
        shares[~counted], log_likelihood[~counted] = 0, 0
    return Expectation(shares, log_likelihood, rss, counted)


def run_em(
    tasks: ProjectedTasks, mixture: Mixture, *, max_iter: int, tol: float, trim: float = 0.0
) -> tuple[Mixture, float]:
    """Expectation-maximisation until the mean log-likelihood of an example gains less than `tol`.

    Returns
    -------
    mixture : Mixture
    log_likelihood : float
        Of all tasks that count, at `mixture`.
    """
    n_rows = tasks.size.sum()
    best = -np.inf
    for _ in range(max_iter):
        now = expectation(tasks, mixture, trim=trim)
        value = float(now.log_likelihood.sum())
        if value - best < tol * n_rows:
            return mixture, value
        best = value
        mixture = maximise(tasks, now.posterior)
        if trim:
            mixture = replace(mixture, weights=mixture.weights / now.counted.mean())
    return mixture, float(expectation(tasks, mixture, trim=trim).log_likelihood.sum())


def projected_rss(tasks: ProjectedTasks, coef: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residual sum of squares of every task under every component, shape (n, k)."""
    row, column = np.triu_indices(tasks.cross.shape[1])
    outer = coef[:, row] * coef[:, column]
    outer[:, row != column] *= 2
    # a component after another in memory, as likelihoods are
    rss = outer @ tasks.gram.T
    rss -= (2 * coef) @ tasks.cross.T
    rss += tasks.square
    np.maximum(rss, 0, out=rss)
    return rss.T


def maximise(tasks: ProjectedTasks, shares: NDArray[np.float64]) -> Mixture:
    """Weighted least squares of every component from the tasks' moments.

    Noise variances are drawn towards their mean by as many examples as there are coefficients:
    the likelihood of a component that interpolates a few tasks is then finite, and small.

    Parameters
    ----------
    tasks : ProjectedTasks
    shares : ndarray of shape (n, k)
        How far each task counts for each component.
    """
    r = tasks.cross.shape[1]
    gram = unpack(shares.T @ tasks.gram, r)
    cross = shares.T @ tasks.cross
    square = shares.T @ tasks.square
    rows = np.maximum(shares.T @ tasks.size, np.finfo(float).tiny)
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / r + np.finfo(float).tiny
    coef = np.linalg.solve(gram + ridge[:, None, None] * np.eye(r), cross[:, :, None])[:, :, 0]
    fitted = 2 * np.einsum("kr,kr->k", coef, cross) - np.einsum("kr,krs,ks->k", coef, gram, coef)
    floor = NOISE_FLOOR * tasks.square.sum() / tasks.size.sum() + np.finfo(float).tiny
    rss = np.maximum(square - fitted, 0)
    noise = np.maximum((rss + r * rss.sum() / rows.sum()) / (rows + r), floor)
    return Mixture(coef, noise, shares.mean(axis=0))


def ridge_estimates(
    tasks: ProjectedTasks, prior_variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Posterior mean of each task's coefficients, shape (n, r).

    The noise is what the pooled variance leaves above the prior's.
    """
    variance = np.maximum(prior_variance, 1e-3 * prior_variance.max(initial=1e-12))
    total = tasks.square.sum() / tasks.size.sum()
    noise = max(total - variance.sum(), 0.05 * total, np.finfo(float).tiny)
    penalty = noise * np.diag(1 / variance)
    estimates = np.empty_like(tasks.cross)
    for start in range(0, len(estimates), RIDGES_AT_ONCE):
        some = slice(start, start + RIDGES_AT_ONCE)
        ridged = unpack(tasks.gram[some], len(variance)) + penalty
        estimates[some] = np.linalg.solve(ridged, tasks.cross[some, :, None])[:, :, 0]
    return estimates
