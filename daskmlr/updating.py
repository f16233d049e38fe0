"""A fitted model takes in new tasks without reading the old ones again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr import stages
from daskmlr.diagnostics import (
    Diagnosis,
    Outcome,
    Spectrum,
    diagnose,
    diagnose_damage,
    nearest_components,
)
from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.regression import (
    ComponentSums,
    combine_sums,
    expected_log_likelihood,
    finalise_sums,
)
from daskmlr.kernels.standardise import standardiser_from_gram
from daskmlr.kernels.thin import direction_names
from daskmlr.record import RunRecord
from daskmlr.sizes import data_of
from daskmlr.storage.sources import begins_with, source_of

if TYPE_CHECKING:
    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.blocks import Frame
    from daskmlr.kernels.diagnosis import DiagnosisSums
    from daskmlr.model import Model
    from daskmlr.stages import FitOptions
    from daskmlr.storage.tasks import TaskStore


def update_model(
    model: Model, tasks: TaskStore, options: FitOptions, runner: Runner
) -> tuple[Model, Diagnosis]:
    """Refine a model with more tasks: incremental expectation-maximisation (Neal, Hinton 1998).

    The old tasks stand in as the sums of their component, by the labels they had; only the new
    ones are read, and labelled anew in every pass. The old labels do not move, so the result lies
    from that of a full refit by what they would have moved the coefficients: `docs/update.md`.

    Parameters
    ----------
    model : Model
        Fitted on every task of its store: without `sample_split`.
    tasks : TaskStore
        The store that the model was fitted on, with tasks appended; or one of new tasks alone.
    options : FitOptions
        Its `assign`, `max_iter` and `tol` are used.
    runner : Runner

    Raises
    ------
    InputError
        If there is nothing new, or the model was not fitted on all tasks of its store.
    FeatureMismatchError
        If the features are others, or categories have other levels.
    """
    model.check_store(tasks)
    first = first_new_block(model, tasks)
    frame, mixture, old = _state(model)
    total = old.gram.sum(axis=0)[:-1, :-1]
    names, directions = model.feature_names, model.subspace
    if model.is_wide:
        names, directions = direction_names(len(total) - 1), np.eye(len(total))
    standardiser = standardiser_from_gram(total, names, tasks.dtype)
    spectrum = Spectrum(frame, standardiser, model.eigenvalues, directions, model.noise_edge)
    entropy = model.log_likelihood - expected_log_likelihood(old, mixture)
    record, before, converged = RunRecord(telling=runner.telling), -np.inf, False
    for _ in range(options.max_iter):
        at = mixture
        new = stages.component_sums(tasks, options, frame, at, runner, record, first_block=first)
        bound = expected_log_likelihood(old, at) + entropy + new.log_likelihood
        converged = bound - before < options.tol
        if converged:
            break
        before = bound
        mixture = finalise_sums(combine_sums(old, new), at, standardiser, directions)
    both = replace(combine_sums(old, new), log_likelihood=bound)
    outcome = Outcome(
        mixture=at,
        sums=both,
        converged=converged,
        n_passes=len(record.entries),
        restart_log_likelihoods=tuple(model.diagnostics["restart_log_likelihoods"]),
        agreed=model.diagnostics["restarts_agreed"],
    )
    evidence = stages.diagnosis_sums(
        tasks, options, spectrum, new, at, runner, record, first_block=first
    )
    nearest = nearest_components(at, spectrum).tolist()
    verdict = diagnose(outcome, spectrum, _with_the_old(evidence, model, nearest, new.n_tasks))
    left_out = runner.left_out(tasks)
    diagnose_damage(verdict, left_out)
    source = source_of(tasks, block=left_out.first_kept(first))
    return _updated(
        model, source, data_of(tasks, first), at, both, record, verdict, converged
    ), verdict


def _with_the_old(
    new: DiagnosisSums, model: Model, nearest: list[int], n_tasks: int
) -> DiagnosisSums:
    """Add what the model knows of its old tasks; what they still share is of the new alone.

    Where a component has another nearest now, the loss of merging the two is had of the new tasks
    and scaled to all.
    """
    facts = model.diagnostics
    same = np.array(facts["nearest_component"]) == nearest
    of_all = new.merging_loss * (model.n_tasks + n_tasks) / n_tasks
    return replace(
        new,
        examples=new.examples + facts["examples_per_component"],
        entropy=new.entropy + facts["label_entropy"] * model.n_tasks,
        merging_loss=np.where(same, new.merging_loss + facts["merging_loss"], of_all),
    )


def first_new_block(model: Model, tasks: TaskStore) -> int:
    """Block of a store that begins with the tasks that a model has not seen.

    Raises
    ------
    InputError
        If it has seen all of them.
    """
    seen = max(
        (source["n_tasks"] for source in model.sources if begins_with(tasks, source)),
        default=0,
    )
    if seen == tasks.n_tasks:
        raise InputError(
            f"{tasks.path} has no new tasks: the model has seen all {seen:,} of them. Append some, "
            "or give a store of new ones"
        )
    return int(np.searchsorted(tasks.block_tasks, seen))


def _state(model: Model) -> tuple[Frame, Mixture, ComponentSums]:
    """Return a model's parameters in the frame of its sums, and the sums."""
    counted = float(model.mass.sum())
    if abs(counted - model.n_tasks) > 0.5:
        raise InputError(
            f"the model was fitted on {counted:.0f} of the {model.n_tasks} tasks of its store, "
            "and only one that was fitted on all can be updated: fit without sample_split, robust"
        )
    frame = model.frame
    coef = frame.from_user(model.coef, model.intercept)
    mixture = Mixture(coef, model.noise_variance, model.weights)
    sums = ComponentSums(model.gram, model.mass, model.log_likelihood, model.n_rows, model.n_tasks)
    return frame, mixture, sums


def _updated(
    model: Model,
    source: dict[str, Any],
    data: dict[str, Any],
    mixture: Mixture,
    sums: ComponentSums,
    record: RunRecord,
    verdict: Diagnosis,
    converged: bool,
) -> Model:
    coef, intercept = model.frame.to_user(mixture.coef)
    updates = [*model.diagnostics.get("updates", []), {"n_tasks": sums.n_tasks - model.n_tasks}]
    return replace(
        model,
        coef=coef,
        intercept=intercept,
        noise_variance=mixture.noise_variance,
        weights=mixture.weights,
        gram=sums.gram,
        mass=sums.mass,
        sources=(*model.sources, source),
        data=(*model.data, data),
        log_likelihood=sums.log_likelihood,
        n_tasks=sums.n_tasks,
        n_rows=sums.n_rows,
        n_iter=model.n_iter + sum(entry["stage"] == "refine" for entry in record.entries),
        converged=converged,
        history=(*model.history, *record.entries),
        notes=tuple(message for _, message in verdict.warnings),
        diagnostics={**model.diagnostics, **verdict.facts, "updates": updates},
    )
