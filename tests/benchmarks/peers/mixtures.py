"""What all methods have in common: their parameters, and the one likelihood they are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from tests.benchmarks.peers.tables import Table


@dataclass(frozen=True)
class Mixture:
    """Parameters in the table's units: `coef` (k, d + 1) with the intercept first."""

    coef: np.ndarray
    noise_variance: np.ndarray
    weights: np.ndarray

    @property
    def n_parameters(self) -> int:
        return self.coef.size + 2 * len(self.weights) - 1


def joint(table: Table, mixture: Mixture) -> np.ndarray:
    """``log p_l + sum_j log N(y_j; a_j w_l, s_l^2)`` of every task and component."""
    squares = (table.y[:, None] - table.design @ mixture.coef.T) ** 2
    density = -0.5 * (squares / mixture.noise_variance + np.log(2 * np.pi * mixture.noise_variance))
    with np.errstate(divide="ignore"):
        log_weights = np.log(mixture.weights)
    total: np.ndarray = np.add.reduceat(density, table.starts, axis=0) + log_weights
    return total


def log_likelihood(table: Table, mixture: Mixture) -> float:
    """Of all tasks, each with one hidden label: the yardstick of every method."""
    return float(logsumexp(joint(table, mixture), axis=1).sum())


def posterior(table: Table, mixture: Mixture) -> np.ndarray:
    """Of the labels, shape (n_tasks, k)."""
    values = joint(table, mixture)
    share: np.ndarray = np.exp(values - logsumexp(values, axis=1)[:, None])
    return share


def bic(table: Table, mixture: Mixture) -> float:
    """Schwarz's criterion, less being better; the independent units are the tasks."""
    penalty = mixture.n_parameters * np.log(table.n_tasks)
    return float(penalty - 2 * log_likelihood(table, mixture))
