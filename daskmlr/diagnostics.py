"""The spectral step's evidence, and what it and the rest say against a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning

from daskmlr.errors import ComponentWarning, StructureWarning
from daskmlr.kernels.diagnosis import residual_signal
from daskmlr.kernels.subspace import rank_above

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame
    from daskmlr.kernels.diagnosis import DiagnosisSums
    from daskmlr.kernels.standardise import Standardiser

# Tasks of uncertain label share a little of the wrong component; two regressions share far more.
MERGED = 2.0


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

    @property
    def rank(self) -> int:
        """Number of directions above the noise edge."""
        return rank_above(self.values, self.edge)


@dataclass(frozen=True)
class Outcome:
    """How the stages of a fit ended.

    Attributes
    ----------
    mixture : Mixture
    log_likelihood : float
    converged : bool
    n_passes : int
        Of the refinement.
    restart_log_likelihoods : tuple of float
        Of the search for first components, best first; empty for the linkage.
    agreed : bool
        Whether its two best restarts found the same components.
    """

    mixture: Mixture
    log_likelihood: float
    converged: bool
    n_passes: int
    restart_log_likelihoods: tuple[float, ...]
    agreed: bool


@dataclass
class Diagnosis:
    """What is known about a fit besides its parameters.

    Attributes
    ----------
    facts : dict
        Numbers by name, JSON-able: `Model.diagnostics`.
    warnings : list of (category, message)
    """

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[tuple[type[Warning], str]] = field(default_factory=list)

    def warn(self, category: type[Warning], message: str) -> None:
        """Add a warning."""
        self.warnings.append((category, message))


def heirs(mixture: Mixture, spectrum: Spectrum) -> NDArray[np.int64]:
    """Nearest other component of each, on white covariates; a single one is its own."""
    coef = spectrum.standardiser.coef_from_frame(mixture.coef)
    distance = cdist(coef, coef)
    np.fill_diagonal(distance, np.inf)
    nearest: NDArray[np.int64] = distance.argmin(axis=1)
    return nearest


def diagnose(
    outcome: Outcome, spectrum: Spectrum, sums: DiagnosisSums, *, n_tasks: int, n_rows: int
) -> Diagnosis:
    """Say what the numbers of a fit are, and where it cannot be trusted."""
    mixture = outcome.mixture
    n_coefficients = mixture.coef.shape[1]
    signal, edge = residual_signal(sums)
    price = (n_coefficients + 2) / 2 * np.log(n_rows)
    result = Diagnosis(
        {
            "directions_above_noise": spectrum.rank,
            "restart_log_likelihoods": list(outcome.restart_log_likelihoods),
            "restarts_agreed": outcome.agreed,
            "examples_per_component": sums.examples.tolist(),
            "coefficients_per_component": n_coefficients,
            "label_entropy": sums.entropy / n_tasks,
            "nearest_component": heirs(mixture, spectrum).tolist(),
            "absorption_loss": sums.absorption.tolist(),
            "absorption_price": float(price),
            "residual_signal": signal.tolist(),
            "residual_signal_edge": edge.tolist(),
            **information_criteria(outcome, sums.entropy, n_rows),
        }
    )
    if not outcome.converged:
        result.warn(
            ConvergenceWarning,
            f"the likelihood still rose after {outcome.n_passes} refinement passes: raise max_iter",
        )
    if mixture.n_components > 1:
        _diagnose_search(result, outcome, spectrum)
        _diagnose_components(result, mixture, sums, price, n_tasks)
    _diagnose_merged(result, mixture, signal, edge)
    return result


def information_criteria(outcome: Outcome, entropy: float, n_rows: int) -> dict[str, float]:
    """BIC (Schwarz 1978) and ICL (Biernacki, Celeux, Govaert 2000), the smaller the better.

    Parameters are k regressions of d + 1 coefficients and a noise variance, and k - 1 weights;
    observations are examples.
    """
    k, p = outcome.mixture.coef.shape
    bic = -2 * outcome.log_likelihood + (k * (p + 2) - 1) * np.log(n_rows)
    return {"bic": float(bic), "icl": float(bic + 2 * entropy)}


def _diagnose_search(result: Diagnosis, outcome: Outcome, spectrum: Spectrum) -> None:
    if spectrum.rank == 0:
        result.warn(
            StructureWarning,
            f"no direction rises above the noise: the largest eigenvalue is "
            f"{spectrum.values[0]:.3g}, noise alone gives {spectrum.edge:.3g}. The tasks may all "
            "follow one regression: try n_components=1, or add tasks",
        )
    if not outcome.agreed:
        result.warn(
            ComponentWarning,
            f"none of {len(outcome.restart_log_likelihoods)} restarts of the search found the "
            f"best components again, and {spectrum.rank} of {len(spectrum.values)} directions rise "
            f"above the noise edge ({spectrum.edge:.3g}): the result may be a local optimum. "
            "Raise n_restarts, lower n_components, or add tasks",
        )


def _diagnose_components(
    result: Diagnosis, mixture: Mixture, sums: DiagnosisSums, price: float, n_tasks: int
) -> None:
    k, p = mixture.coef.shape
    empty = mixture.weights * n_tasks < 1
    if empty.any():
        result.warn(
            ComponentWarning,
            f"{empty.sum()} of {k} components hold less than one task: "
            f"the data support at most {k - empty.sum()} components",
        )
    for j in np.flatnonzero(~empty & (sums.absorption < price)).tolist():
        result.warn(
            ComponentWarning,
            f"component {j} is one too many: without it, its {mixture.weights[j] * n_tasks:.0f} "
            f"tasks left to component {result.facts['nearest_component'][j]}, the log-likelihood "
            f"falls by {sums.absorption[j]:.1f}, less than the {price:.1f} that its parameters "
            "cost by BIC. Lower n_components",
        )
    for j in np.flatnonzero(~empty & (sums.examples < 2 * p)).tolist():
        result.warn(
            ComponentWarning,
            f"component {j} holds {sums.examples[j]:.0f} examples for {p} coefficients: "
            "they are poorly known. Add tasks or lower n_components",
        )


def _diagnose_merged(
    result: Diagnosis,
    mixture: Mixture,
    signal: NDArray[np.float64],
    edge: NDArray[np.float64],
) -> None:
    for j in np.flatnonzero(signal > MERGED * edge).tolist():
        result.warn(
            ComponentWarning,
            f"component {j} holds more than one regression: the coefficients of its tasks differ "
            f"by {np.sqrt(signal[j]):.3g} (noise alone gives {np.sqrt(edge[j]):.3g}; its noise is "
            f"{np.sqrt(mixture.noise_variance[j]):.3g}). Raise n_components",
        )
