"""The pictures of a report, each as one picture in the page itself, with its words."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from daskmlr.errors import InputError
from daskmlr.markup import number, some

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from daskmlr.model import Model
    from daskmlr.uncertainty import Uncertainty


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes
    ----------
    caption : str
    said : str
        What it shows, for those who cannot see it.
    source : str
        A ``data:`` URL: the page asks for nothing.
    """

    caption: str
    said: str
    source: str


def check_plots() -> None:
    """Refuse to draw without matplotlib.

    Raises
    ------
    InputError
    """
    try:
        import daskmlr.plot  # noqa: F401 - whether it can be
    except ImportError as error:
        raise InputError(f"a report has figures: {error}") from error


def pictures(model: Model, uncertainty: Uncertainty | None) -> dict[str, list[Picture]]:
    """Draw what a model has the facts for, by section of the page.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    check_plots()
    from daskmlr import plot

    k, values = model.n_components, model.eigenvalues
    eigenvalues = some([number(value) for value in values.tolist()], 16)
    wanted: dict[str, list[tuple[str, str, Callable[[], Figure]]]] = {
        "quality": [
            (
                "How the search and the passes came to the best likelihood.",
                f"Log-likelihood below the best, for each of {model.n_iter} passes; the table of "
                "stages and the figures above say how it ended.",
                lambda: plot.convergence(model),
            )
        ],
        "evidence": [
            (
                "Eigenvalues of the coefficients' second moment, and the edge of the noise.",
                f"Eigenvalues {eigenvalues}; noise alone gives up to {number(model.noise_edge)}.",
                lambda: plot.spectrum(model),
            ),
            (
                "How much worse other numbers of components are.",
                "BIC and ICL by the number of components, above the smallest: see the table.",
                lambda: plot.selection(model),
            ),
            (
                "The largest tasks, each fitted by itself, along the first two directions.",
                f"A scatter of the largest tasks around the {k} components, by component.",
                lambda: plot.projected_tasks(model),
            ),
            (
                "How far the largest tasks are from each other.",
                "A histogram of the distances between the coefficients of pairs of tasks: of one "
                "component, and of two.",
                lambda: plot.distances(model),
            ),
            (
                "Whether tasks are many and large enough for so many components, by orders of "
                "magnitude.",
                "The number of tasks with at least t examples, by t, and the regions that "
                f"{k} components need.",
                lambda: plot.sufficiency(model),
            ),
        ],
        "components": [
            (
                "Coefficients with their intervals, for a standard deviation of each feature.",
                "A point and a line for each coefficient: see the table.",
                lambda: plot.coefficients(model, uncertainty),
            )
        ],
    }
    drawn: dict[str, list[Picture]] = {}
    for section, figures in wanted.items():
        drawn[section] = []
        for caption, said, draw in figures:
            try:
                figure = draw()
            except InputError:
                continue  # the model has not the facts for it
            drawn[section].append(Picture(caption, said, _source(figure)))
    return drawn


def coefficient_errors(
    model: Model, uncertainty: Uncertainty | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the standard errors that the picture of the coefficients shows, and intercepts'."""
    from daskmlr.plot.components import coefficient_errors as drawn

    return drawn(model, uncertainty)


def _source(figure: Figure) -> str:
    """Return a figure as SVG in a URL, the same bits each time."""
    import matplotlib as mpl

    file = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "daskmlr", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
