"""Fewer passes: a step along the path that expectation-maximisation takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.regression import finalise_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daskmlr.kernels.regression import ComponentSums
    from daskmlr.kernels.standardise import Standardiser

MAX_STEP = 16.0
# Most that the logarithm of a noise or weight may move beyond the last iterate.
MAX_LOG_STEP = 2.0
# Share of a log-likelihood that it may fall by rounding alone, of products in single precision.
ROUNDING = 1e-7
TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Ascent:
    """Where expectation-maximisation has come to, between two passes.

    Attributes
    ----------
    mixture : Mixture
        Of the next pass; that of the last one, once converged.
    sums : ComponentSums, optional
        Of the last pass, which was at the mixture `at`.
    at : Mixture, optional
    log_likelihood : float
        Of the last pass that was not an overshoot.
    summit : Mixture, optional
        Of that pass.
    trail : tuple of Mixture
        Plain steps since the last extrapolation.
    fallback : Mixture, optional
        The last plain step, if `mixture` is an extrapolation.
    n_passes : int
    returning : bool
        Whether the next pass, at the summit, is the last.
    converged : bool
    """

    mixture: Mixture
    sums: ComponentSums | None = None
    at: Mixture | None = None
    log_likelihood: float = -np.inf
    summit: Mixture | None = None
    trail: tuple[Mixture, ...] = ()
    fallback: Mixture | None = None
    n_passes: int = 0
    returning: bool = False
    converged: bool = False

    def after(
        self,
        sums: ComponentSums,
        standardiser: Standardiser,
        directions: NDArray[np.float64],
        *,
        tol: float,
        accelerate: bool,
    ) -> Ascent:
        """Return where the pass at `mixture`, whose sums these are, leads.

        Every third pass is at an extrapolation of the last two steps; where that overshot, the
        passes go on from the last step, and only a plain step ends them. One that falls, as it may
        where a component has fewer examples than coefficients, is taken back.
        """
        gain = sums.log_likelihood - self.log_likelihood
        passed = replace(self, at=self.mixture, sums=sums, n_passes=self.n_passes + 1)
        if self.fallback is not None and gain < 0:
            back = self.fallback
            return replace(passed, mixture=back, trail=(back,), fallback=None)
        if self.returning:
            return replace(passed, converged=True)
        fell = gain < -max(tol, ROUNDING * abs(sums.log_likelihood))
        if self.fallback is None and self.summit is not None and fell:
            return replace(passed, mixture=self.summit, returning=True)
        if self.fallback is None and gain < tol:
            return replace(passed, converged=True)
        step = finalise_sums(sums, self.mixture, standardiser, directions)
        trail = (*(self.trail or (self.mixture,)), step)
        passed = replace(passed, log_likelihood=sums.log_likelihood, summit=self.mixture)
        if not accelerate:
            return replace(passed, mixture=step)
        if len(trail) < 3:
            return replace(passed, mixture=step, trail=trail, fallback=None)
        ahead = extrapolate(trail, standardiser)
        return replace(passed, mixture=ahead, trail=(ahead,), fallback=step)


def extrapolate(iterates: Sequence[Mixture], standardiser: Standardiser) -> Mixture:
    """Guess where expectation-maximisation is going, from three iterates in a row.

    SQUAREM, scheme S3 (Varadhan and Roland 2008): with the steps ``r`` from the first to the second
    and ``r + v`` from there to the third, the point ``first + 2 s r + s^2 v`` with ``s = |r| /
    |v|``, at least 1, where it is the third, and at most `MAX_STEP`. Coefficients are measured on
    white covariates in standard errors, noises and weights by their logarithms. Nothing says that
    the likelihood rises.

    Parameters
    ----------
    iterates : sequence of three Mixture
        `coef` of shape (k, d + 1), in the frame.
    standardiser : Standardiser

    Returns
    -------
    Mixture

    Examples
    --------
    >>> from daskmlr.kernels.standardise import Standardiser
    >>> steps = [Mixture(np.array([[x]]), np.ones(1), np.ones(1)) for x in (1.0, 0.5, 0.25)]
    >>> extrapolate(steps, Standardiser(np.eye(1), np.eye(1))).coef.tolist()
    [[0.0]]
    """
    points = [_log_parameters(mixture, standardiser) for mixture in iterates]
    third = iterates[2]
    metric = np.sqrt(third.weights)[:, None] * np.ones(points[0].shape[1])
    metric[:, :-2] /= np.sqrt(third.noise_variance)[:, None]
    step = points[1] - points[0]
    bend = points[2] - points[1] - step
    lengths = np.linalg.norm(metric * step), np.linalg.norm(metric * bend)
    s = float(np.clip(lengths[0] / max(lengths[1], TINY), 1.0, MAX_STEP))
    reached = points[0] + 2 * s * step + s**2 * bend
    logs = points[2][:, -2:]
    logs = logs + np.clip(reached[:, -2:] - logs, -MAX_LOG_STEP, MAX_LOG_STEP)
    weights = np.exp(logs[:, 1])
    return Mixture(
        standardiser.coef_to_frame(reached[:, :-2]),
        np.exp(logs[:, 0]),
        weights / weights.sum(),
    )


def _log_parameters(mixture: Mixture, standardiser: Standardiser) -> NDArray[np.float64]:
    """One row for each component: coefficients, log noise variance, log weight."""
    return np.column_stack(
        [
            standardiser.coef_from_frame(mixture.coef),
            np.log(mixture.noise_variance),
            np.log(np.maximum(mixture.weights, TINY)),
        ]
    )
