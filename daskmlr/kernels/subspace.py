"""The span of the coefficients: top eigenvectors of the second moment, and their noise edge."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Up to this order the dense solver takes a fraction of a second.
DENSE_ORDER = 1024


def top_eigenspace(
    matrix: NDArray[np.float64],
    n_directions: int,
    *,
    rng: np.random.Generator,
    dense_order: int = DENSE_ORDER,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvectors of the largest eigenvalues, by value and not by magnitude.

    The target ``sum_l p_l w_l w_l^T`` is positive semidefinite, so a large negative eigenvalue is
    noise. Dense up to `dense_order`; above it, Lanczos iteration (ARPACK) from a random start. It
    finds the edge of a bulk without a gap to rounding, where a few steps of randomised subspace
    iteration stop a third below it, and would call noise signal.

    Parameters
    ----------
    matrix : ndarray of shape (p, p), float64
        Symmetric.
    n_directions : int
        At most p.
    rng : numpy Generator
        Of the start; unused by the dense way.
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
    if p > dense_order and 2 * n_directions < p:
        # ARPACK stops at a matrix of zeros, which the dense solver takes as it comes
        with contextlib.suppress(scipy.sparse.linalg.ArpackError):
            return _descending(
                *scipy.sparse.linalg.eigsh(
                    symmetric, n_directions, which="LA", v0=rng.standard_normal(p)
                )
            )
    return _descending(*scipy.linalg.eigh(symmetric, subset_by_index=[p - n_directions, p - 1]))


def _descending(
    values: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(-values)
    return values[order], vectors[:, order]


def rank_above(values: NDArray[np.float64], edge: float) -> int:
    """Count the eigenvalues above the noise edge."""
    return int(np.count_nonzero(values > edge))
