"""The span of the coefficients: top eigenvectors of the second moment, and their noise edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this order the dense solver takes less time than a sketch that is as accurate.
DENSE_ORDER = 1024
OVERSAMPLING = 16
POWER_ITERATIONS = 8


def top_eigenspace(
    matrix: NDArray[np.float64],
    n_directions: int,
    *,
    rng: np.random.Generator,
    dense_order: int = DENSE_ORDER,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvectors of the largest eigenvalues, by value and not by magnitude.

    The target ``sum_l p_l w_l w_l^T`` is positive semidefinite, so a large negative eigenvalue is
    noise. Dense below `dense_order`; above it, randomised subspace iteration (Halko, Martinsson,
    Tropp 2011, algorithms 4.4 and 5.3) on the matrix as it is, then the largest Ritz values.

    Parameters
    ----------
    matrix : ndarray of shape (p, p), float64
        Symmetric.
    n_directions : int
        At most p.
    rng : numpy Generator
        Of the sketch; unused by the dense way.
    dense_order : int
        Largest p solved densely.

    Returns
    -------
    values : ndarray of shape (n_directions,), descending
    vectors : ndarray of shape (p, n_directions), orthonormal columns

    Raises
    ------
    InputError
        If `n_directions` is not between 1 and p.

    Examples
    --------
    >>> values, U = top_eigenspace(np.diag([1.0, 3.0, -9.0]), 1, rng=np.random.default_rng(0))
    >>> values.tolist(), np.abs(U[:, 0]).tolist()
    ([3.0], [0.0, 1.0, 0.0])
    """
    p = len(matrix)
    if not 1 <= n_directions <= p:
        raise InputError(f"n_directions must be between 1 and {p}, got {n_directions}")
    symmetric = (matrix + matrix.T) / 2
    width = n_directions + OVERSAMPLING
    if p <= dense_order or width >= p:
        values, vectors = scipy.linalg.eigh(symmetric, subset_by_index=[p - n_directions, p - 1])
        return values[::-1].copy(), vectors[:, ::-1].copy()
    sketch = rng.standard_normal((p, width))
    for _ in range(POWER_ITERATIONS):
        sketch, _ = np.linalg.qr(symmetric @ sketch)
    ritz_values, ritz_vectors = scipy.linalg.eigh(sketch.T @ symmetric @ sketch)
    order = np.argsort(ritz_values)[::-1][:n_directions]
    return ritz_values[order], sketch @ ritz_vectors[:, order]


def rank_above(values: NDArray[np.float64], edge: float) -> int:
    """Count the eigenvalues above the noise edge."""
    return int(np.count_nonzero(values > edge))
