"""Standardised coordinates: the change of basis that makes the covariates white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# A direction with less than this share of the average feature variance is lost in rounding.
COLLINEAR = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-11}


@dataclass(frozen=True)
class Standardiser:
    """The map ``u = A a`` with ``E[u u^T] = I``; the first entry of ``u`` is the constant 1.

    Attributes
    ----------
    A, A_inv : ndarray of shape (d + 1, d + 1), float64
        ``A = [[1, 0], [-S m, S]]`` with ``m`` and ``S = Sigma^{-1/2}`` (symmetric) of the
        covariates in the frame.
    """

    A: NDArray[np.float64]
    A_inv: NDArray[np.float64]

    def coef_to_frame(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients on ``u``, shape (k, d + 1), to coefficients on ``a``."""
        return coef @ self.A

    def coef_from_frame(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients on ``a``, shape (k, d + 1), to coefficients on ``u``."""
        return coef @ self.A_inv

    def whiten(self, second_moment: NDArray[np.float64]) -> NDArray[np.float64]:
        """Congruence ``A (.) A^T``: a second moment of ``a``-vectors to one of ``u``-vectors."""
        return self.A @ second_moment @ self.A.T


def standardiser_from_gram(
    gram: NDArray[np.float64], feature_names: Sequence[str], dtype: np.dtype[np.floating]
) -> Standardiser:
    """Find the whitening of the augmented covariates.

    Parameters
    ----------
    gram : ndarray of shape (d + 1, d + 1), float64
        ``sum a a^T``, the first entry the number of examples. Features should be near unit
        variance, as they are in a `Frame` made from a store.
    feature_names : sequence of d str
        For the messages.
    dtype : numpy dtype
        Of the data: says how small a variance is still above rounding.

    Raises
    ------
    InputError
        For fewer examples than features, a constant feature, or collinear features, by name.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = np.column_stack([np.ones(100), rng.normal(3, 2, (100, 2))])
    >>> s = standardiser_from_gram(a.T @ a, ["age", "size"], np.dtype(float))
    >>> u = a @ s.A.T
    >>> bool(np.allclose(u.T @ u / 100, np.eye(3)))
    True
    """
    n, d = gram[0, 0], len(gram) - 1
    if n <= d:
        raise InputError(f"{d} features need more than {d} examples, got {n:.0f}")
    mean = gram[0, 1:] / n
    covariance = gram[1:, 1:] / n - np.outer(mean, mean)
    tolerance = COLLINEAR[np.dtype(dtype)]
    variance = np.diag(covariance)
    constant = np.flatnonzero(variance <= tolerance * (1 + mean**2))
    if constant.size:
        names = ", ".join(repr(feature_names[i]) for i in constant[:5])
        raise InputError(
            f"{constant.size} of {d} features never vary: {names}. A constant cannot be told "
            "from the intercept: leave such features out"
        )
    spread = np.sqrt(variance)
    correlation = covariance / np.outer(spread, spread)
    values, vectors = scipy.linalg.eigh(correlation)
    if values[0] <= tolerance * d:
        involved = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1 * np.abs(vectors[:, 0]).max())
        names = ", ".join(repr(feature_names[i]) for i in involved[:8])
        raise InputError(
            f"features {names} are collinear: a combination of them is constant to "
            f"{np.sqrt(max(values[0], 0)):.1e} of their spread. Leave one of them out"
        )
    values, vectors = scipy.linalg.eigh(covariance)
    root_inv = (vectors / np.sqrt(values)) @ vectors.T
    root = (vectors * np.sqrt(values)) @ vectors.T
    A, A_inv = np.eye(d + 1), np.eye(d + 1)
    A[1:, 1:], A[1:, 0] = root_inv, -root_inv @ mean
    A_inv[1:, 1:], A_inv[1:, 0] = root, mean
    return Standardiser(A, A_inv)
