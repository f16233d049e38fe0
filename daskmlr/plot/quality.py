"""How good labels and predictions are, where the truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from daskmlr.errors import InputError
from daskmlr.kernels.metrics import calibration_bins
from daskmlr.plot.style import BLUE, GREY, RED, axes_of, figure_of, finite, of_one_length, units
from daskmlr.uncertainty import check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

# Points drawn of more, at random; parts of equal number that the band is taken in.
MOST_POINTS = 5000
BAND_PARTS = 40


def calibration(
    posterior: ArrayLike, labels: ArrayLike, *, n_bins: int = 15, ax: Axes | None = None
) -> Figure:
    """Draw how often the likeliest label is right, against the probability it was given.

    Points on the diagonal are calibrated; bars are intervals of 95 % of the share that is right
    (Wilson 1927). Bins of equal width, as `daskmlr.kernels.metrics.calibration_error`, which stands
    above the picture.

    Parameters
    ----------
    posterior : array_like of shape (n_tasks, k)
        Columns in the order of the truth's components.
    labels : array_like of shape (n_tasks,), int
        True components.
    n_bins : int
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If the shapes do not fit, a label is no component, there are no tasks or no bin, or `ax` is
        something else.

    Examples
    --------
    >>> figure = calibration([[0.8, 0.2]] * 5, [0, 0, 0, 1, 1])
    >>> figure.axes[0].get_title()
    'Likeliest label of 5 tasks: 60.0 % right, calibration error 0.2'
    """
    number, right, confidence = calibration_bins(posterior, labels, n_bins=n_bins)
    n = number.sum()
    error = np.abs(right - confidence).sum() / n
    some = number > 0
    number, right, confidence = number[some], right[some], confidence[some]
    low, high = _wilson(right, number)
    ax = axes_of(ax, width=5.4, height=5)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="calibrated")
    share, at = right / number, confidence / number
    ax.errorbar(
        at, share, yerr=[share - low, high - share], color=BLUE, marker="o", markersize=6,
        linewidth=1, capsize=3, label="tasks in bins",
    )  # fmt: skip
    for x, y, count in zip(at, low, number, strict=True):
        ax.annotate(f"{count:,}", (x, y), xytext=(0, -4), textcoords="offset points", ha="center",
                    va="top", fontsize="x-small", color=GREY)  # fmt: skip
    ax.set_xlim(min(0.5, at.min()) - 0.03, 1.03)
    ax.set_ylim(min(0.5, low.min()) - 0.08, 1.03)
    ax.set_xlabel("mean probability of the likeliest label")
    ax.set_ylabel("share of tasks for which it is right")
    ax.set_title(
        f"Likeliest label of {n:,} tasks: {right.sum() / n:.1%} right, ".replace("%", " %")
        + f"calibration error {error:.2g}",
        fontsize="medium",
    )
    ax.legend()
    return figure_of(ax)


def _wilson(
    right: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of 95 % of a share (Wilson 1927)."""
    z = float(ndtri(0.975))
    share = right / number
    centre = share + z**2 / (2 * number)
    half = z * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    low, high = ((centre + side * half) / (1 + z**2 / number) for side in (-1, 1))
    return np.minimum(low, share), np.maximum(high, share)  # rounding


def predictions(
    y: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Figure:
    """Draw seen targets against predicted ones, with the band they should lie in.

    The band is the diagonal and so many standard deviations of the predictions, their root mean
    square over neighbours; whether a target is within is counted by its own.

    Parameters
    ----------
    y : array_like of shape (n,)
        What was seen; a pandas Series names the axes.
    mean, std : array_like of shape (n,)
        As ``predict(..., return_std=True)`` gives them.
    level : float
        Share that should be within.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If the arrays are empty, of different lengths or not finite, a standard deviation is
        negative, `level` impossible, or `ax` something else.

    Examples
    --------
    >>> figure = predictions([1.0, 2.0, 3.5], [1.1, 2.0, 3.0], [0.2, 0.2, 0.2])
    >>> figure.axes[0].get_title()
    '2 of 3 targets (66.7 %) within their band of 95 %'
    """
    name = str(getattr(y, "name", None) or "the target")
    seen, mean, std = (finite(*pair) for pair in ((y, "y"), (mean, "mean"), (std, "std")))
    of_one_length([seen, mean, std], "y, mean and std")
    if std.min() < 0:
        raise InputError(f"std must not be negative, and is {std.min():g} somewhere")
    z = float(ndtri((1 + check_level(level)) / 2))
    within = np.abs(seen - mean) <= z * std
    ax = axes_of(ax, width=5.8, height=5)
    at, half = _band(mean, z * std)
    ax.fill_between(at, at - half, at + half, color="0.85", label=f"band of {100 * level:g} %")
    ax.plot(at, at, color=GREY, linestyle="--", label="predicted = seen")
    drawn = np.arange(len(seen))
    if len(seen) > MOST_POINTS:
        drawn = np.random.default_rng(0).choice(drawn, MOST_POINTS, replace=False)
    for some, marker, colour, label in (
        (drawn[within[drawn]], ".", BLUE, "within"),
        (drawn[~within[drawn]], "x", RED, "outside"),
    ):
        ax.plot(mean[some], seen[some], marker, color=colour, alpha=0.6, markersize=5, label=label,
                zorder=2)  # fmt: skip
    ax.set_xlabel(f"predicted ({units(name)})")
    ax.set_ylabel(f"seen ({units(name)})")
    share = f"{within.sum():,} of {len(seen):,} targets ({100 * within.mean():.1f} %)"
    ax.set_title(f"{share} within their band of {100 * level:g} %", fontsize="medium")
    ax.legend(title=f"{len(drawn):,} of them drawn" if len(drawn) < len(seen) else None)
    return figure_of(ax)


def _band(
    mean: NDArray[np.float64], half: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half the width of the band along the predictions, in parts of equally many."""
    order = np.argsort(mean, kind="stable")
    parts = np.array_split(order, min(BAND_PARTS, len(order)))
    at = np.array([mean[part].mean() for part in parts])
    width = np.array([np.sqrt(np.mean(half[part] ** 2)) for part in parts])
    ends = mean[order[[0, -1]]]
    return np.concatenate([ends[:1], at, ends[1:]]), np.concatenate([width[:1], width, width[-1:]])
