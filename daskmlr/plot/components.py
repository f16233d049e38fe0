"""The components themselves: their coefficients, and the heavy tasks around them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist
from scipy.special import ndtri

from daskmlr.errors import InputError
from daskmlr.plot.style import (
    BLACK,
    BLUE,
    GREY,
    HALO,
    RED,
    axes_of,
    figure_of,
    model_of,
    sign,
    units,
    word,
)
from daskmlr.uncertainty import Uncertainty, check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from daskmlr.model import Model

MOST_FEATURES = 12
MOST_COMPONENTS = 12
N_BINS = 60
# A Gram matrix, of unit diagonal, with a smaller share of its largest eigenvalue fixes nothing.
SINGULAR = 1e-12


def coefficients(
    model: Model,
    uncertainty: Uncertainty | None = None,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Figure:
    """Draw the coefficients of every component, with confidence intervals.

    Each is taken times the standard deviation of its feature (beside its name; of a model of many
    features, a power of two near it), so that features can be compared. Of many features those
    that move the target most, in some component, are shown; of many components the largest.

    Parameters
    ----------
    model : Model or fitted MixedLinearRegression
    uncertainty : Uncertainty, optional
        As `Model.uncertainty` gives it, a pass over the tasks. Without it the intervals are those
        of least squares, as if the labels of the tasks were certain: too narrow where components
        overlap; and of a model of many features, as if its subspace were known.
    level : float
        Probability that an interval holds the true value.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If an argument is something else, `uncertainty` is of another model, or `level` impossible.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 2)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0]
    >>> fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    >>> [label.get_text() for label in coefficients(fitted).axes[0].get_yticklabels()]
    ['x0 (sd 1)', 'x1 (sd 0.996)']
    """
    model = model_of(model, "coefficients")
    errors, _ = coefficient_errors(model, uncertainty)
    z, scale = float(ndtri((1 + check_level(level)) / 2)), model.feature_scale
    effects = model.coef * scale
    shown = np.argsort(-np.abs(effects).max(axis=0), kind="stable")[:MOST_FEATURES]
    k, n = min(model.n_components, MOST_COMPONENTS), len(shown)
    ax = axes_of(ax, height=1.6 + n * max(0.3, 0.11 * k))
    for i in range(k):
        ax.errorbar(
            effects[i, shown], np.arange(n) + 0.8 * ((i + 0.5) / k - 0.5),
            xerr=z * errors[i, shown] * scale[shown], linestyle="none", markersize=5, capsize=2,
            **sign(i), label=f"{i} ({100 * model.weights[i]:.3g} % of tasks)",
        )  # fmt: skip
    ax.axvline(0, color=GREY, linewidth=1, zorder=0)
    for row in range(1, n):
        ax.axhline(row - 0.5, color="0.9", linewidth=1, zorder=0)
    short, long = ("scale", "scale") if model.is_wide else ("sd", "standard deviation")
    names = [f"{word(model.feature_names[j])} ({short} {scale[j]:.3g})" for j in shown]
    ax.set_yticks(np.arange(n), names)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlabel(f"coefficient × {long} of its feature ({units(model.target_name)})")
    kind = "intervals, as if labels were certain" if uncertainty is None else "confidence intervals"
    title = [f"{100 * level:g} % {kind}", *_left_out(model, errors[:k], n)]
    ax.set_title("\n".join(title), fontsize="medium")
    ax.legend(title="component", fontsize="small", bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure_of(ax)


def _left_out(model: Model, errors: NDArray[np.float64], n_features: int) -> list[str]:
    """Say what a picture of coefficients does not show."""
    said = []
    if np.isnan(errors).any():
        said.append("none where examples are too few")
    if n_features < model.n_features:
        said.append(f"{n_features} of {model.n_features:,} features, by effect")
    if len(errors) < model.n_components:
        said.append(f"{len(errors)} of {model.n_components} components")
    return [f"({', '.join(said)})"] if said else []


def coefficient_errors(
    model: Model, uncertainty: Uncertainty | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the standard errors of coefficients and intercepts, shapes (k, d) and (k,).

    Without an uncertainty they are taken as if the labels of all tasks were certain.
    """
    if uncertainty is None:
        return _certain_errors(model)
    if not isinstance(uncertainty, Uncertainty):
        raise InputError(f"uncertainty must be an Uncertainty, got a {type(uncertainty).__name__}")
    theirs = uncertainty.estimate.coef
    if theirs.shape != model.coef.shape or not np.allclose(theirs, model.coef, rtol=1e-6):
        raise InputError("uncertainty is of another model: take it by model.uncertainty(tasks)")
    errors = uncertainty.standard_errors()
    return errors.coef, errors.intercept


def _certain_errors(model: Model) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of each component's least squares by itself: ``s^2 (sum a a^T)^-1``.

    Not a number where the examples of a component fix no regression.
    """
    units_alone = replace(model.frame, offset=np.zeros_like(model.offset))
    slopes, intercepts = np.full_like(model.coef, np.nan), np.full_like(model.intercept, np.nan)
    for i, (gram, noise) in enumerate(
        zip(model.gram[:, :-1, :-1], model.noise_variance, strict=True)
    ):
        spread = np.sqrt(np.diag(gram))
        if (spread == 0).any():
            continue
        values, vectors = np.linalg.eigh(gram / np.outer(spread, spread))
        if values[0] <= SINGULAR * values[-1]:
            continue
        root = (vectors / np.sqrt(values) / spread[:, None]).T
        for own, part in zip((slopes, intercepts), units_alone.to_user(root), strict=True):
            own[i] = np.sqrt(noise * np.square(part).sum(axis=0))
    return slopes, intercepts


def projected_tasks(model: Model, *, ax: Axes | None = None) -> Figure:
    """Draw the coefficients of heavy tasks in the first two directions, and the components.

    Each task's by itself, a ridge estimate from its own examples: the scatter around a component
    is noise and shrinks with the size of tasks. Tasks between components have few examples, or
    follow a component that the model lacks. As the fit left them, before any update.

    Parameters
    ----------
    model : Model or fitted MixedLinearRegression
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If `model` or `ax` is something else, or the model keeps no tasks.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 2)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0]
    >>> fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    >>> projected_tasks(fitted).axes[0].get_title()
    '100 of the largest tasks, of 4 examples'
    """
    model = _with_sample(model, "projected_tasks")
    sizes, centres = model.heavy_sizes, model.heavy_centres
    points = model.heavy_coef
    if points.shape[1] == 1:  # a single direction: apart from each other by their labels
        points = np.column_stack([points, model.heavy_labels])
        centres = np.column_stack([centres, np.arange(len(centres))])
    ax = axes_of(ax, height=5)
    for i in range(model.n_components):
        own = model.heavy_labels == i
        label = (
            f"{i} ({own.sum()} task{'' if own.sum() == 1 else 's'})"
            if i < MOST_COMPONENTS
            else None
        )
        x, y = points[own, :2].T
        ax.scatter(x, y, s=16, alpha=0.6, linewidths=0, label=label, **sign(i))
    for i, centre in enumerate(centres[:, :2]):
        x, y = centre
        ax.scatter(x, y, s=110, edgecolors="black", linewidths=1.2, zorder=3, **sign(i))
        ax.annotate(str(i), centre, xytext=(7, 5), textcoords="offset points", fontweight="bold",
                    zorder=4, path_effects=[HALO])  # fmt: skip
    ax.set_xlabel(f"coefficient along direction 1 ({units(model.target_name)})")
    if model.heavy_coef.shape[1] == 1:
        ax.set_ylabel("component")
        ax.set_yticks(np.arange(model.n_components))
    else:
        ax.set_ylabel(f"along direction 2 ({units(model.target_name)})")
        _same_scale(ax, np.vstack([points[:, :2], centres[:, :2]]))
    least, most = sizes.min(), sizes.max()
    of = f"{least} to {most}" if most > least else f"{most}"
    ax.set_title(f"{len(sizes)} of the largest tasks, of {of} examples", fontsize="medium")
    ax.legend(title="component", fontsize="small", markerscale=1.6, bbox_to_anchor=(1.01, 1),
              loc="upper left")  # fmt: skip
    return figure_of(ax)


def _same_scale(ax: Axes, points: NDArray[np.float64]) -> None:
    """Show all points in a square, one unit as long in both directions."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.55 * max(float((high - low).max()), np.finfo(float).tiny)
    x, y = (low + high) / 2
    ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    ax.set_aspect("equal", adjustable="box")


def distances(model: Model, *, ax: Axes | None = None) -> Figure:
    """Draw how far the coefficients of heavy tasks are from each other, by pairs of tasks.

    Well separated components show two humps: pairs of one component, and of two. A distance is the
    root mean square difference of what two tasks' coefficients foretell, over all examples. As the
    fit left them, before any update.

    Parameters
    ----------
    model : Model or fitted MixedLinearRegression
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If `model` or `ax` is something else, or the model keeps fewer than two tasks.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 2)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0]
    >>> fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    >>> distances(fitted).axes[0].get_title()
    '4,950 pairs of 100 heavy tasks'
    """
    model = _with_sample(model, "distances")
    n = len(model.heavy_coef)
    if n < 2:
        raise InputError("distances needs at least 2 heavy tasks, and the model keeps 1")
    apart = pdist(model.heavy_coef)
    first, second = np.triu_indices(n, 1)
    same = model.heavy_labels[first] == model.heavy_labels[second]
    bins = np.histogram_bin_edges(apart, N_BINS).tolist()
    ax = axes_of(ax)
    if same.any():
        ax.hist(apart[same], bins, color=BLUE, alpha=0.7, label="tasks of one component")
    if not same.all():
        ax.hist(apart[~same], bins, histtype="step", edgecolor=RED, hatch="///", linewidth=1.2,
                label="tasks of two components")  # fmt: skip
    if model.n_components > 1:
        between = pdist(model.heavy_centres)
        ax.plot(between, np.zeros_like(between), "|", color=BLACK, markersize=14,
                markeredgewidth=1.5, clip_on=False, zorder=3,
                label="two components themselves")  # fmt: skip
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(f"distance of coefficients ({units(model.target_name)})")
    ax.set_ylabel("pairs of tasks")
    ax.set_title(f"{len(apart):,} pairs of {n} heavy tasks")
    ax.legend()
    return figure_of(ax)


def _with_sample(model: Model, what: str) -> Model:
    model = model_of(model, what)
    if len(model.heavy_coef) == 0:
        raise InputError(f"{what} needs the heavy tasks of a fit, and the model keeps none")
    return model
