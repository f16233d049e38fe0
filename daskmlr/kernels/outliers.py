"""Tasks that no component explains: a p-value for each, and those that are too many for chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtrc

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import block_log_likelihood, posterior

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, TaskBlock

# Columns of an assignment, beside the task's key.
ASSIGNED = ("label", "log_likelihood", "p_value", "posterior")


def tail_probability(
    log_likelihood: NDArray[np.float64], sizes: NDArray[np.int64], mixture: Mixture
) -> NDArray[np.float64]:
    """Probability, under the mixture, of a task at least as ill explained.

    A task is the worse explained the smaller the mixture's density ``f`` of its targets. With
    ``n_l`` the density of component ``l`` and ``p_l`` its weight, ``f >= p_l n_l`` everywhere, so

        P(f(Y) <= f) <= sum_l p_l P(p_l n_l(Y) <= f | l)
                      = sum_l p_l P(chi2_t >= 2 log(p_l / f) - t log(2 pi s_l^2)).

    The sum is the p-value: at known parameters its chance to be at most ``u`` is at most ``u``,
    whatever the size of the task, and it is just ``u`` where components do not overlap. Errors of
    the parameters are neglected; they are of the order of one over a component's examples.

    Parameters
    ----------
    log_likelihood : ndarray of shape (n_tasks,)
        ``log f``, as `posterior` gives it.
    sizes : ndarray of shape (n_tasks,), int64
    mixture : Mixture

    Returns
    -------
    ndarray of shape (n_tasks,), float64
        1 for a task without examples. Cost: about 0.1 microseconds a task and component.

    Examples
    --------
    >>> from daskmlr.kernels.assignment import Mixture
    >>> one = Mixture(np.zeros((1, 1)), np.ones(1), np.ones(1))
    >>> log_f = -0.5 * 1.96**2 - 0.5 * np.log(2 * np.pi)  # a single example, at 1.96
    >>> tail_probability(np.array([log_f]), np.array([1]), one).round(3).tolist()
    [0.05]
    """
    p_value = np.zeros(len(sizes))
    for weight, variance in zip(mixture.weights, mixture.noise_variance, strict=True):
        if weight > 0:
            radius = 2 * (np.log(weight) - log_likelihood) - sizes * np.log(2 * np.pi * variance)
            p_value += weight * np.where(radius > 0, chdtrc(sizes, np.maximum(radius, 0)), 1.0)
    return np.where(sizes > 0, np.minimum(p_value, 1.0), 1.0)


def worst_explained(
    rss: NDArray[np.float64], sizes: NDArray[np.int64], mixture: Mixture
) -> NDArray[np.int64]:
    """Order tasks by how far they are in the tail of the component nearest to them.

    Tails of tasks of different sizes compare by the cube root of their chi-squared, which is
    near normal (Wilson and Hilferty 1931); quicker than `tail_probability`.

    Parameters
    ----------
    rss : ndarray of shape (n_tasks, k)
        Residual sums of squares.
    sizes : ndarray of shape (n_tasks,), int64
        At least 1.
    mixture : Mixture

    Returns
    -------
    ndarray of shape (n_tasks,), int64
        Positions, the furthest first; ties by position.
    """
    t = sizes.astype(np.float64)
    nearest = (rss / mixture.noise_variance).min(axis=1)
    spread = 2 / (9 * t)
    height = ((nearest / t) ** (1 / 3) - (1 - spread)) / np.sqrt(spread)
    return np.argsort(-height, kind="stable")


def odd_tasks(
    p_values: ArrayLike, *, false_discovery_rate: float = 0.01, n_tests: int | None = None
) -> NDArray[np.bool_]:
    """Tasks whose p-values are too small for chance, by Benjamini and Hochberg (1995).

    Of the tasks listed, at most the stated share is expected to follow the mixture after all.

    Parameters
    ----------
    p_values : array of shape (n,)
        The column ``p_value`` of `Model.assign`, or its values up to the rate: no larger one can
        be listed.
    false_discovery_rate : float
        Between 0 and 1.
    n_tests : int, optional
        Number of all tasks, if `p_values` holds the smallest ones only.

    Returns
    -------
    ndarray of shape (n,), bool

    Raises
    ------
    InputError
        If a p-value or the rate is not between 0 and 1, or `n_tests` is less than n.

    Examples
    --------
    >>> from daskmlr import odd_tasks
    >>> odd_tasks([0.5, 1e-6, 0.04, 0.9], false_discovery_rate=0.05).tolist()
    [False, True, False, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    n = p.size if n_tests is None else n_tests
    if not 0 < false_discovery_rate < 1:
        raise InputError(
            f"false_discovery_rate must be between 0 and 1, got {false_discovery_rate}"
        )
    if n < p.size:
        raise InputError(f"n_tests must be at least the {p.size} p-values given, got {n}")
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise InputError(f"p-values must be between 0 and 1, got {p[wrong][0]}")
    ascending = np.sort(p, axis=None)
    passing = ascending <= false_discovery_rate * np.arange(1, p.size + 1) / max(n, 1)
    largest = ascending[passing].max(initial=-1.0)
    listed: NDArray[np.bool_] = p <= largest
    return listed


def assigned_columns(block: TaskBlock, frame: Frame, mixture: Mixture) -> dict[str, NDArray[Any]]:
    """Label the tasks of a block: what `Model.assign` says of each, by name."""
    shares, log_likelihood = posterior(block_log_likelihood(block, frame, mixture))
    return {
        "label": shares.argmax(axis=1).astype(np.int32),
        "log_likelihood": log_likelihood,
        "p_value": tail_probability(log_likelihood, block.sizes, mixture),
        "posterior": shares.astype(np.float32),
    }
