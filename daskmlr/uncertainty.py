"""Standard errors and confidence intervals of a fitted mixture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import expit, logit, ndtri

from daskmlr import plan
from daskmlr.describe import MAX_SHORTFALL, uncertainty_card, uncertainty_text
from daskmlr.errors import ComponentWarning, InputError
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import reduce_tasks
from daskmlr.kernels import uncertainty as kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.graph.execute import ClientLike, Runner
    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, Part
    from daskmlr.progress import Show
    from daskmlr.storage.tasks import TaskStore

Kind = Literal["sandwich", "observed"]


@dataclass(frozen=True)
class Parameters:
    """One number for each parameter of a mixture, in the user's units.

    Attributes
    ----------
    coef : ndarray of shape (k, d), float64
    intercept, noise_variance, weights : ndarray of shape (k,), float64
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    noise_variance: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Uncertainty:
    """How well the tasks fix the parameters; as `Model.uncertainty` gives it.

    Two covariances of the estimates. *Observed*: the inverse of the observed information, right
    when the model holds. *Sandwich*: how the estimates vary also when the noise is neither normal
    nor of one variance, and when examples of a task depend on each other; tasks are the independent
    units. Where components overlap, such noise also moves the estimates themselves, from the truth
    to the least false parameters (White 1982), which the intervals then hold.

    Attributes
    ----------
    estimate : Parameters
        The model's own.
    feature_names : tuple of d str
    shortfall : float
        How far the model is from the maximum of the likelihood of these tasks, in standard errors
        of the parameter that is farthest; small against 1 if the fit converged on these tasks.
    n_tasks : int
        Tasks the information was summed over.
    observed, sandwich : ndarray of shape (k (d + 3), k (d + 3)), float64
        See `covariance`.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(200), 5)
    >>> x = rng.normal(size=1000)
    >>> y = np.where(groups % 3, 3.0, -1.0) * x + 0.5 * rng.normal(size=1000)
    >>> estimator = MixedLinearRegression(2, random_state=0).fit(x[:, None], y, groups=groups)
    >>> uncertainty = estimator.uncertainty(x[:, None], y, groups=groups)
    >>> uncertainty.standard_errors().coef.round(3).ravel().tolist()
    [0.023, 0.026]
    >>> low, high = uncertainty.intervals(0.95)
    >>> bool(np.all((low.coef < estimator.coef_) & (estimator.coef_ < high.coef)))
    True
    """

    estimate: Parameters
    feature_names: tuple[str, ...]
    shortfall: float
    n_tasks: int
    observed: NDArray[np.float64]
    sandwich: NDArray[np.float64]

    def __repr__(self) -> str:
        return uncertainty_text(self)

    def _repr_html_(self) -> str:
        return uncertainty_card(self)

    def covariance(self, kind: Kind = "sandwich") -> NDArray[np.float64]:
        """Covariance of all estimates.

        Parameters
        ----------
        kind : {"sandwich", "observed"}

        Returns
        -------
        ndarray of shape (k (d + 3), k (d + 3)), float64
            In the user's units. Component by component its intercept, its d slopes and its noise
            variance; then the k weights, which sum to one, so that the rank is one less.

        Raises
        ------
        InputError
            If `kind` is neither.
        """
        if kind not in ("sandwich", "observed"):
            raise InputError(f"kind must be 'sandwich' or 'observed', got {kind!r}")
        return self.sandwich if kind == "sandwich" else self.observed

    def standard_errors(self, kind: Kind = "sandwich") -> Parameters:
        """Return the standard error of every parameter; `kind` as for `covariance`."""
        k, d = self.estimate.coef.shape
        errors = np.sqrt(np.diag(self.covariance(kind)).clip(0))
        own = errors[: k * (d + 2)].reshape(k, d + 2)
        return Parameters(own[:, 1:-1], own[:, 0], own[:, -1], errors[k * (d + 2) :])

    def intervals(
        self, level: float = 0.95, *, kind: Kind = "sandwich"
    ) -> tuple[Parameters, Parameters]:
        """Confidence interval of every parameter, each by itself.

        Normal around coefficients and intercepts, around the logarithm of a noise variance, and
        around the log-odds of a weight, so that both stay where they can be.

        Parameters
        ----------
        level : float
            Probability that an interval holds the true value, between 0 and 1.
        kind : {"sandwich", "observed"}

        Returns
        -------
        low, high : Parameters

        Raises
        ------
        InputError
            If `level` or `kind` is impossible.
        """
        z = float(ndtri((1 + check_level(level)) / 2))
        at, error = self.estimate, self.standard_errors(kind)
        noise = error.noise_variance / at.noise_variance
        # a single component has all tasks, for certain
        odds = error.weights / np.maximum(at.weights * (1 - at.weights), np.finfo(float).tiny)
        low, high = (
            Parameters(
                at.coef + q * error.coef,
                at.intercept + q * error.intercept,
                at.noise_variance * np.exp(q * noise),
                expit(logit(at.weights) + q * odds),
            )
            for q in (-z, z)
        )
        return low, high


def check_level(level: float) -> float:
    """Refuse what is no probability of an interval.

    Raises
    ------
    InputError
        Unless ``0 < level < 1``.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, such as 0.95, got {level}")
    return level


def measure_uncertainty(
    tasks: TaskStore,
    frame: Frame,
    mixture: Mixture,
    *,
    part: Part | None = None,
    client: ClientLike,
    progress: bool | Show = False,
) -> Uncertainty:
    """Take the information of a mixture from the tasks it was fitted to, in one pass.

    With a `part`, from its tasks alone.

    Memory and the time to invert grow as the square and the cube of ``p = k (d + 3) - 1``.

    Raises
    ------
    PlanError
        If the covariances of p parameters cannot fit the memory.
    InformationError
        If the tasks do not fix the parameters, as with empty or duplicate components.

    Warns
    -----
    ComponentWarning
        If the model is not at the maximum of the likelihood of these tasks, or a component holds
        fewer tasks than parameters.
    """
    with connect(client, progress) as runner:
        _check_memory(tasks, mixture.n_components, runner)
        sums = reduce_tasks(
            tasks,
            kernel.information_from_block,
            kernel.combine_information,
            args=(frame, mixture, part),
            client=runner,
            name="uncertainty",
        )
    found = kernel.covariances(kernel.finalise_information(sums, mixture))
    for message in _doubts(found.shortfall, sums.mass, tasks):
        warnings.warn(message, ComponentWarning, stacklevel=3)
    slopes, intercepts = frame.to_user(mixture.coef)
    return Uncertainty(
        Parameters(slopes, intercepts, mixture.noise_variance, mixture.weights),
        tasks.feature_names,
        found.shortfall,
        sums.n_tasks,
        kernel.covariance_to_user(found.observed, frame, mixture),
        kernel.covariance_to_user(found.sandwich, frame, mixture),
    )


def _check_memory(tasks: TaskStore, n_components: int, runner: Runner) -> None:
    p = kernel.n_parameters(tasks.n_features, n_components)
    plan.check_inversion(p, limit=runner.own_memory)
    n_threads, limit = runner.worker_resources()
    sum_bytes = plan.sum_bytes_of_uncertainty(tasks.n_features, n_components)
    plan.check_memory(
        plan.plan_pass(tasks, sum_bytes),
        stage=f"uncertainty of {p:,} parameters",
        n_threads=n_threads,
        limit=limit,
    )


def _doubts(shortfall: float, mass: NDArray[np.float64], tasks: TaskStore) -> list[str]:
    """Say where the intervals cannot be trusted."""
    doubts = []
    if shortfall > MAX_SHORTFALL:
        # what a pass gains near the maximum falls with the square of the distance
        factor = (shortfall / MAX_SHORTFALL) ** 2
        doubts.append(
            f"the model is {shortfall:.2g} standard errors from the maximum of the likelihood of "
            f"these {tasks.n_tasks:,} tasks, which moves the intervals off (at most "
            f"{MAX_SHORTFALL}): give the tasks it was fitted to, with soft assignment, and a tol "
            f"smaller by {factor:.2g} times or more"
        )
    few = np.flatnonzero(mass < tasks.n_features + 2)
    if few.size:
        held = ", ".join(f"{c} ({mass[c]:.1f})" for c in few[:8])
        doubts.append(
            f"components hold fewer tasks than the {tasks.n_features + 2} parameters of each: "
            f"{held}. Their sandwich intervals are too narrow: use kind='observed'"
        )
    return doubts
