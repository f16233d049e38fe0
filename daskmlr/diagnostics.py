"""The spectral step's evidence, and what it and the rest say against a fit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning

from daskmlr.errors import ComponentWarning, DamageWarning, StructureWarning
from daskmlr.kernels.diagnosis import residual_signal
from daskmlr.kernels.regression import least_noise, pooled_regression
from daskmlr.kernels.subspace import rank_above
from daskmlr.markup import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.graph.faults import LeftOut
    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame
    from daskmlr.kernels.diagnosis import DiagnosisSums
    from daskmlr.kernels.regression import ComponentSums
    from daskmlr.kernels.standardise import Standardiser

# A component of fewer tasks than this share, and so many times the others' noise, may hold what
# none explains. Regressions that differ so much in noise are rarely so unequal in size too.
SMALL, NOISY = 0.05, 3.0
# Tasks of uncertain label share a little of the wrong component; two regressions share far more.
MERGED = 2.0
# Of squared coefficients: less is not seen in float32 data.
ROUNDING = 1e-12
# A noise within so many times the least that a fit allows is none.
WITHOUT_NOISE = 10.0


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
    sums : ComponentSums
        Of a pass at `mixture`.
    converged : bool
    n_passes : int
        Of the refinement.
    restart_log_likelihoods : tuple of float
        Of the search for first components, best first; empty for the linkage.
    agreed : bool
        Whether its two best restarts found the same components.
    """

    mixture: Mixture
    sums: ComponentSums
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

    def give_warnings(self, *, stacklevel: int) -> None:
        """Give them to Python; `stacklevel` as `warnings.warn` in the caller's place."""
        for category, message in self.warnings:
            warnings.warn(message, category, stacklevel=stacklevel + 1)


def diagnose_damage(verdict: Diagnosis, left_out: LeftOut) -> None:
    """Say which damaged blocks a fit left out, if it was told to."""
    verdict.facts.update(left_out.facts())
    if left_out.blocks:
        verdict.warn(DamageWarning, f"{left_out}")


def nearest_components(mixture: Mixture, spectrum: Spectrum) -> NDArray[np.int64]:
    """Nearest other component of each, on white covariates; a single one is its own."""
    coef = spectrum.standardiser.coef_from_frame(mixture.coef)
    distance = cdist(coef, coef)
    np.fill_diagonal(distance, np.inf)
    nearest: NDArray[np.int64] = distance.argmin(axis=1)
    return nearest


def diagnose(outcome: Outcome, spectrum: Spectrum, sums: DiagnosisSums) -> Diagnosis:
    """Say what the numbers of a fit are, and where it cannot be trusted."""
    mixture, n_tasks, n_rows = outcome.mixture, outcome.sums.n_tasks, outcome.sums.n_rows
    n_coefficients = len(spectrum.frame.offset)  # of all features, if it has those of a subspace
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
            "nearest_component": nearest_components(mixture, spectrum).tolist(),
            "merging_loss": sums.merging_loss.tolist(),
            "component_price": float(price),
            "components_without_noise": np.flatnonzero(_without_noise(outcome)).tolist(),
            "components_to_spare": 0,
            "components_of_several": int(np.count_nonzero(_of_several(mixture, signal, edge))),
            "residual_signal": signal.tolist(),
            "residual_signal_edge": edge.tolist(),
            **_information_criteria(outcome, n_coefficients, sums),
        }
    )
    if not outcome.converged:
        result.warn(
            ConvergenceWarning,
            f"the likelihood still rose after {outcome.n_passes} refinement passes: raise max_iter",
        )
    if mixture.n_components > 1 and not _better_than_one(result, outcome, spectrum):
        return result
    if mixture.n_components > 1:
        _diagnose_noise(result, outcome)
        _diagnose_odd(result, mixture)
        _diagnose_search(result, outcome, spectrum)
        _diagnose_components(result, mixture, sums, n_tasks)
    warn_of_merged(result, mixture, sums)
    return result


def _information_criteria(outcome: Outcome, p: int, sums: DiagnosisSums) -> dict[str, float]:
    """BIC (Schwarz 1978) and ICL (Biernacki, Celeux, Govaert 2000), the smaller the better.

    Tasks that a robust fit left out count, as if each had a noise of its own: of two fits the one
    that leaves more of them out would be the better else.

    Parameters are k regressions of p coefficients and a noise variance, and k - 1 weights;
    observations are examples.
    """
    k = outcome.mixture.n_components
    log_n = np.log(outcome.sums.n_rows)
    log_likelihood = outcome.sums.log_likelihood + sums.left_out
    bic = -2 * log_likelihood + (k * (p + 2) - 1) * log_n
    one = -2 * (_pooled_log_likelihood(outcome.sums) + sums.left_out) + (p + 1) * log_n
    return {"bic": float(bic), "icl": float(bic + 2 * sums.entropy), "bic_of_one": float(one)}


def _pooled_log_likelihood(sums: ComponentSums) -> float:
    """Log-likelihood of one regression for all tasks."""
    gram = sums.gram.sum(axis=0)
    rss = max(gram[-1, -1] - pooled_regression(gram)[1], np.finfo(float).tiny)
    return float(-sums.n_rows / 2 * (np.log(2 * np.pi * rss / gram[0, 0]) + 1))


def _better_than_one(result: Diagnosis, outcome: Outcome, spectrum: Spectrum) -> bool:
    bic, one = result.facts["bic"], result.facts["bic_of_one"]
    if bic >= one:
        k, p = outcome.mixture.n_components, result.facts["coefficients_per_component"]
        # that of one regression is a direction too
        unseen = (
            f". But {spectrum.rank} directions rise above the noise edge: {outcome.sums.n_rows:,} "
            f"examples may be too few for BIC to see {k} regressions of {p:,} coefficients. Add "
            "tasks, or lower n_components"
        )
        result.warn(
            StructureWarning,
            f"no structure: one regression for all tasks has a BIC of {one:.6g}, {k} have "
            f"{bic:.6g}, which is no better{unseen if spectrum.rank > 1 else ''}",
        )
    return bool(bic < one)


def _without_noise(outcome: Outcome) -> NDArray[np.bool_]:
    """Components that explain their tasks exactly, others not: their likelihood has no bound."""
    exact = outcome.mixture.noise_variance <= WITHOUT_NOISE * least_noise(outcome.sums)
    return np.zeros_like(exact) if exact.all() else exact


def _diagnose_noise(result: Diagnosis, outcome: Outcome) -> None:
    for j in result.facts["components_without_noise"]:
        result.warn(
            ComponentWarning,
            f"component {j} ({outcome.mixture.weights[j]:.3g} of the tasks) explains its tasks "
            "exactly, so that its likelihood has no bound: BIC and standard errors mean nothing "
            f"here. {why_exact(result.facts, j)}",
        )


def _diagnose_odd(result: Diagnosis, mixture: Mixture) -> None:
    """Warn of small components whose noise is unlike the others': what none explains ends there."""
    order = np.argsort(mixture.noise_variance)
    middle = order[np.searchsorted(mixture.weights[order].cumsum(), 0.5)]
    usual = mixture.noise_variance[middle]
    small = mixture.weights < SMALL
    for j in np.flatnonzero(small & (mixture.noise_variance > NOISY**2 * usual)).tolist():
        share = 2 * mixture.weights[j]
        result.warn(
            ComponentWarning,
            f"component {j} ({mixture.weights[j]:.3g} of the tasks) has a noise of "
            f"{np.sqrt(mixture.noise_variance[j]):.3g}, where {np.sqrt(usual):.3g} is usual: it "
            "may be made of odd tasks, which no regression explains. If so, leave them out, by "
            f"robust={share:.1g}, and ask for a component less",
        )


def why_exact(facts: dict[str, Any], component: int) -> str:
    """Say why a component may explain its tasks exactly, and what to do."""
    n, p = facts["examples_per_component"][component], facts["coefficients_per_component"]
    if n <= p:
        return f"It holds {n:.0f} examples for {p} coefficients: lower n_components"
    return (
        "Look at its tasks (their target may be a constant), leave them out, or lower n_components"
    )


def _diagnose_search(result: Diagnosis, outcome: Outcome, spectrum: Spectrum) -> None:
    if not outcome.agreed:
        result.warn(
            ComponentWarning,
            f"none of {len(outcome.restart_log_likelihoods)} restarts of the search found the "
            f"best components again, and {spectrum.rank} of {len(spectrum.values)} directions rise "
            f"above the noise edge ({spectrum.edge:.3g}): the result may be a local optimum. "
            "Raise n_restarts, lower n_components, or add tasks",
        )


def _diagnose_components(
    result: Diagnosis, mixture: Mixture, sums: DiagnosisSums, n_tasks: int
) -> None:
    k, p = mixture.n_components, result.facts["coefficients_per_component"]
    price = result.facts["component_price"]
    empty = mixture.weights * n_tasks < 1
    if empty.any():
        result.warn(
            ComponentWarning,
            f"{empty.sum()} of {k} components hold less than one task: "
            f"the data support at most {k - empty.sum()} components",
        )
    pairs = _mergeable(result.facts["nearest_component"], ~empty & (sums.merging_loss < price))
    result.facts["components_to_spare"] = min(int(empty.sum()) + len(pairs), k - 1)
    if len(pairs) == 1:
        ((i, j),) = pairs
        result.warn(
            ComponentWarning,
            f"components {i} and {j} are one too many: one in their place costs "
            f"{max(sums.merging_loss[i], 0):.1f} of log-likelihood, its parameters would cost "
            f"{price:.1f} by BIC. Lower n_components",
        )
    elif pairs:
        named = [f"{i} and {j}" for i, j in pairs]
        result.warn(
            ComponentWarning,
            f"{len(pairs)} of {k} components are too many: one in the place of {listed(named)} "
            f"each costs less log-likelihood than its parameters, {price:.1f} by BIC. Lower "
            f"n_components, to {k - result.facts['components_to_spare']} perhaps",
        )
    for j in np.flatnonzero(~empty & (sums.examples < 2 * p)).tolist():
        result.warn(
            ComponentWarning,
            f"component {j} holds {sums.examples[j]:.0f} examples for {p} coefficients: "
            "they are poorly known. Add tasks or lower n_components",
        )


def _mergeable(nearest: list[int], costs_little: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of components that are one too many; those that are each other's nearest are one."""
    return [
        (j, nearest[j])
        for j in np.flatnonzero(costs_little).tolist()
        if not (nearest[nearest[j]] == j and nearest[j] < j and costs_little[nearest[j]])
    ]


def _of_several(
    mixture: Mixture, signal: NDArray[np.float64], edge: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each component holds more than one regression; rounding does not count."""
    rounding = ROUNDING * np.square(mixture.coef).sum(axis=1).max()
    several: NDArray[np.bool_] = signal > np.maximum(MERGED * edge, rounding)
    return several


def warn_of_merged(result: Diagnosis, mixture: Mixture, sums: DiagnosisSums) -> None:
    """Warn of components that hold more than one regression."""
    signal, edge = residual_signal(sums)
    several = np.flatnonzero(_of_several(mixture, signal, edge))
    if several.size == 0:
        return
    worst = several[np.argmax(signal[several] / mixture.noise_variance[several])]
    names = (
        f"component {worst} holds" if several.size == 1 else f"components {listed(several)} hold"
    )
    result.warn(
        ComponentWarning,
        f"{names} more than one regression, or tasks that differ by degrees: "
        f"{'' if several.size == 1 else f'in component {worst} '}the coefficients of the tasks "
        f"differ by {np.sqrt(signal[worst]):.3g} (noise alone gives {np.sqrt(edge[worst]):.3g}; "
        f"its noise is {np.sqrt(mixture.noise_variance[worst]):.3g}). Raise n_components; if this "
        "stays, tasks differ by degrees and not by kinds",
    )
