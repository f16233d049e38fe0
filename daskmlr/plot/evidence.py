"""What speaks for a fit: its spectrum, the sizes of the tasks, the way it went, its rivals."""

from __future__ import annotations

from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.errors import InputError
from daskmlr.plot.style import (
    BLACK,
    BLUE,
    GREY,
    HALO,
    RED,
    axes_of,
    figure_of,
    gaps_from,
    model_of,
    units,
    whole_numbers,
)
from daskmlr.sizes import requirements, size_counts, tasks_at_least
from daskmlr.storage.tasks import TaskStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from daskmlr.model import Model

    # task sizes, and the number of tasks of at least each
    Counts = tuple[NDArray[np.int64], NDArray[np.int64]]

# A difference of BIC from which the evidence is very strong (Kass and Raftery 1995).
VERY_STRONG = 10.0
# Likelihoods that differ by less are the same for all that a fit is used for.
SAME = 1.0
MOST_STEPS = 2000


def spectrum(model: Model, *, ax: Axes | None = None) -> Figure:
    """Draw the eigenvalues of the second moment of the coefficients, and the edge of the noise.

    Directions above the edge (filled) carry signal; k regressions whose mean is taken out have at
    most k - 1. Linear up to the edge, logarithmic above it.

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
        If `model` or `ax` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 2)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0]
    >>> model = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups).model_
    >>> spectrum(model).axes[0].get_title()
    '2 of 2 directions above the noise'
    """
    model = model_of(model, "spectrum")
    values, edge = model.eigenvalues, model.noise_edge
    ax = axes_of(ax)
    index, above = np.arange(1, len(values) + 1), values > edge
    ax.vlines(index, 0, values, color=GREY, linewidth=1)
    for some, fill in ((above, BLUE), (~above, "white")):
        ax.plot(index[some], values[some], "o", color=BLUE, markerfacecolor=fill, clip_on=False,
                zorder=3)  # fmt: skip
    ax.axhspan(0, edge, facecolor="0.93", edgecolor="0.75", hatch="//", linewidth=0)
    ax.axhline(edge, color=RED, linestyle="--")
    ax.annotate(f"noise alone: up to {edge:.3g}", (0, edge), xytext=(6, -5), va="top",
                xycoords=("axes fraction", "data"), textcoords="offset points",
                path_effects=[HALO])  # fmt: skip
    if edge > 0:
        ax.set_yscale("symlog", linthresh=edge)
    ax.set_ylim(1.1 * min(0, float(values.min(initial=0))), 1.5 * max(edge, float(values.max())))
    ax.set_xlim(0.5, len(values) + 0.5)
    whole_numbers(ax)
    ax.set_xlabel("direction of the subspace")
    ax.set_ylabel(f"eigenvalue ({units(model.target_name, squared=True)})")
    ax.set_title(f"{above.sum()} of {len(values)} directions above the noise")
    return figure_of(ax)


def sufficiency(
    tasks: TaskStore | Model, n_components: int | None = None, *, ax: Axes | None = None
) -> Figure:
    """Draw how many tasks have at least t examples, against what k components need.

    Figure 1 of Kong et al. (2020) for a store: the curve should enter both regions, somewhere.
    Orders of magnitude, constants and logarithms dropped; see `daskmlr.sizes.Sufficiency`.

    Parameters
    ----------
    tasks : TaskStore, Model or fitted MixedLinearRegression
        A model knows the tasks of its stores by powers of two of their sizes.
    n_components : int, optional
        k; by default the model's, or the largest power of two that the store has enough for.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If `tasks` or `ax` is something else, or `n_components` is less than 1.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = simulate(f"{folder}/tasks", n_components=2, n_features=3, random_state=0,
    ...                      task_groups=[(1000, 4), (50, 20)])
    ...     sufficiency(tasks, 8).axes[0].get_title()
    '8 components: enough light tasks, enough heavy tasks'
    """
    if isinstance(tasks, TaskStore):
        counts, d = _of_store(tasks), tasks.n_features
        k = _most_components(counts, d) if n_components is None else n_components
    else:
        model = model_of(tasks, "sufficiency, unless of a TaskStore,")
        counts, d = _of_model(model), model.n_features
        k = model.n_components if n_components is None else n_components
    if k < 1:
        raise InputError(f"n_components must be at least 1, got {k}")
    t, n = counts
    ax = axes_of(ax)
    right, top = 1.5 * max(int(t[-1]), 4), 4.0 * n[0]
    met = _draw_regions(ax, counts, d, k, right, top)
    style: dict[str, Any] = (
        {"drawstyle": "steps-pre"} if isinstance(tasks, TaskStore) else {"marker": "."}
    )
    ax.plot(t, n, color=BLACK, linewidth=1.8, label="n(t): tasks of at least t examples", **style)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set(yscale="log", xlim=(1, right), ylim=(0.8, top))
    ax.set_xlabel("t, examples of a task")
    ax.set_ylabel("n(t), tasks")
    said = [f"{'enough' if ok else 'too few'} {name} tasks" for name, ok in met.items()]
    ax.set_title(f"{k} component{'s' if k > 1 else ''}: {', '.join(said)}")
    ax.legend(fontsize="small", framealpha=1)
    return figure_of(ax)


def _draw_regions(
    ax: Axes, counts: Counts, n_features: int, k: int, right: float, top: float
) -> dict[str, bool]:
    """Shade where light and heavy tasks are enough; say whether they are."""
    t, n = counts
    fine = np.geomspace(1, right, 400)
    met = {}
    for name, line, needed, own, colour, hatch, rule in zip(
        ("light", "heavy"),
        ("--", ":"),
        requirements(fine, n_features, k),
        requirements(t, n_features, k),
        (BLUE, RED),
        ("///", "\\\\\\"),
        ("t ≥ log k, n(t) t ≥ d k²", "t ≥ √k, n(t) ≥ k$^{3/2}$, n(t) t ≥ k²"),
        strict=True,
    ):
        some = np.isfinite(needed)
        x, least = fine[some], needed[some]
        ax.fill_between(x, least, top, alpha=0.3, facecolor="none", edgecolor=colour, hatch=hatch,
                        linewidth=0)  # fmt: skip
        ax.plot([*x[:1], *x], [*[top] * len(x[:1]), *least], color=colour, linestyle=line,
                label=f"enough {name} tasks: {rule}")  # fmt: skip
        met[name] = bool((n >= own).any())
    return met


def _of_store(tasks: TaskStore) -> Counts:
    counts = size_counts(tasks)
    sizes = np.flatnonzero(counts)
    if len(sizes) > MOST_STEPS:
        places = np.geomspace(1, len(sizes), MOST_STEPS).astype(np.int64) - 1
        sizes = sizes[np.unique(places)]
    t = np.union1d([1], sizes)
    return t, tasks_at_least(counts)[t]


def _of_model(model: Model) -> Counts:
    total: dict[int, int] = {}
    for entry in model.data:
        for t, n in entry["tasks_at_least"]:
            total[t] = total.get(t, 0) + n
    if not total:
        raise InputError("the model does not know the sizes of its tasks: give the store")
    return np.array(sorted(total)), np.array([total[t] for t in sorted(total)])


def _most_components(counts: Counts, n_features: int) -> int:
    t, n = counts
    enough = 2
    for k in (2**i for i in range(1, 21)):
        if not all((n >= needed).any() for needed in requirements(t, n_features, k)):
            break
        enough = k
    return enough


def convergence(model: Model, *, ax: Axes | None = None) -> Figure:
    """Draw how far each pass of the refinement, and each restart of the search, was from the best.

    Passes are over all tasks, restarts over the heavy ones: their likelihoods are not to be
    compared with each other. Where the search leaves two candidates, each takes a few passes first.
    A line down the picture is a stage between two passes. Linear up to a difference of one,
    logarithmic above it. Passes of updates are not shown.

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
        If `model` or `ax` is something else, or the model has no history.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 1)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0] + 0.3 * X[::-1, 0]
    >>> model = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups).model_
    >>> convergence(model).axes[0].get_title()
    'Converged after 2 refinement passes; the best restarts agree'
    """
    model = model_of(model, "convergence")
    runs, between = _runs(model.history)
    if not runs:
        raise InputError("the model has no history of refinement passes: fit it again")
    ax = axes_of(ax)
    n_tasks = model.data[0]["tasks"] if model.data else model.n_tasks
    for i, run in enumerate(runs):
        ax.plot(*zip(*run, strict=True), color=BLUE, marker="o",
                label=None if i else f"passes over {n_tasks:,} tasks")  # fmt: skip
    for place, stage in between.items():
        ax.axvline(place, color=GREY, linestyle=":", linewidth=1)
        ax.annotate(
            stage, (place, 0.98), xycoords=("data", "axes fraction"), color=GREY, rotation=90,
            ha="right", va="top", fontsize="small", path_effects=[HALO],
        )  # fmt: skip
    restarts = np.array(model.diagnostics.get("restart_log_likelihoods", []))
    if restarts.size:
        ax.plot(
            np.arange(1, len(restarts) + 1), restarts.max() - restarts, color=RED, marker="s",
            linestyle="none", markerfacecolor="white", label="restarts over the heavy tasks",
        )  # fmt: skip
    gaps_from(ax, SAME)
    whole_numbers(ax)
    ax.set_xlabel("refinement pass; restart, best first")
    ax.set_ylabel("log-likelihood below the best")
    ax.set_title(_how_it_ended(model, sum(len(run) for run in runs)))
    ax.legend()
    return figure_of(ax)


def _runs(
    history: tuple[dict[str, Any], ...],
) -> tuple[list[list[tuple[int, float]]], dict[float, str]]:
    """Cut a fit into runs of passes, each pass with its number and how far it is from the best.

    The best is that of the same tasks: a robust fit leaves out others after each stage ``odd``.
    Also return the stages between passes, by place, the first of several of one name.
    """
    marks: list[tuple[int, int | None]] = []
    values: list[float] = []
    between: dict[float, str] = {}
    n_odd = 0
    for entry in takewhile(lambda entry: entry["stage"] != "diagnose", history):  # then updates
        stage = entry["stage"]
        if stage == "refine":
            marks.append((n_odd, entry.get("start")))
            values.append(entry["log_likelihood"])
            continue
        n_odd += stage == "odd"
        if values and stage not in between.values():
            between[len(values) + 0.5] = stage
    best = {
        n: max(v for v, mark in zip(values, marks, strict=True) if mark[0] == n) for n, _ in marks
    }
    gaps = [(i + 1, best[marks[i][0]] - value) for i, value in enumerate(values)]
    runs = groupby(gaps, key=lambda gap: marks[gap[0] - 1])
    between = {place: stage for place, stage in between.items() if place < len(values)}
    return [list(run) for _, run in runs], between


def _how_it_ended(model: Model, n_passes: int) -> str:
    end = "Converged" if model.converged else "Not converged"
    said = f"{end} after {n_passes} refinement pass{'es' if n_passes > 1 else ''}"
    if not model.diagnostics.get("restart_log_likelihoods"):
        return said
    agreed = model.diagnostics["restarts_agreed"]
    return f"{said}; {'the best restarts agree' if agreed else 'no two restarts agree'}"


def selection(model: Model, *, ax: Axes | None = None) -> Figure:
    """Draw by how much BIC and ICL of each number of components exceed the smallest.

    Linear up to ten, a difference that is very strong evidence, logarithmic above it.

    Parameters
    ----------
    model : Model or fitted MixedLinearRegression
        Fitted with ``n_components="auto"``.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If `model` or `ax` is something else, or the number of components was given.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> rng = np.random.default_rng(0)
    >>> X, groups = rng.normal(size=(2000, 1)), np.repeat(np.arange(400), 5)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0] + 0.3 * rng.normal(size=2000)
    >>> model = MixedLinearRegression("auto", random_state=0).fit(X, y, groups=groups).model_
    >>> selection(model).axes[0].get_title()
    'Chosen: 2 components'
    """
    model = model_of(model, "selection")
    trials = model.diagnostics.get("selection")
    if not trials:
        raise InputError(
            f"the model was told to have {model.n_components} components, so that no others were "
            "tried: fit with n_components='auto'"
        )
    ax = axes_of(ax)
    left_out = [str(trial["n_components"]) for trial in trials if not trial["bounded"]]
    shown = [trial for trial in trials if trial["bounded"] or trial["kept"]]
    k = np.array([trial["n_components"] for trial in shown])
    for name, label, colour, marker, line in (
        ("bic", "BIC", BLUE, "o", "-"),
        ("icl", "ICL", RED, "s", "--"),
    ):
        values = np.array([trial[name] for trial in shown])
        ax.plot(
            k, values - values.min(), color=colour, marker=marker, linestyle=line,
            markerfacecolor="white", label=f"{label}, smallest {values.min():.6g}",
        )  # fmt: skip
    ax.axhline(VERY_STRONG, color=GREY, linestyle=":", label="above: very strong evidence against")
    ax.axvline(model.n_components, color="0.9", linewidth=8, zorder=0)
    gaps_from(ax, VERY_STRONG)
    whole_numbers(ax)
    ax.set_xlabel("number of components")
    ax.set_ylabel("criterion above its smallest value")
    ax.set_title(f"Chosen: {model.n_components} component{'s' if model.n_components > 1 else ''}")
    said = f"left out, some tasks explained exactly: {', '.join(left_out)}"
    ax.legend(title=said if left_out else None, title_fontsize="small")
    return figure_of(ax)
