"""How many regressions there are: fits of several numbers of components, compared by BIC."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.diagnostics import Diagnosis, why_exact
from daskmlr.errors import ComponentWarning, StructureWarning
from daskmlr.fitting import fit_tasks
from daskmlr.record import RunRecord
from daskmlr.spectral import find_subspace

if TYPE_CHECKING:
    from daskmlr.graph.execute import Runner
    from daskmlr.model import Model
    from daskmlr.stages import FitOptions
    from daskmlr.storage.checkpoint import Checkpoint
    from daskmlr.storage.tasks import TaskStore

# More components than this are not tried unasked: each number costs a fit.
MOST_COMPONENTS = 64
# A trial with too many components never finds its best ones twice: its search ends here.
TRIAL_RESTARTS = 6

Fit = tuple["Model", Diagnosis]


def fit_best(
    tasks: TaskStore,
    options: FitOptions,
    runner: Runner,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Fit with the number of components that has the smallest BIC, each of them with some noise.

    k regressions whose mean is taken out span at most k - 1 directions, so the trials begin one
    above the number of directions over the noise edge (which may be far too many: covariates that
    hardly vary within a task have directions of their own). They go down by the components that
    are too many, up by those that hold more than one regression, and end when one more and one
    less are worse, and all the fewer that the best one's own diagnosis speaks for.

    Parameters
    ----------
    tasks : TaskStore
    options : FitOptions
        Its number of components is not used.
    runner : Runner
    checkpoint : Checkpoint, optional
        As for `fit_tasks`.

    Returns
    -------
    model : Model
        Its diagnostics hold every trial as ``selection``.
    diagnosis : Diagnosis
    """
    most = min(MOST_COMPONENTS, tasks.n_tasks)
    fits: dict[int, Fit] = {}
    trial = replace(options, n_restarts=min(TRIAL_RESTARTS, options.n_restarts))
    k: int | None = min(_directions(tasks, options, runner, checkpoint) + 1, most)
    while k is not None:
        fits[k] = fit_tasks(tasks, replace(trial, n_components=k), runner, checkpoint)
        best = min(fits, key=lambda k: _preference(fits[k]))
        k = _next(best, fits, most)
    if not _facts(fits[best])["restarts_agreed"]:
        whole = replace(options, n_components=best)
        fits[best] = fit_tasks(tasks, whole, runner, checkpoint)
    return _with_evidence(fits, best, most)


def _directions(
    tasks: TaskStore, options: FitOptions, runner: Runner, checkpoint: Checkpoint | None
) -> int:
    several = replace(options, n_components=min(MOST_COMPONENTS, tasks.n_features + 1))
    rng = np.random.default_rng(options.seed)
    record = RunRecord(checkpoint=checkpoint, telling=runner.telling)
    return find_subspace(tasks, several, runner, record, rng).rank


def _next(best: int, fits: dict[int, Fit], most: int) -> int | None:
    """Return the number of components to try next; None if the best has been found."""
    facts = _facts(fits[best])
    spare, merged = facts["components_to_spare"], facts["components_of_several"]
    # all that are too many, half as many (pairs overlap), ...: a fit between may be a poor one
    leaps = [-(spare >> n) for n in range(spare.bit_length())]
    further = [best + leap for leap in (*leaps, merged) if abs(leap) > 1]
    down = range(best - 1, best - spare - 1, -1)
    wanted = [*further, best + 1, best - 1, *down]
    return next((k for k in (min(k, most) for k in wanted) if k >= 1 and k not in fits), None)


def _preference(fit: Fit) -> tuple[bool, float]:
    """Smallest first: by BIC, after all others where a component's likelihood has no bound."""
    facts = _facts(fit)
    return bool(facts["components_without_noise"]), facts["bic"]


def _with_evidence(fits: dict[int, Fit], best: int, most: int) -> Fit:
    model, diagnosis = fits[best]
    trials: list[dict[str, Any]] = [
        {
            "n_components": k,
            "log_likelihood": fits[k][0].log_likelihood,
            "bic": _facts(fits[k])["bic"],
            "icl": _facts(fits[k])["icl"],
            "kept": k == best,
            "bounded": not _facts(fits[k])["components_without_noise"],
        }
        for k in sorted(fits)
    ]
    passed_over = [
        k
        for k in fits
        if _facts(fits[k])["bic"] < _facts(fits[best])["bic"]
        and _facts(fits[k])["components_without_noise"]
    ]
    if passed_over:
        k = min(passed_over)
        exact = _facts(fits[k])["components_without_noise"][0]
        diagnosis.warn(
            ComponentWarning,
            f"{k} components have a smaller BIC than the {best} chosen, but only by one that "
            "explains its tasks exactly, so that its likelihood has no bound. "
            f"{why_exact(_facts(fits[k]), exact)}",
        )
    elif best == 1:
        diagnosis.warn(
            StructureWarning,
            "no structure: of 1 to "
            f"{max(fits)} components one regression for all tasks has the smallest BIC",
        )
    elif best == most:
        diagnosis.warn(
            ComponentWarning,
            f"the BIC still falls at {most} components, the most that are tried: give "
            "n_components to go further",
        )
    notes = tuple(message for _, message in diagnosis.warnings)
    facts = {**model.diagnostics, "selection": trials}
    return replace(model, diagnostics=facts, notes=notes), diagnosis


def _facts(fit: Fit) -> dict[str, Any]:
    return fit[1].facts
