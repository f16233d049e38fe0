"""A fit from end to end: what it refuses, its stages in order, the model that comes out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from daskmlr import plan, stages
from daskmlr.diagnostics import Diagnosis, Outcome, Spectrum, diagnose, diagnose_damage
from daskmlr.errors import InputError
from daskmlr.kernels.robust import check_fraction
from daskmlr.kernels.thin import SubspaceFrame
from daskmlr.model import Model
from daskmlr.record import RunRecord
from daskmlr.sizes import data_of
from daskmlr.spectral import find_subspace
from daskmlr.storage.sources import source_of
from daskmlr.trimming import diagnose_trimming, filter_tasks, trim_tasks
from daskmlr.widening import widen

if TYPE_CHECKING:
    from daskmlr.graph.execute import Runner
    from daskmlr.graph.faults import LeftOut
    from daskmlr.stages import FitOptions
    from daskmlr.storage.checkpoint import Checkpoint
    from daskmlr.storage.tasks import TaskStore


def fit_tasks(
    tasks: TaskStore,
    options: FitOptions,
    runner: Runner,
    checkpoint: Checkpoint | None = None,
) -> tuple[Model, Diagnosis]:
    """Fit the mixture to a store; the diagnosis says what to warn of.

    What stages find is kept in the checkpoint, and taken from it where it is there already.

    Raises
    ------
    InputError
        For data or options that cannot be fitted.
    PlanError
        If a stage cannot fit the workers' memory.
    """
    _check_options(tasks, options)
    _check_memory(tasks, options, runner)
    record = RunRecord(checkpoint=checkpoint, telling=runner.telling)
    runner.telling.fit(options.n_components)
    rng = np.random.default_rng(options.seed)
    spectrum = find_subspace(tasks, options, runner, record, rng)
    if options.robust is not None:
        options, spectrum = filter_tasks(tasks, options, spectrum, runner, record, rng)
    found, sample = stages.first_components(tasks, options, spectrum, runner, record, rng)
    if options.robust is not None:
        options, mixture = trim_tasks(tasks, options, spectrum, found.mixture, runner, record)
        found = replace(found, mixture=mixture)
    projected_by = spectrum
    mixture, sums, converged = stages.refine(
        tasks, options, spectrum, found.mixture, runner, record
    )
    if plan.is_wide(tasks.n_features):
        spectrum, mixture = widen(tasks, options, spectrum, mixture, sums, runner, record)
        mixture, sums, converged = stages.refine(tasks, options, spectrum, mixture, runner, record)
    order = np.argsort(-mixture.weights, kind="stable")
    mixture, sums = mixture.take(order), sums.take(order)
    outcome = Outcome(
        mixture=mixture,
        sums=sums,
        converged=converged,
        n_passes=sum(entry["stage"] == "refine" for entry in record.entries),
        restart_log_likelihoods=tuple(found.log_likelihoods.tolist()),
        agreed=found.agreed,
    )
    evidence = stages.diagnosis_sums(tasks, options, spectrum, sums, mixture, runner, record)
    verdict = diagnose(outcome, spectrum, evidence)
    if options.robust is not None:
        diagnose_trimming(verdict, mixture, options, tasks.n_tasks)
    left_out = runner.left_out(tasks)
    diagnose_damage(verdict, left_out)
    model = _model(tasks, left_out, spectrum, outcome, verdict, record)
    heavy = stages.heavy_sample(sample, projected_by, mixture, model.coef, model.intercept)
    return replace(model, left_out=options.excluded, **heavy), verdict


def _model(
    tasks: TaskStore,
    left_out: LeftOut,
    spectrum: Spectrum,
    outcome: Outcome,
    verdict: Diagnosis,
    record: RunRecord,
) -> Model:
    frame = spectrum.frame
    coef, intercept = frame.to_user(outcome.mixture.coef)
    return Model(
        coef=coef,
        intercept=intercept,
        noise_variance=outcome.mixture.noise_variance,
        weights=outcome.mixture.weights,
        feature_names=tasks.feature_names,
        target_name=tasks.target_name,
        task_name=tasks.task_name,
        encoding=tasks.encoding,
        shift=frame.shift,
        scale=frame.scale,
        subspace=frame.basis if isinstance(frame, SubspaceFrame) else spectrum.directions,
        eigenvalues=spectrum.values,
        noise_edge=spectrum.edge,
        offset=frame.offset,
        gram=outcome.sums.gram,
        mass=outcome.sums.mass,
        sources=(source_of(tasks, block=left_out.first_kept()),),
        log_likelihood=outcome.sums.log_likelihood,
        n_tasks=tasks.n_tasks - left_out.n_tasks,
        n_rows=tasks.n_rows - left_out.n_rows,
        n_iter=outcome.n_passes,
        converged=outcome.converged,
        history=tuple(record.entries),
        notes=tuple(message for _, message in verdict.warnings),
        diagnostics=verdict.facts,
        data=(data_of(tasks),),
    )


def _check_options(tasks: TaskStore, options: FitOptions) -> None:
    if options.robust is not None:
        check_fraction("robust", options.robust)
    k = options.n_components
    if k < 1:
        raise InputError(f"n_components must be at least 1, got {k}")
    if k > tasks.n_tasks:
        raise InputError(
            f"n_components={k} is more than the {tasks.n_tasks} tasks of {tasks.path}: "
            "a component needs a task"
        )
    if tasks.target_scale <= np.finfo(tasks.dtype).eps * abs(tasks.target_mean):
        raise InputError(
            f"the target {tasks.target_name!r} is {tasks.target_mean:g} in every example of "
            f"{tasks.path}: there is nothing to explain"
        )


def _check_memory(tasks: TaskStore, options: FitOptions, runner: Runner) -> None:
    n_threads, limit = runner.worker_resources()
    if plan.is_wide(tasks.n_features):
        plan.check_search(tasks.n_features, options.n_components, limit=runner.own_memory)
    n_left_out = math.ceil((options.robust or 0) * tasks.n_tasks)
    for stage, sum_bytes in plan.sum_bytes_of_fit(
        tasks.n_features, options.n_components, stages.heavy_count(tasks, options), n_left_out
    ).items():
        cost = plan.plan_pass(tasks, sum_bytes)
        plan.check_memory(cost, stage=stage, n_threads=n_threads, limit=limit)
        runner.planned[stage] = cost.peak_bytes(n_threads)
