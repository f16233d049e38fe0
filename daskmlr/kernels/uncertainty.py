"""How well the data fix the parameters: observed information, its inverse, and the sandwich.

The parameters of a mixture are, component by component, the coefficients on ``a`` (intercept
first) and the logarithm of the noise variance; last come the log-ratios of the weights of the
components 1 .. k - 1 to that of component 0. There are ``p = k (d + 3) - 1``.

With ``s_il`` the score of task ``i`` had it been known to follow component ``l``, ``C_il`` the
information it had then held and ``g_il`` its posterior, the task's score is ``S_i = sum_l g_il
s_il``, and by Louis' identity (Louis 1982, JRSS B 44) the observed information is

    I = sum_i S_i S_i^T + sum_i sum_l g_il (C_il - s_il s_il^T),

whose second sum is block diagonal but for products with the total score, which vanishes at the
maximum. Both sums come of one pass. Where the noise is not as assumed, the estimates vary as the
sandwich ``I^-1 (sum_i S_i S_i^T) I^-1`` says (White 1982, Econometrica 50), with the task as the
independent unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from daskmlr.errors import InformationError
from daskmlr.kernels.assignment import posterior, rows_log_likelihood
from daskmlr.kernels.blocks import crossprod, rows_of_tasks, segment_matrix, tasks_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, Part, TaskBlock

# Posteriors below this leave a component's sums out: they move no standard error in its fourth
# digit. The refinement's threshold, larger for speed, would move the third.
NEGLIGIBLE = 1e-6
# Rows in double precision, and scores of all components, of the tasks taken at a time.
ROWS_BYTES = 8 << 20
SCORES_BYTES = 16 << 20
# An information whose reciprocal condition number, scaled to unit diagonal, is below this is
# singular to the rounding of its sums.
SINGULAR = 1e-13


def n_parameters(n_features: int, n_components: int) -> int:
    """Free parameters of a mixture, ``p = k (d + 3) - 1``."""
    return n_components * (n_features + 3) - 1


@dataclass(frozen=True)
class InformationSums:
    """Sums over tasks; `combine_information` adds two.

    Attributes
    ----------
    outer : ndarray of shape (p, p), float64
        ``sum_i S_i S_i^T``; of the blocks of two components, those on and above the diagonal.
    excess : ndarray of shape (k, d + 2, d + 2), float64
        ``sum_i g_il (C_il - s_il s_il^T)`` over a component's coefficients and noise.
    score : ndarray of shape (k, d + 2), float64
        ``sum_i g_il s_il`` over the same.
    mass : ndarray of shape (k,), float64
        Sum of the posteriors.
    n_tasks : int
    """

    outer: NDArray[np.float64]
    excess: NDArray[np.float64]
    score: NDArray[np.float64]
    mass: NDArray[np.float64]
    n_tasks: int


@dataclass(frozen=True)
class Information:
    """What the tasks say of the parameters, at the parameters the pass was given.

    Attributes
    ----------
    observed : ndarray of shape (p, p), float64
        Minus the second derivatives of the log-likelihood.
    outer : ndarray of shape (p, p), float64
        ``sum_i S_i S_i^T``.
    score : ndarray of shape (p,), float64
        First derivatives of the log-likelihood: zero at its maximum.
    mass : ndarray of shape (k,), float64
        Tasks of each component.
    """

    observed: NDArray[np.float64]
    outer: NDArray[np.float64]
    score: NDArray[np.float64]
    mass: NDArray[np.float64]


@dataclass(frozen=True)
class Covariances:
    """Covariance of the estimates, by two ways, and how far they are from the maximum.

    Attributes
    ----------
    observed, sandwich : ndarray of shape (p, p), float64
    shortfall : float
        Largest of the steps that Newton's method would still take, in standard errors.
    """

    observed: NDArray[np.float64]
    sandwich: NDArray[np.float64]
    shortfall: float


def information_from_block(
    block: TaskBlock, frame: Frame, mixture: Mixture, part: Part | None = None
) -> InformationSums:
    """Sum the scores' products and the information over the tasks of a block.

    Computed in double precision. Cost: two products of each component's own rows, as in a
    refinement pass, and ``(d + 2)^2`` for each task and pair of components that share it.

    Parameters
    ----------
    block : TaskBlock
    frame : Frame
    mixture : Mixture
        In the frame.
    part : Part, optional
        Only its tasks count.
    """
    n_tasks = 0
    width, k = block.n_features + 2, mixture.n_components
    p = n_parameters(block.n_features, k)
    sums = InformationSums(
        np.zeros((p, p)), np.zeros((k, width, width)), np.zeros((k, width)), np.zeros(k), 0
    )
    for piece in _pieces(block, p):
        counted = tasks_in(part, piece)
        piece = piece if counted.all() else piece.take(np.flatnonzero(counted))
        n_tasks += piece.n_tasks
        rows = frame.augment(piece).astype(np.float64)
        shares, _ = posterior(rows_log_likelihood(rows[:, 1:-1], rows[:, -1], piece, mixture))
        sums.mass[:] += shares.sum(axis=0)
        shares[shares < NEGLIGIBLE] = 0
        scores = [
            _component(sums, component, rows, piece.sizes, shares, mixture)
            for component in range(k)
        ]
        _add_outer(sums.outer, scores, shares, mixture.weights)
    return InformationSums(sums.outer, sums.excess, sums.score, sums.mass, n_tasks)


def combine_information(left: InformationSums, right: InformationSums) -> InformationSums:
    """Add two sums."""
    return InformationSums(
        left.outer + right.outer,
        left.excess + right.excess,
        left.score + right.score,
        left.mass + right.mass,
        left.n_tasks + right.n_tasks,
    )


def finalise_information(sums: InformationSums, mixture: Mixture) -> Information:
    """Put the parts together, exactly, at the maximum of the likelihood or not.

    Parameters
    ----------
    sums : InformationSums
    mixture : Mixture
        Parameters the sums were taken at.
    """
    k, width = sums.score.shape
    n, weights, mass = sums.n_tasks, mixture.weights, sums.mass
    outer = sums.outer.copy()
    for start in range(0, k * width, width):
        outer[start + width :, start : start + width] = outer[
            start : start + width, start + width :
        ].T
    observed = outer.copy()
    last = slice(k * width, None)
    # over the log-ratios C = diag(w) - w w^T, and of component l s = e_l - w
    between = np.outer(mass, weights)
    observed[last, last] += (
        n * np.diag(weights) - 2 * n * np.outer(weights, weights) - np.diag(mass)
        + between + between.T
    )[1:, 1:]  # fmt: skip
    for component in range(k):
        own = slice(component * width, (component + 1) * width)
        observed[own, own] += sums.excess[component]
        toward = (np.arange(k) == component) - weights
        observed[own, last] -= np.outer(sums.score[component], toward[1:])
        observed[last, own] = observed[own, last].T
    score = np.append(sums.score.ravel(), (mass - n * weights)[1:])
    return Information(observed, outer, score, mass)


def covariances(information: Information) -> Covariances:
    """Invert the information: covariance of the estimates by the model, and by the sandwich.

    Raises
    ------
    InformationError
        If the information is not positive definite, with the components to blame: those that hold
        no task, or those that the tasks cannot tell apart.
    """
    empty = np.flatnonzero(information.mass < 1)
    if empty.size:
        held = ", ".join(f"{c} ({information.mass[c]:.2g})" for c in empty[:8])
        raise InformationError(
            f"{empty.size} of {len(information.mass)} components hold less than one of the "
            f"{information.mass.sum():.0f} tasks: {held}; nothing is known of their coefficients. "
            f"Fit at most {len(information.mass) - empty.size} components"
        )
    diagonal = np.diag(information.observed)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = information.observed / np.outer(scale, scale)
    factor, failed = scipy.linalg.lapack.dpotrf(scaled, lower=1)
    rcond = scipy.linalg.lapack.dpocon(factor, np.linalg.norm(scaled, 1), uplo="L")[0]
    if failed or rcond < SINGULAR:
        raise _singular(scaled, information.mass)
    # the triangle below the diagonal holds the inverse, the one above is zero
    inverse = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    inverse += np.tril(inverse, -1).T
    inverse /= np.outer(scale, scale)
    step = (inverse @ information.score) / np.sqrt(np.diag(inverse))
    sandwich = inverse @ information.outer @ inverse
    return Covariances(inverse, (sandwich + sandwich.T) / 2, float(np.abs(step).max()))


def covariance_to_user(
    covariance: NDArray[np.float64], frame: Frame, mixture: Mixture
) -> NDArray[np.float64]:
    """Turn a covariance into the user's units and parameters, by the delta method.

    Returns
    -------
    ndarray of shape (k (d + 3), k (d + 3)), float64
        Of intercept, slopes and noise variance, component by component, then of the weights.
    """
    half = _rows_to_user(covariance, frame, mixture)
    return _rows_to_user(half.T, frame, mixture).T


def _pieces(block: TaskBlock, p: int) -> Iterator[TaskBlock]:
    """Cut a block so that neither rows nor scores of a piece take much memory."""
    n_tasks = max(1, SCORES_BYTES // (8 * p))
    for piece in block.pieces(max(256, ROWS_BYTES // (8 * (block.n_features + 2)))):
        for start in range(0, piece.n_tasks, n_tasks):
            yield piece.tasks(start, min(start + n_tasks, piece.n_tasks))


def _component(
    sums: InformationSums,
    component: int,
    rows: NDArray[np.float64],
    sizes: NDArray[np.int64],
    shares: NDArray[np.float64],
    mixture: Mixture,
) -> NDArray[np.float64]:
    """Add a component's information to `sums`, in place; return ``g_il s_il`` of its tasks."""
    variance, tasks = mixture.noise_variance[component], np.flatnonzero(shares[:, component])
    index, offsets = rows_of_tasks(sizes, tasks)
    covariates = rows[index, :-1]
    error = rows[index, -1] - covariates @ mixture.coef[component]
    share = shares[tasks, component]
    root = np.sqrt(share)
    errors = segment_matrix(offsets, error)
    rss = errors @ error
    score = np.empty((len(tasks), rows.shape[1]))
    score[:, :-1] = errors @ covariates / variance
    score[:, -1] = (rss / variance - sizes[tasks]) / 2

    total = share @ score
    excess = sums.excess[component]
    excess[-1, -1] += share @ rss / (2 * variance)
    excess[:-1, -1] += total[:-1]
    excess[-1, :-1] += total[:-1]
    covariates *= np.repeat(root, sizes[tasks])[:, None]
    excess[:-1, :-1] += crossprod(covariates, covariates) / variance
    score *= root[:, None]
    excess -= crossprod(score, score)
    sums.score[component] += total
    score *= root[:, None]
    return score


def _add_outer(
    outer: NDArray[np.float64],
    scores: list[NDArray[np.float64]],
    shares: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Add ``sum_i S_i S_i^T`` to `outer`, in place: pair by pair, over the tasks they share."""
    k, width = len(scores), scores[0].shape[1]
    active = shares > 0
    held = [active[active[:, component]] for component in range(k)]
    ratios = (shares - weights)[:, 1:]
    last = slice(k * width, None)
    for left, score in enumerate(scores):
        own = slice(left * width, (left + 1) * width)
        for right in np.flatnonzero(held[left].any(axis=0)).tolist():
            if right == left:
                outer[own, own] += crossprod(score, score)
            elif right > left:
                other = scores[right][held[right][:, left]]
                columns = slice(right * width, (right + 1) * width)
                outer[own, columns] += crossprod(score[held[left][:, right]], other)
        outer[own, last] += crossprod(score, ratios[active[:, left]])
    outer[last, last] += crossprod(ratios, ratios)


def _rows_to_user(
    matrix: NDArray[np.float64], frame: Frame, mixture: Mixture
) -> NDArray[np.float64]:
    """Apply the Jacobian of the user's parameters in the frame's to the rows of a matrix."""
    k, d = mixture.n_components, len(frame.scale)
    columns = matrix.shape[1]
    blocks = matrix[: k * (d + 2)].reshape(k, d + 2, columns)
    out = np.empty((k * (d + 3), columns))
    user = out[: k * (d + 2)].reshape(k, d + 2, columns)
    user[:, 1:-1] = blocks[:, 1:-1] / frame.scale[:, None]
    user[:, 0] = blocks[:, 0] - np.einsum("j,kjc->kc", frame.shift, user[:, 1:-1])
    user[:, -1] = blocks[:, -1] * mixture.noise_variance[:, None]
    ratios = matrix[k * (d + 2) :]
    weights = mixture.weights[:, None]
    out[k * (d + 2) :] = -weights * (mixture.weights[1:] @ ratios)
    out[k * (d + 2) + 1 :] += weights[1:] * ratios
    return out


def _singular(scaled: NDArray[np.float64], mass: NDArray[np.float64]) -> InformationError:
    """Say which components the smallest eigenvalue lies in."""
    values, vectors = scipy.linalg.eigh(scaled, subset_by_index=[0, 0])
    k = len(mass)
    width = (len(scaled) + 1) // k - 1
    part = (vectors[: k * width, 0] ** 2).reshape(k, width).sum(axis=1)
    # the direction that moves weight between components has its parts in the log-ratios
    part[1:] += vectors[k * width :, 0] ** 2
    involved = np.flatnonzero(part > 0.1 * part.max()).tolist()
    held = ", ".join(f"{c} ({mass[c]:.1f} tasks)" for c in involved[:8])
    return InformationError(
        f"the {mass.sum():.0f} tasks do not fix the parameters: the observed information, scaled "
        f"to unit diagonal, has the eigenvalue {values[0]:.2g}, in components {held}. They are "
        "duplicates, hold too few tasks, or the model was not fitted to these tasks: fit fewer "
        "components, or let the fit converge"
    )
