"""Fewer passes: a step along the path that expectation-maximisation takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskmlr.kernels.assignment import Mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daskmlr.kernels.standardise import Standardiser

MAX_STEP = 16.0
# Most that the logarithm of a noise or weight may move beyond the last iterate.
MAX_LOG_STEP = 2.0
TINY = np.finfo(float).tiny


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
