"""The report of a fit: one page that needs neither network nor script."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from daskmlr import markup
from daskmlr.describe import (
    components_of,
    fit_facts,
    headline,
    largest,
    reference_levels,
    uncertainty_doubts,
)
from daskmlr.errors import InputError
from daskmlr.graph.environment import PACKAGES
from daskmlr.report.figures import coefficient_errors, pictures
from daskmlr.report.timing import stage_times
from daskmlr.report.words import component_words, evidence_words
from daskmlr.storage.files import publishing_file
from daskmlr.storage.showing import size_classes

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from daskmlr.model import Model
    from daskmlr.uncertainty import Uncertainty

# Of very many components and features the page shows so many; the model has them all.
SHOWN_COMPONENTS = 64
SHOWN_COEFFICIENTS = 20
LEVEL = 0.95


@dataclass(frozen=True)
class Coefficient:
    """A row of a component's table.

    Attributes
    ----------
    feature : str
    value, low, high : float
        The estimate and its interval; not numbers where it is not known.
    effect : float
        What a standard deviation of the feature moves the target by; not a number of an intercept.
    """

    feature: str
    value: float
    low: float
    high: float
    effect: float


def write_report(
    model: Model, out: str | os.PathLike[str], *, uncertainty: Uncertainty | None = None
) -> None:
    """Write a page about a model, for a browser or for print.

    Parameters
    ----------
    model : Model
    out : path or URL
        A new HTML file, ``.html`` or ``.htm``.
    uncertainty : Uncertainty, optional
        Of this model, for the intervals of the coefficients; by default they are taken as if the
        labels of all tasks were certain, which the model alone knows.

    Raises
    ------
    PathExistsError
        If `out` exists.
    InputError
        If `out` ends otherwise, or matplotlib is not installed: ``pip install 'daskmlr[plot]'``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from daskmlr import MixedLinearRegression
    >>> from daskmlr.report import write_report
    >>> rng = np.random.default_rng(0)
    >>> X, groups = rng.normal(size=(400, 1)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0] + 0.3 * rng.normal(size=400)
    >>> model = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups).model_
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(model, f"{folder}/report.html")
    ...     print(Path(f"{folder}/report.html").read_text()[:15])
    <!DOCTYPE html>
    """
    check_html(out)
    with publishing_file(out) as file:
        file.write_text(report_page(model, uncertainty), encoding="utf-8")


def check_html(out: str | os.PathLike[str]) -> None:
    """Refuse a path whose ending promises something else than HTML.

    Raises
    ------
    InputError
    """
    if PurePath(out).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"a report is a page of HTML and goes to a .html or .htm file, got {out}")


def report_page(model: Model, uncertainty: Uncertainty | None = None) -> str:
    """Return that page as text."""
    times = stage_times(model.history)
    drawn = pictures(model, uncertainty)
    errors = coefficient_errors(model, uncertainty)
    return markup.render(
        "page.html",
        model=model,
        headline=headline(model),
        written_by=version("daskmlr"),
        ended=_ended(model),
        versions=_versions(model),
        against=reference_levels(model.encoding),
        fit=fit_facts(model),
        sizes=_sizes(model),
        evidence=evidence_words(model),
        trials=_trials(model),
        notes=[*model.notes, *(uncertainty_doubts(uncertainty) if uncertainty else ())],
        doubts=_doubts(model),
        components=[
            {
                "facts": one,
                "words": component_words(model, i),
                "rows": _coefficients(model, errors, i),
            }
            for i, one in enumerate(components_of(model)[:SHOWN_COMPONENTS])
        ],
        certain=uncertainty is None,
        level=f"{100 * LEVEL:g} %",
        pictures=drawn,
        times=times,
        seconds=sum(time.seconds for time in times),
        longest=max((time.seconds for time in times), default=1.0),
    )


def _ended(model: Model) -> str:
    """Say when the last stage ended; nothing if that is not known."""
    at = model.history[-1].get("at", "") if model.history else ""
    return str(at).replace("T", " ").replace("+00:00", " UTC")


def _versions(model: Model) -> list[str]:
    """Name the packages that the fit computed with, and its updates."""
    found = [item for source in model.data for item in source.get("versions", {}).items()]
    shown = ("Python", *PACKAGES)
    return [f"{name} {release}" for name, release in dict.fromkeys(found) if name in shown]


def _sizes(model: Model) -> list[tuple[str, int]]:
    """Tasks by size, of all stores together, in powers of two."""
    at_least: dict[int, int] = {}
    for source in model.data:
        for t, n in source["tasks_at_least"]:
            at_least[t] = at_least.get(t, 0) + n
    counts = np.zeros(max(at_least, default=0) + 1, dtype=np.int64)
    for t, n in at_least.items():
        counts[t] = n - at_least.get(2 * t, 0)
    return size_classes(counts, by_powers=True) if at_least else []


def _trials(model: Model) -> list[dict[str, Any]]:
    """Return the numbers of components that were tried, each with how much worse its BIC is."""
    trials = model.diagnostics.get("selection", [])
    best = sum(trial["bic"] for trial in trials if trial["kept"])
    return [{**trial, "worse": trial["bic"] - best} for trial in trials]


def _doubts(model: Model) -> list[dict[str, Any]]:
    """Return what the diagnosis says of each component."""
    facts = model.diagnostics
    if model.n_components == 1 or "merging_loss" not in facts:
        return []
    return [
        {
            "examples": facts["examples_per_component"][i],
            "nearest": facts["nearest_component"][i],
            "loss": facts["merging_loss"][i],
            "shared": float(np.sqrt(max(facts["residual_signal"][i], 0))),
            "edge": float(np.sqrt(max(facts["residual_signal_edge"][i], 0))),
        }
        for i in range(min(model.n_components, SHOWN_COMPONENTS))
    ]


def _coefficients(
    model: Model, errors: tuple[NDArray[np.float64], NDArray[np.float64]], component: int
) -> list[Coefficient]:
    """Return the coefficients that move the target most for a spread of their feature.

    Then the intercept, which has no effect.
    """
    coef, wide = model.coef[component], float(ndtri((1 + LEVEL) / 2))
    effects = coef * model.feature_scale
    shown = [
        (model.feature_names[j], coef[j], errors[0][component, j], effects[j])
        for j in largest(effects, SHOWN_COEFFICIENTS).tolist()
    ]
    shown.append(("(intercept)", model.intercept[component], errors[1][component], np.nan))
    return [
        Coefficient(
            name, float(at), float(at - wide * error), float(at + wide * error), float(effect)
        )
        for name, at, error, effect in shown
    ]
