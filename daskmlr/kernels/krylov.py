"""Top eigenpairs of a pair of matrices that are known by their products alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Combinations of the basis of less than this share of the largest energy are lost in rounding.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Krylov:
    """A basis and its products: all that is known of ``M z = theta G z``; `extend` adds to it.

    Every product of a pass stays in the basis, so that the Rayleigh-Ritz values of few passes are
    as good as any: block Krylov iteration (Musco and Musco 2015, arXiv:1504.05477), here of the
    pair, whose new directions are the residuals of the best pairs so far.

    Attributes
    ----------
    basis : ndarray of shape (p, s), float64
        Orthonormal columns.
    second, gram : ndarray of shape (p, s), float64
        ``M`` and ``G`` times it.
    n_steps : int
        Blocks that the basis was made of.
    """

    basis: NDArray[np.float64]
    second: NDArray[np.float64]
    gram: NDArray[np.float64]
    n_steps: int = 0

    @classmethod
    def empty(cls, p: int) -> Krylov:
        """Return the pair of which nothing is known."""
        return cls(np.zeros((p, 0)), np.zeros((p, 0)), np.zeros((p, 0)))

    def extend(
        self,
        block: NDArray[np.float64],
        second: NDArray[np.float64],
        gram: NDArray[np.float64],
    ) -> Krylov:
        """Add a block, orthonormal and orthogonal to the basis, with its products."""
        return Krylov(
            np.hstack([self.basis, block]),
            np.hstack([self.second, second]),
            np.hstack([self.gram, gram]),
            self.n_steps + 1,
        )

    def ritz(self, n_pairs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Best pairs within the basis, the largest values first.

        Returns
        -------
        values : ndarray of shape (n,)
            At most `n_pairs`; less where the basis has no more.
        mixing : ndarray of shape (s, n)
            The vectors are ``basis @ mixing``, orthonormal in ``G``.
        """
        small_gram = self.basis.T @ self.gram
        energy, rotation = scipy.linalg.eigh((small_gram + small_gram.T) / 2)
        kept = energy > NEGLIGIBLE * energy[-1]
        white = rotation[:, kept] / np.sqrt(energy[kept])
        small = white.T @ (self.basis.T @ self.second) @ white
        values, vectors = scipy.linalg.eigh((small + small.T) / 2)
        order = np.argsort(-values)[:n_pairs]
        return values[order], white @ vectors[:, order]

    def next_block(self, n_columns: int, precondition: NDArray[np.float64]) -> NDArray[np.float64]:
        """Residuals of the best pairs, made orthonormal and orthogonal to the basis.

        Parameters
        ----------
        n_columns : int
            At most so many.
        precondition : ndarray of shape (p,)
            What residuals are multiplied by: near the inverse of the diagonal of ``G``.
        """
        values, mixing = self.ritz(n_columns)
        residuals = self.second @ mixing - (self.gram @ mixing) * values
        return orthonormal(precondition[:, None] * residuals, self.basis)


def orthonormal(
    columns: NDArray[np.float64], others: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Orthonormal basis of some columns less their part along `others`, which are orthonormal.

    Columns that the others and each other nearly span are left out.

    Parameters
    ----------
    columns : ndarray of shape (p, m)
    others : ndarray of shape (p, s), optional

    Returns
    -------
    ndarray of shape (p, at most m)

    Examples
    --------
    >>> np.abs(orthonormal(np.array([[3.0, 3.0], [0.0, 0.0]]))).round(12).tolist()
    [[1.0], [0.0]]
    """
    lengths = np.linalg.norm(columns, axis=0)
    found: NDArray[np.float64] = columns[:, lengths > 0] / lengths[lengths > 0]
    for _ in range(2):  # once more, for what rounding left of the others
        if others is not None:
            found = found - others @ (others.T @ found)
        q, r, _ = scipy.linalg.qr(found, mode="economic", pivoting=True)
        found = np.asarray(q[:, np.abs(np.diag(r)) > NEGLIGIBLE], dtype=np.float64)
    return found
