"""What fitted regressions show of themselves: text in a terminal, HTML cards in a notebook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from daskmlr import markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

SHOWN_COMPONENTS = 32
SHOWN_EFFECTS = 6
# Intervals of 95 % around estimates so many standard errors from the maximum cover 94.3 %.
MAX_SHORTFALL = 0.25


class _Mixture(Protocol):
    """Parameters, as `Model` and `Parameters` have them."""

    @property
    def coef(self) -> Numbers: ...
    @property
    def intercept(self) -> Numbers: ...
    @property
    def noise_variance(self) -> Numbers: ...
    @property
    def weights(self) -> Numbers: ...


class _Model(_Mixture, Protocol):
    """What is shown of a `Model`."""

    @property
    def n_components(self) -> int: ...
    @property
    def feature_names(self) -> tuple[str, ...]: ...
    @property
    def feature_scale(self) -> Numbers: ...
    @property
    def target_name(self) -> str: ...
    @property
    def task_name(self) -> str: ...
    @property
    def encoding(self) -> dict[str, Any] | None: ...
    @property
    def log_likelihood(self) -> float: ...
    @property
    def n_tasks(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_iter(self) -> int: ...
    @property
    def converged(self) -> bool: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def diagnostics(self) -> dict[str, Any]: ...


class _Uncertainty(Protocol):
    """What is shown of an `Uncertainty`."""

    @property
    def estimate(self) -> _Mixture: ...
    @property
    def feature_names(self) -> tuple[str, ...]: ...
    @property
    def n_tasks(self) -> int: ...
    @property
    def shortfall(self) -> float: ...
    def standard_errors(self) -> _Mixture: ...
    def intervals(self) -> tuple[_Mixture, _Mixture]: ...


@dataclass(frozen=True)
class Component:
    """One regression of a mixture, as it is shown.

    Attributes
    ----------
    weight, noise_std, intercept : float
    effects : list of (name, coefficient)
        Of the features that move the target most per standard deviation, the largest first.
    """

    weight: float
    noise_std: float
    intercept: float
    effects: list[tuple[str, float]]


def components_of(model: _Model, *, most: int = SHOWN_EFFECTS) -> list[Component]:
    """Return the components of a model, each with its largest effects."""
    spread = model.feature_scale
    return [
        Component(
            float(model.weights[i]),
            math.sqrt(model.noise_variance[i]),
            float(model.intercept[i]),
            [
                (model.feature_names[j], float(coef[j]))
                for j in largest(coef * spread, most).tolist()
            ],
        )
        for i, coef in enumerate(model.coef)
    ]


def largest(values: Numbers, most: int) -> NDArray[np.intp]:
    """Positions of the values that are farthest from zero, the farthest first.

    Examples
    --------
    >>> largest(np.array([1.0, -3.0, 2.0]), 2).tolist()
    [1, 2]
    """
    return np.argsort(-np.abs(values), kind="stable")[:most]


def reference_levels(encoding: dict[str, Any] | None) -> list[str]:
    """Category of each categorical column that has no feature: coefficients are against it.

    Examples
    --------
    >>> reference_levels({"columns": ["hour", "sky"], "categories": {"sky": ["blue", "grey"]}})
    ['sky=blue']
    """
    categories = encoding["categories"] if encoding else {}
    return [f"{column}={levels[0]}" for column, levels in categories.items()]


def headline(model: _Model) -> str:
    """Say in a line what a model is."""
    k, d = model.n_components, len(model.feature_names)
    return (
        f"{k} linear regression{'s' * (k != 1)} of {model.target_name} on {d:,} "
        f"feature{'s' * (d != 1)}, fitted to {model.n_tasks:,} tasks by {model.task_name}"
    )


def fit_facts(model: _Model) -> list[tuple[str, str]]:
    """Say how a fit ended, name by name."""
    facts, number = model.diagnostics, markup.number
    end = "converged" if model.converged else "not converged"
    fit = [
        ("Examples", f"{model.n_rows:,}"),
        ("Refinement", f"{model.n_iter} passes, {end}"),
        (
            "Log-likelihood",
            f"{model.log_likelihood:.6g} ({model.log_likelihood / model.n_rows:.4g} an example)",
        ),
    ]
    if {"bic", "bic_of_one"} <= facts.keys():
        one = f" (one regression for all: {facts['bic_of_one']:.6g})"
        fit.append(("BIC", f"{facts['bic']:.6g}{one if model.n_components > 1 else ''}"))
    if "label_entropy" in facts and model.n_components > 1:
        nats = f"{number(facts['label_entropy'])} nats a task (0: every label is sure; "
        fit.append(("Label entropy", f"{nats}{number(math.log(model.n_components))}: none is)"))
    return fit


COMPONENTS = ("component", "weight", "noise std", "intercept", "largest effects (coefficient)")


def model_text(model: _Model) -> str:
    """Return a model in text: what speaks against it, its components, how the fit ended."""
    shown = components_of(model)[:SHOWN_COMPONENTS]
    rows: list[tuple[str, ...]] = [COMPONENTS]
    for i, one in enumerate(shown):
        effects = ", ".join(f"{name} {value:+.4g}" for name, value in one.effects)
        figures = map(markup.number, (one.weight, one.noise_std, one.intercept))
        rows.append((str(i), *figures, effects))
    lines = [f"Model: {headline(model)}", *(f"Warning: {said}" for said in model.notes)]
    lines.append(markup.aligned(rows))
    if len(shown) < model.n_components:
        lines.append(f"... {model.n_components - len(shown)} more components")
    if against := reference_levels(model.encoding):
        lines.append(f"The intercept is that of {markup.some(against)}.")
    lines += [f"{name}: {value}" for name, value in fit_facts(model)]
    return "\n".join(lines)


def model_card(model: _Model) -> str:
    """Return a model in HTML."""
    return markup.render(
        "model.html",
        model=model,
        headline=headline(model),
        rows=components_of(model)[:SHOWN_COMPONENTS],
        against=reference_levels(model.encoding),
        fit=fit_facts(model),
    )


class CardOfModel:
    """Adds the card of `model_`, once there is one, to scikit-learn's diagram of an estimator."""

    def _repr_html_inner(self) -> str:
        return self._with_card(super()._repr_html_inner())  # type: ignore[misc]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] = self._with_card(bundle["text/html"])
        return bundle

    def _with_card(self, diagram: str) -> str:
        model = getattr(self, "model_", None)
        return diagram if model is None else diagram + model_card(model)


def uncertainty_text(found: _Uncertainty) -> str:
    """Return an uncertainty in text."""
    said = [f"Warning: {doubt}" for doubt in uncertainty_doubts(found)]
    return "\n".join(
        [
            f"Uncertainty: {_headline(found)}",
            *said,
            markup.aligned([INTERVALS, *_interval_rows(found)]),
            _caption(found),
        ]
    )


def uncertainty_card(found: _Uncertainty) -> str:
    """Return an uncertainty in HTML."""
    return markup.render(
        "uncertainty.html",
        headline=_headline(found),
        doubts=uncertainty_doubts(found),
        header=INTERVALS,
        rows=_interval_rows(found),
        caption=_caption(found),
    )


INTERVALS = ("component", "parameter", "estimate", "std error", "low", "high")


def _interval_rows(found: _Uncertainty) -> list[tuple[str, ...]]:
    """Share of tasks, intercept, and the coefficients farthest from zero, by their errors."""
    at, error, (low, high) = found.estimate, found.standard_errors(), found.intervals()
    rows: list[tuple[str, ...]] = []

    def add(component: int, shown: str, name: str, *place: int) -> None:
        values = (float(getattr(part, name)[place]) for part in (at, error, low, high))
        rows.append((str(component), shown, *map(markup.number, values)))

    for i in range(min(len(at.weights), SHOWN_COMPONENTS)):
        add(i, "share of tasks", "weights", i)
        add(i, "intercept", "intercept", i)
        sure = at.coef[i] / np.maximum(error.coef[i], np.finfo(float).tiny)
        for j in largest(sure, SHOWN_EFFECTS).tolist():
            add(i, found.feature_names[j], "coef", i, j)
    return rows


def _headline(found: _Uncertainty) -> str:
    k, d = found.estimate.coef.shape
    return f"{k} components, {d:,} features, {found.n_tasks:,} tasks"


def uncertainty_doubts(found: _Uncertainty) -> Sequence[str]:
    """Warn where the intervals are off; `measure_uncertainty` has said more."""
    if found.shortfall <= MAX_SHORTFALL:
        return []
    return [
        f"the model is {found.shortfall:.2g} standard errors from the maximum of the likelihood "
        "of these tasks, which moves the intervals off"
    ]


def _caption(found: _Uncertainty) -> str:
    k, d = found.estimate.coef.shape
    left_out = "" if k <= SHOWN_COMPONENTS and d <= SHOWN_EFFECTS else (
        f" Of up to {SHOWN_COMPONENTS} components the {SHOWN_EFFECTS} coefficients farthest from "
        "zero, by their errors."
    )  # fmt: skip
    return f"95 % confidence intervals by the sandwich covariance.{left_out}"
