"""Pictures of stores, models and predictions, by matplotlib (``pip install 'daskmlr[plot]'``).

Each function draws on the axes it is given, or on a figure of its own, and returns the figure. No
backend is chosen and no state of pyplot touched: a figure shows itself in a notebook, and
``savefig`` writes it. Where colours tell things apart, markers, lines or hatching do so too.
"""

from __future__ import annotations

try:
    import matplotlib as mpl  # noqa: F401 - whether it is there
except ImportError as error:
    raise ImportError(
        f"daskmlr.plot needs matplotlib, which is not installed ({error}): "
        "pip install 'daskmlr[plot]'",
        name="matplotlib",
    ) from error

from daskmlr.plot.components import coefficients, distances, projected_tasks
from daskmlr.plot.evidence import convergence, selection, spectrum, sufficiency
from daskmlr.plot.quality import calibration, predictions

__all__ = [
    "calibration",
    "coefficients",
    "convergence",
    "distances",
    "predictions",
    "projected_tasks",
    "selection",
    "spectrum",
    "sufficiency",
]
