"""First components, from the largest tasks projected onto the subspace.

In the subspace a task is small: the moments of its examples, ``(r, r)``, ``(r,)`` and a sum of
squares, say all that a mixture of regressions can ask of it. They fit memory for thousands of
tasks, so the search for the components can afford restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.cluster.hierarchy
import scipy.spatial.distance

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture, joint_log_likelihood, posterior
from daskmlr.kernels.metrics import coefficient_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, TaskBlock

NOISE_FLOOR = 1e-8
RIDGE = 1e-6
MIN_RESTARTS = 8
# Restarts agree when an example's likelihoods differ by less than so many tolerances.
AGREEMENT = 10
# Components are the same when they are closer than this share of the noise's deviation.
SAME_COMPONENT = 0.1


@dataclass(frozen=True)
class ProjectedTasks:
    """Moments of a few tasks in the coordinates ``v = B^T a``; `combine_projected` joins two.

    Attributes
    ----------
    gram : ndarray of shape (n, r, r), float64
        ``sum_j v_j v_j^T`` of each task.
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


def select_largest(sizes: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest tasks, ascending; ties are spread evenly over the store.

    Raises
    ------
    InputError
        If `count` is negative.

    Examples
    --------
    >>> select_largest(np.array([2, 9, 2, 2, 2]), 3).tolist()
    [0, 1, 3]
    """
    if count < 0:
        raise InputError(f"the number of largest tasks must not be negative, got {count}")
    if count == 0 or count >= len(sizes):
        return np.arange(min(count, len(sizes)))
    smallest = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    larger = np.flatnonzero(sizes > smallest)
    tied = np.flatnonzero(sizes == smallest)
    spread = np.linspace(0, len(tied), count - len(larger), endpoint=False).astype(np.int64)
    return np.sort(np.concatenate([larger, tied[spread]]))


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
    parts = [
        _project_task(block.tasks(i, i + 1), frame, basis, n_batches)
        for i in (positions[first:last] - block.first_task).tolist()
    ]
    r = basis.shape[1]
    return ProjectedTasks(
        np.array([p[0] for p in parts]).reshape(-1, r, r),
        np.array([p[1] for p in parts]).reshape(-1, r),
        np.array([p[2] for p in parts], dtype=np.float64),
        np.array([p[3] for p in parts], dtype=np.int64),
        np.array([p[4] for p in parts]).reshape(len(parts), n_batches, 2, r),
    )


def combine_projected(left: ProjectedTasks, right: ProjectedTasks) -> ProjectedTasks:
    """Join two, in order."""
    return ProjectedTasks(
        **{
            f.name: np.concatenate([getattr(left, f.name), getattr(right, f.name)])
            for f in fields(ProjectedTasks)
        }
    )


def _project_task(
    task: TaskBlock, frame: Frame, basis: NDArray[np.float64], n_batches: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, int, NDArray[np.float64]]:
    rows = frame.augment(task).astype(np.float64)
    v, target = rows[:, :-1] @ basis, rows[:, -1]
    parts = np.array_split(target[:, None] * v, max(2 * n_batches, 1))[: 2 * n_batches]
    halves = [part.sum(axis=0) / max(len(part), 1) for part in parts]
    return v.T @ v, v.T @ target, float(target @ target), task.n_rows, np.array(halves)


@dataclass(frozen=True)
class Clustering:
    """First components in the subspace.

    Attributes
    ----------
    mixture : Mixture
        `coef` is of shape (k, r), on ``v``.
    log_likelihoods : ndarray of shape (n_restarts,), float64
        Projected log-likelihood each restart ended at, best first; empty for the linkage.
    agreed : bool
        Whether the two best restarts ended at the same components; True for the linkage.
    """

    mixture: Mixture
    log_likelihoods: NDArray[np.float64]
    agreed: bool


def cluster_by_em(
    tasks: ProjectedTasks,
    n_components: int,
    prior_variance: NDArray[np.float64],
    *,
    n_restarts: int,
    rng: np.random.Generator,
    max_iter: int = 100,
    tol: float = 1e-5,
) -> Clustering:
    """Fit the mixture of regressions to the projected tasks, from several seedings.

    Each restart seeds by k-means++ on the tasks' ridge estimates, then runs
    expectation-maximisation on the projected likelihood; the likeliest restart is kept. There are
    at least `MIN_RESTARTS`, then more until the best components have been found twice.

    Parameters
    ----------
    tasks : ProjectedTasks
    n_components : int
        At most the number of tasks.
    prior_variance : ndarray of shape (r,)
        Variance of the coefficients along each direction (the eigenvalues of the subspace),
        which shrinks the tasks' ridge estimates.
    n_restarts : int
        At most.
    rng : numpy Generator
    max_iter : int
    tol : float
        Stops when the mean log-likelihood of an example gains less.

    Raises
    ------
    InputError
        If there are fewer tasks than components, or less than one restart.
    """
    if n_restarts < 1:
        raise InputError(f"n_restarts must be at least 1, got {n_restarts}")
    n = len(tasks.size)
    if n < n_components:
        raise InputError(
            f"{n_components} components need at least as many tasks with two examples or more, "
            f"got {n}"
        )
    estimates, precision = _ridge_estimates(tasks, prior_variance)
    results: list[tuple[Mixture, float]] = []
    while len(results) < n_restarts and not (
        len(results) >= MIN_RESTARTS and _agree(results, AGREEMENT * tol * tasks.size.sum())
    ):
        seeds = _seed(estimates, precision, n_components, rng)
        results.append(_run_em(tasks, _start_from(tasks, estimates[seeds]), max_iter, tol))
        results.sort(key=lambda result: -result[1])
    return Clustering(
        results[0][0],
        np.array([value for _, value in results]),
        _agree(results, AGREEMENT * tol * tasks.size.sum()),
    )


def _agree(results: list[tuple[Mixture, float]], tolerance: float) -> bool:
    """Whether the two best restarts ended at the same likelihood and the same components.

    Likelihoods alone do not tell: two optima may lie closer than the tolerance.
    """
    if len(results) < 2 or results[0][1] - results[1][1] > tolerance:
        return False
    best, second = results[0][0], results[1][0]
    apart = coefficient_error(second.coef, best.coef).max()
    return bool(apart <= SAME_COMPONENT * np.sqrt(best.noise_variance.max()))


def cluster_by_linkage(
    tasks: ProjectedTasks, n_components: int, *, method: Literal["single", "average"] = "single"
) -> Clustering:
    """Algorithm 3 of Kong et al. (2020): median-of-batches distances, then linkage.

    For tasks i and j, the product over each batch of the differences of their two half-means is
    unbiased for ``|w_i - w_j|^2``; the median over the batches is robust to heavy tails.

    Parameters
    ----------
    tasks : ProjectedTasks
        With at least one batch in `halves`.
    n_components : int
    method : {"single", "average"}
        Linkage; "single" is the paper's, "average" that of its authors' experiments.

    Raises
    ------
    InputError
        If there are fewer tasks than components, or no batch.
    """
    labels = linkage_labels(tasks.halves, n_components, method=method)
    shares = np.eye(n_components)[labels]
    return Clustering(_maximise(tasks, shares), np.array([]), agreed=True)


def linkage_labels(
    halves: NDArray[np.float64],
    n_components: int,
    *,
    method: Literal["single", "average"] = "single",
) -> NDArray[np.int64]:
    """Labels of the tasks by linkage of their median-of-batches distances, shape (n,).

    Parameters
    ----------
    halves : ndarray of shape (n, n_batches, 2, r)
    n_components : int
    method : {"single", "average"}

    Raises
    ------
    InputError
        If there are fewer tasks than components, or no batch.
    """
    n, n_batches = halves.shape[:2]
    if n < n_components:
        raise InputError(f"{n_components} components need at least as many tasks, got {n}")
    if n_batches == 0:
        raise InputError("linkage needs n_batches of at least 1, got 0: no distance to take")
    products = np.empty((n_batches, n, n))
    for batch, (first, second) in enumerate(halves.transpose(1, 2, 0, 3)):
        inner = first @ second.T
        own = np.diag(inner)
        products[batch] = own[:, None] + own[None, :] - inner - inner.T
    distance = np.abs(np.median(products, axis=0))
    np.fill_diagonal(distance, 0)
    condensed = scipy.spatial.distance.squareform(distance, checks=False)
    tree = scipy.cluster.hierarchy.linkage(condensed, method=method)
    labels = scipy.cluster.hierarchy.fcluster(tree, n_components, criterion="maxclust")
    return labels.astype(np.int64) - 1


def _ridge_estimates(
    tasks: ProjectedTasks, prior_variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior mean of each task's coefficients, (n, r), and how far it is from the prior's, (n,).

    The noise is what the pooled variance leaves above the prior's.
    """
    variance = np.maximum(prior_variance, 1e-3 * prior_variance.max(initial=1e-12))
    total = tasks.square.sum() / tasks.size.sum()
    noise = max(total - variance.sum(), 0.05 * total, np.finfo(float).tiny)
    estimates = np.linalg.solve(
        tasks.gram + noise * np.diag(1 / variance), tasks.cross[:, :, None]
    )[:, :, 0]
    return estimates, tasks.size.astype(np.float64)


def _seed(
    estimates: NDArray[np.float64],
    precision: NDArray[np.float64],
    n_components: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """k-means++ (Arthur and Vassilvitskii 2007), tasks weighted by their number of examples."""
    n = len(estimates)
    chosen = [int(rng.choice(n, p=precision / precision.sum()))]
    closest = np.full(n, np.inf)
    for _ in range(n_components - 1):
        latest = ((estimates - estimates[chosen[-1]]) ** 2).sum(axis=1)
        closest = np.minimum(closest, latest)
        odds = closest * precision
        total = odds.sum()
        odds = odds / total if total > 0 else np.full(n, 1 / n)
        chosen.append(int(rng.choice(n, p=odds)))
    return np.array(chosen)


def _start_from(tasks: ProjectedTasks, coef: NDArray[np.float64]) -> Mixture:
    k = len(coef)
    rss = _projected_rss(tasks, coef)
    noise = max(rss.min(axis=1).sum() / tasks.size.sum(), np.finfo(float).tiny)
    return Mixture(coef, np.full(k, noise), np.full(k, 1 / k))


def _run_em(
    tasks: ProjectedTasks, mixture: Mixture, max_iter: int, tol: float
) -> tuple[Mixture, float]:
    n_rows = tasks.size.sum()
    best = -np.inf
    for _ in range(max_iter):
        joint = joint_log_likelihood(_projected_rss(tasks, mixture.coef), tasks.size, mixture)
        shares, log_likelihood = posterior(joint)
        value = float(log_likelihood.sum())
        if value - best < tol * n_rows:
            return mixture, value
        best = value
        mixture = _maximise(tasks, shares)
    return mixture, best


def _projected_rss(tasks: ProjectedTasks, coef: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residual sum of squares of every task under every component, shape (n, k)."""
    n, r = tasks.cross.shape
    outer = (coef[:, :, None] * coef[:, None, :]).reshape(-1, r * r)
    quadratic = tasks.gram.reshape(n, r * r) @ outer.T
    rss = tasks.square[:, None] - 2 * tasks.cross @ coef.T + quadratic
    return np.maximum(rss, 0)


def _maximise(tasks: ProjectedTasks, shares: NDArray[np.float64]) -> Mixture:
    """Weighted least squares of every component from the tasks' moments."""
    n, r = tasks.cross.shape
    gram = (shares.T @ tasks.gram.reshape(n, r * r)).reshape(-1, r, r)
    cross = shares.T @ tasks.cross
    square = shares.T @ tasks.square
    rows = np.maximum(shares.T @ tasks.size, np.finfo(float).tiny)
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / r + np.finfo(float).tiny
    coef = np.linalg.solve(gram + ridge[:, None, None] * np.eye(r), cross[:, :, None])[:, :, 0]
    fitted = 2 * np.einsum("kr,kr->k", coef, cross) - np.einsum("kr,krs,ks->k", coef, gram, coef)
    floor = NOISE_FLOOR * tasks.square.sum() / tasks.size.sum() + np.finfo(float).tiny
    noise = np.maximum((square - fitted) / rows, floor)
    return Mixture(coef, noise, shares.mean(axis=0))
