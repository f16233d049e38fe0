"""Mixtures of normal distributions: where a new example's target will lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Newton's steps, each within the bracket or else a halving of it: doubles need at most 64 halvings,
# and twice as many steps allow for those that gain nothing.
MAX_STEPS = 128


@dataclass(frozen=True)
class Predictive:
    """Distributions of n targets, ``sum_l g_l N(m_l, s_l^2)`` each.

    Attributes
    ----------
    shares : ndarray of shape (n, k), float64
        Posterior of the components, given the support of the row's task; rows sum to one.
    means : ndarray of shape (n, k), float64
        What each component predicts, in target units.
    variances : ndarray of shape (k,), float64
        Positive, in squared target units.

    Examples
    --------
    >>> found = Predictive(np.array([[0.9, 0.1]]), np.array([[0.0, 10.0]]), np.ones(2))
    >>> found.mean.round(1).tolist(), found.label.tolist(), found.probability.tolist()
    ([1.0], [0], [0.9])
    >>> [bound.round(1).tolist() for bound in found.interval(0.9)]
    [[-1.6], [10.0]]
    """

    shares: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    @property
    def label(self) -> NDArray[np.int64]:
        """The likeliest component, shape (n,)."""
        label: NDArray[np.int64] = self.shares.argmax(axis=1)
        return label

    @property
    def probability(self) -> NDArray[np.float64]:
        """Posterior of the likeliest component, shape (n,)."""
        likeliest: NDArray[np.float64] = self.shares.max(axis=1)
        return likeliest

    @property
    def mean(self) -> NDArray[np.float64]:
        """Shape (n,), in target units."""
        mean: NDArray[np.float64] = (self.shares * self.means).sum(axis=1)
        return mean

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation, shape (n,), in target units."""
        spread = (self.means - self.mean[:, None]) ** 2
        std: NDArray[np.float64] = np.sqrt((self.shares * (self.variances + spread)).sum(axis=1))
        return std

    def interval(self, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quantiles, of shape (n,): the tails outside have equal probability."""
        tail, deviations = (1 - level) / 2, np.sqrt(self.variances)
        low, high = (
            mixture_quantile(q, self.shares, self.means, deviations) for q in (tail, 1 - tail)
        )
        return low, high

    def likeliest(self) -> Predictive:
        """Take the likeliest component of each row for certain."""
        return replace(self, shares=np.eye(len(self.variances))[self.label])


def mixture_quantile(
    level: float,
    shares: NDArray[np.float64],
    means: NDArray[np.float64],
    deviations: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Invert the distribution function of ``sum_l g_l N(m_l, s_l^2)``, row by row.

    The quantile lies between the smallest and the largest of the components' own; within them it
    is found by Newton's method with bisection where that would leave the bracket. Cost: about ten
    times that of the distribution function, ``n k`` each.

    Parameters
    ----------
    level : float
        Between 0 and 1, both excluded.
    shares : ndarray of shape (n, k), float64
        Rows sum to one.
    means : ndarray of shape (n, k), float64
    deviations : ndarray of shape (k,), float64
        Positive.

    Returns
    -------
    ndarray of shape (n,), float64
        To about 12 digits of the components' spread.

    Examples
    --------
    >>> one = np.array([[0.5, 0.5]])
    >>> mixture_quantile(0.975, one, np.array([[1.0, 1.0]]), np.array([2.0, 2.0])).round(4)
    array([4.9199])
    """
    own = means + ndtri(level) * deviations
    low = np.where(shares > 0, own, np.inf).min(axis=1)
    high = np.where(shares > 0, own, -np.inf).max(axis=1)
    tolerance = 1e-13 * np.maximum(np.abs(low), np.abs(high)) + 1e-12 * deviations.min()
    quantile: NDArray[np.float64] = (shares * own).sum(axis=1)
    open_ = np.flatnonzero(high - low > tolerance)
    for _ in range(MAX_STEPS):
        if not open_.size:
            break
        at = quantile[open_]
        z = (at[:, None] - means[open_]) / deviations
        excess = (shares[open_] * ndtr(z)).sum(axis=1) - level
        density = (shares[open_] / deviations * np.exp(-(z**2) / 2)).sum(axis=1)
        low[open_] = np.where(excess <= 0, at, low[open_])
        high[open_] = np.where(excess >= 0, at, high[open_])
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            moved = at - excess * np.sqrt(2 * np.pi) / density
        inside = (moved > low[open_]) & (moved < high[open_])
        moved = np.where(inside, moved, (low[open_] + high[open_]) / 2)
        quantile[open_] = moved
        done = (np.abs(moved - at) <= tolerance[open_]) | (
            high[open_] - low[open_] <= tolerance[open_]
        )
        open_ = open_[~done]
    return quantile
