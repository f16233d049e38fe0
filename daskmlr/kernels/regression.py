"""One refinement pass: assign every task, then least squares for every component.

Expectation-maximisation of the mixture of regressions whose unit is the task. The per-component
sum of ``[a, r] [a, r]^T`` holds the normal equations, the residual variance (its Schur complement)
and the number of examples, so one read of the data does both steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.linalg

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import (
    Mixture,
    posterior,
    rows_log_likelihood,
)
from daskmlr.kernels.blocks import (
    add_joint_gram,
    cut_rows,
    rows_in_cache,
    rows_in_piece,
    rows_of_tasks,
    tasks_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.kernels.blocks import Frame, Part, TaskBlock
    from daskmlr.kernels.standardise import Standardiser

# Posteriors below this are left out of a component's sums, where they would cost a product each.
# With 200,000 tasks that moves coefficients by 0.014 standard errors, ten times as much at 1e-3.
NEGLIGIBLE = 1e-4
# Pieces of so many rows for each component: products of fewer are slow.
ROWS_PER_COMPONENT = 2048
# Noise below this share of the pooled one is a component that interpolates.
NOISE_FLOOR = 1e-8


@dataclass(frozen=True)
class ComponentSums:
    """Sums over tasks; `combine_sums` adds two.

    Attributes
    ----------
    gram : ndarray of shape (k, d + 2, d + 2), float64
        Posterior-weighted ``sum [a, r] [a, r]^T``.
    mass : ndarray of shape (k,), float64
        Sum of the posteriors of the tasks.
    log_likelihood : float
        Of the tasks that count, at the parameters the pass was given.
    n_rows, n_tasks : int
        Examples and tasks that count.
    """

    gram: NDArray[np.float64]
    mass: NDArray[np.float64]
    log_likelihood: float
    n_rows: int
    n_tasks: int

    @classmethod
    def zeros(cls, k: int, d: int) -> ComponentSums:
        """Return the sum over no task."""
        return cls(np.zeros((k, d + 2, d + 2)), np.zeros(k), 0.0, 0, 0)

    def take(self, order: NDArray[np.int64]) -> ComponentSums:
        """Return the sums with the components in that order."""
        return replace(self, gram=self.gram[order], mass=self.mass[order])


def sums_from_block(
    block: TaskBlock,
    frame: Frame,
    mixture: Mixture,
    *,
    assign: Literal["soft", "hard"],
    part: Part | None = None,
    onto: ComponentSums | None = None,
) -> ComponentSums:
    """Assign the tasks of a block and sum each component's normal equations.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    mixture : Mixture
    assign : {"soft", "hard"}
        Weight by the posterior, or count only the likeliest component (Algorithm 4 of the paper).
    part : Part, optional
        Only its tasks count.
    onto : ComponentSums, optional
        The sum of other blocks, to add to; its arrays are used again.
    """
    k, p = mixture.coef.shape
    sums = ComponentSums.zeros(k, p - 1) if onto is None else onto
    total, n_rows, n_tasks = sums.log_likelihood, sums.n_rows, sums.n_tasks
    for piece in block.pieces(max(rows_in_piece(block, 2 * k), ROWS_PER_COMPONENT * k)):
        covariates, targets = frame.rows(piece)
        joint = rows_log_likelihood(covariates, targets, piece, mixture)
        shares, log_likelihood = posterior(joint)
        if assign == "hard":
            shares = np.eye(k)[shares.argmax(axis=1)]
        counted = tasks_in(part, piece)
        shares *= counted[:, None]
        total += float(log_likelihood @ counted)
        sums.mass[:] += shares.sum(axis=0)
        n_rows += int(piece.sizes @ counted)
        n_tasks += int(counted.sum())
        _add_grams(sums.gram, covariates, targets, without_negligible(shares), piece.sizes)
    return replace(sums, log_likelihood=total, n_rows=n_rows, n_tasks=n_tasks)


def without_negligible(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the posteriors of a task below `NEGLIGIBLE` to its other components."""
    kept = np.where(shares < NEGLIGIBLE, 0, shares)
    total = kept.sum(axis=1, keepdims=True)
    np.divide(kept, total, out=kept, where=total > 0)
    return kept


def combine_sums(left: ComponentSums, right: ComponentSums) -> ComponentSums:
    """Add two sums."""
    return ComponentSums(
        left.gram + right.gram,
        left.mass + right.mass,
        left.log_likelihood + right.log_likelihood,
        left.n_rows + right.n_rows,
        left.n_tasks + right.n_tasks,
    )


def pooled_regression(gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Least squares of ``r`` on ``a`` over all examples, from ``sum [a, r] [a, r]^T``.

    Returns
    -------
    coef : ndarray of shape (d + 1,), float64
    explained : float
        How far it lowers the sum of squares, from ``gram[-1, -1]``.
    """
    coef = scipy.linalg.lstsq(gram[:-1, :-1], gram[:-1, -1])[0]
    return coef, float(coef @ gram[:-1, -1])


def least_noise(sums: ComponentSums) -> float:
    """Noise variance that no component goes below: the likelihood of one without has no bound."""
    pooled = sums.gram.sum(axis=0)
    variance = pooled[-1, -1] / max(pooled[0, 0], 1.0)
    return float(NOISE_FLOOR * max(variance, np.finfo(float).tiny))


def expected_log_likelihood(sums: ComponentSums, mixture: Mixture) -> float:
    """Log-likelihood at a mixture of tasks and labels, the labels as the sums took them.

    With the entropy of those labels added, a lower bound of the log-likelihood of the tasks, and
    equal to it at the mixture the sums were taken at (Neal and Hinton 1998).
    """
    step = np.column_stack([-mixture.coef, np.ones(mixture.n_components)])
    rss = np.einsum("ki,kij,kj->k", step, sums.gram, step)
    rows = sums.gram[:, 0, 0]
    with np.errstate(divide="ignore"):
        prior = np.where(sums.mass > 0, sums.mass * np.log(mixture.weights), 0.0)
    normal = rows * np.log(2 * np.pi * mixture.noise_variance) + rss / mixture.noise_variance
    return float(prior.sum() - normal.sum() / 2)


def finalise_sums(
    sums: ComponentSums,
    previous: Mixture,
    standardiser: Standardiser,
    basis: NDArray[np.float64],
) -> Mixture:
    """Solve every component's least squares.

    A component with fewer than twice as many examples as coefficients is solved within the
    subspace; one with fewer examples than directions keeps its previous coefficients.

    Parameters
    ----------
    sums : ComponentSums
    previous : Mixture
        Parameters the sums were taken at.
    standardiser : Standardiser
        The equations are solved in its coordinates, where they are well conditioned.
    basis : ndarray of shape (d + 1, r)
        Orthonormal directions in standardised coordinates.

    Raises
    ------
    InputError
        If no task counts, as may be when few tasks are cut into parts.
    """
    if sums.n_tasks == 0:
        raise InputError(
            "the components need tasks to be fitted to, got 0: the part of the tasks held for "
            "this step is empty. Give more tasks, or use all of them in every step"
        )
    floor = least_noise(sums)
    coef, noise = previous.coef.copy(), previous.noise_variance.copy()
    for component, gram in enumerate(sums.gram):
        n = gram[0, 0]
        full = n >= 2 * len(standardiser.A)
        if not full and n < basis.shape[1] + 1:
            continue
        directions = standardiser.A if full else basis.T @ standardiser.A
        normal = directions @ gram[:-1, :-1] @ directions.T
        solution = scipy.linalg.lstsq(normal, directions @ gram[:-1, -1], cond=1e-12)[0]
        coef[component] = solution @ directions
        step = np.append(-coef[component], 1.0)
        noise[component] = max(step @ gram @ step / n, floor)
    return Mixture(coef, noise, sums.mass / sums.n_tasks)


def _add_grams(
    gram: NDArray[np.float64],
    covariates: NDArray[np.floating],
    targets: NDArray[np.floating],
    shares: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> None:
    """Add ``sum_j share [1, x_j, r_j] [1, x_j, r_j]^T`` of each component to `gram`, in place.

    Tasks that are wholly of one component come first, and need no weighting.
    """
    of_component = shares.T
    whole = of_component >= 1
    # of each component first the tasks that are wholly its own, which need no weighting
    runs = np.stack([whole, (of_component > 0) & ~whole], axis=1)
    lengths = np.count_nonzero(runs, axis=2).ravel()
    run = np.repeat(np.arange(len(lengths)), lengths)
    task = np.flatnonzero(runs) - run * len(shares)
    share = of_component[run // 2, task]
    index, offsets = rows_of_tasks(sizes, task)
    root = np.repeat(np.sqrt(share), sizes[task]).astype(targets.dtype)
    thin = np.column_stack([root, targets[index] * root])
    bounds = offsets[np.append(0, np.cumsum(lengths))].tolist()
    for own, first, partly, last in zip(
        gram, bounds[::2], bounds[1::2], bounds[2::2], strict=False
    ):
        add_joint_gram(own, _weighted(covariates, thin, index, root, first, partly, last))


def _weighted(
    wide: NDArray[np.floating],
    thin: NDArray[np.floating],
    index: NDArray[np.int64],
    root: NDArray[np.floating],
    first: int,
    partly: int,
    last: int,
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Yield the rows that `index` names in ``first:last``, from `partly` on times their `root`."""
    room = np.empty((rows_in_cache(wide), wide.shape[1]), dtype=wide.dtype)
    for rows in cut_rows(first, last, wide):
        own = room[: rows.stop - rows.start]
        np.take(wide, index[rows], axis=0, out=own, mode="clip")
        if rows.stop > partly:
            start = max(partly, rows.start)
            own[start - rows.start :] *= root[start : rows.stop, None]
        yield own, thin[rows]
