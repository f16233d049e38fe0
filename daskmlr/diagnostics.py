"""The spectral step's evidence, and what it and the rest say against a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.exceptions import ConvergenceWarning

from daskmlr.errors import ComponentWarning
from daskmlr.kernels.subspace import rank_above

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame
    from daskmlr.kernels.standardise import Standardiser


@dataclass(frozen=True)
class Spectrum:
    """The spectral step's result.

    Attributes
    ----------
    frame : Frame
        With the pooled regression taken out.
    standardiser : Standardiser
    values : ndarray of shape (r,)
        Largest eigenvalues of the second moment of the coefficients, in squared target units.
    directions : ndarray of shape (d + 1, r)
        Their orthonormal eigenvectors, in standardised coordinates.
    edge : float
        Largest eigenvalue that noise alone gives.
    """

    frame: Frame
    standardiser: Standardiser
    values: NDArray[np.float64]
    directions: NDArray[np.float64]
    edge: float

    @property
    def basis(self) -> NDArray[np.float64]:
        """``B`` of ``v = B^T a``: the directions as they act on a frame's covariates."""
        basis: NDArray[np.float64] = self.standardiser.A.T @ self.directions
        return basis


def fit_notes(
    mixture: Mixture,
    spectrum: Spectrum,
    agreed: bool,
    converged: bool,
    n_passes: int,
    n_tasks: int,
) -> list[tuple[type[Warning], str]]:
    """Say where a fit cannot be trusted: category and message of each warning."""
    notes: list[tuple[type[Warning], str]] = []
    k = mixture.n_components
    if not converged:
        notes.append(
            (
                ConvergenceWarning,
                f"the likelihood still rose after {n_passes} refinement passes: raise max_iter",
            )
        )
    if not agreed and k > 1:
        rank = rank_above(spectrum.values, spectrum.edge)
        notes.append(
            (
                ComponentWarning,
                "no two restarts of the clustering agreed on the best components, and "
                f"{rank} of {len(spectrum.values)} directions rise above the noise edge "
                f"({spectrum.edge:.3g}): the result may be a local optimum. Raise n_restarts, "
                "lower n_components, or add tasks",
            )
        )
    empty = np.flatnonzero(mixture.weights * n_tasks < 1)
    if empty.size:
        notes.append(
            (
                ComponentWarning,
                f"{empty.size} of {k} components hold less than one task: "
                f"the data support at most {k - empty.size} components",
            )
        )
    distance = pdist(spectrum.standardiser.coef_from_frame(mixture.coef))
    negligible = 1e-3 * np.sqrt(mixture.noise_variance.max())
    negligible += 1e-9 * np.linalg.norm(spectrum.frame.offset)
    close = int(np.count_nonzero(distance < negligible))
    if close:
        notes.append(
            (ComponentWarning, f"{close} pairs of the {k} components are the same regression")
        )
    return notes
