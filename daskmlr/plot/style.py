"""What the pictures share: figures, signs that need no colour, words for axes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from daskmlr.errors import InputError
from daskmlr.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

# Okabe and Ito (2008), without the yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Of another number than the colours: the pairs repeat after seventy.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
BLUE, RED, BLACK, GREY = COLOURS[0], COLOURS[1], "#000000", "#767676"
# Around text that lies on lines and points.
HALO = withStroke(linewidth=3, foreground="white")
MOST_LETTERS = 32
DPI = 110


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def axes_of(ax: Axes | None, *, width: float = 6.4, height: float = 4.2) -> Axes:
    """Return the axes to draw on: those given, or a new figure's, of a size in inches.

    Raises
    ------
    InputError
        If `ax` is something else.
    """
    if ax is None:
        ax = Picture(figsize=(width, height), layout="constrained").add_subplot()
        ax.spines[["top", "right"]].set_visible(False)
    if not isinstance(ax, Axes):
        raise InputError(f"ax must be axes of matplotlib or None, got a {type(ax).__name__}")
    return ax


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that axes lie in, of a subfigure too."""
    figure = ax.get_figure()
    assert figure is not None  # noqa: S101 - only axes that were removed have none
    return figure.figure


def model_of(model: Any, what: str) -> Model:
    """Return a model, that of a fitted estimator too.

    Raises
    ------
    InputError
        If `model` is neither.
    """
    found = getattr(model, "model_", model)
    if not isinstance(found, Model):
        raise InputError(
            f"{what} shows a Model or a fitted MixedLinearRegression, got a {type(model).__name__}"
        )
    return found


def sign(component: int) -> dict[str, Any]:
    """Colour and marker of a component."""
    return {
        "color": COLOURS[component % len(COLOURS)],
        "marker": MARKERS[component % len(MARKERS)],
    }


def word(name: str) -> str:
    r"""Return a name as matplotlib shows it: short, its dollars no mathematics.

    Examples
    --------
    >>> print(word("price in $ or $"))
    price in \$ or \$
    """
    short = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"
    return " ".join(short.split()).replace("$", r"\$")


def units(name: str, *, squared: bool = False) -> str:
    """Say what a number is measured in."""
    return f"{'squared ' if squared else ''}units of {word(name)}"


def whole_numbers(ax: Axes) -> None:
    """Count along the x axis."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def gaps_from(ax: Axes, small: float) -> None:
    """Show differences from a best of zero: linear up to a small one, logarithmic above it."""
    top = max(small, 3 * float(ax.dataLim.y1))
    ax.set_yscale("symlog", linthresh=small)
    ax.set_yticks([0, *small * 10.0 ** np.arange(np.floor(np.log10(top / small)) + 1)])
    ax.yaxis.set_major_formatter("{x:,g}")
    ax.set_ylim(-0.15 * small, top)


def finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return numbers as an array of one dimension.

    Raises
    ------
    InputError
        If there is none, or one that is not finite, or another dimension.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} must be of one dimension and not empty, got shape {array.shape}")
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise InputError(f"{name} has {wrong} NaN or infinite values")
    return array


def of_one_length(arrays: Sequence[NDArray[Any]], names: str) -> None:
    """Refuse arrays of different lengths.

    Raises
    ------
    InputError
    """
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise InputError(f"{names} must be of one length, got {', '.join(map(str, lengths))}")
