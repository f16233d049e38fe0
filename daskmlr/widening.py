"""The last stage of a fit of many features: least squares beyond the spectral subspace.

The subspace that a few passes find is near the one that the coefficients span, and no nearer.
Least squares over all features would be, but their matrices are not to be formed; so the subspace
is given the directions that the residuals of each component still go with, and what it was given
before, and the components are fitted in it again. For a component whose labels are certain that is
the conjugate gradient method (Hestenes and Stiefel 1952).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.kernels.krylov import orthonormal
from daskmlr.kernels.regression import finalise_sums
from daskmlr.kernels.standardise import standardiser_from_gram
from daskmlr.kernels.thin import SubspaceFrame, direction_names, gradients_from_block, varying
from daskmlr.stages import component_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.diagnostics import Spectrum
    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, Part, TaskBlock
    from daskmlr.kernels.regression import ComponentSums
    from daskmlr.record import RunRecord
    from daskmlr.stages import FitOptions
    from daskmlr.storage.tasks import TaskStore

# Examples of each component for each of its coefficients, from which least squares over all
# features is better than within the subspace.
EXAMPLES_PER_COEFFICIENT = 2


def widen(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    mixture: Mixture,
    sums: ComponentSums,
    runner: Runner,
    record: RunRecord,
) -> tuple[Spectrum, Mixture]:
    """Move the components out of the spectral subspace, two passes a step.

    Parameters
    ----------
    spectrum : Spectrum
        Of a `SubspaceFrame`.
    mixture : Mixture
        In its frame.
    sums : ComponentSums
        Of all tasks at `mixture`.

    Returns
    -------
    spectrum : Spectrum
        Of the subspace of the last step, with the evidence of the one before.
    mixture : Mixture
        In its frame. Both as they came where the components have too few examples.
    """
    enough = EXAMPLES_PER_COEFFICIENT * (tasks.n_features + 1)
    if sums.gram[:, 0, 0].min() < enough:
        return spectrum, mixture
    frame = spectrum.frame
    if not isinstance(frame, SubspaceFrame):
        raise TypeError(f"only a fit in a subspace can leave it, got a {type(frame).__name__}")
    whole, before = frame.whole, -np.inf
    precondition = 1 / np.append(1.0, tasks.feature_scale / whole.scale) ** 2
    outside = replace(mixture, coef=frame.wide(mixture.coef))
    steps = np.zeros_like(outside.coef)
    for _ in range(options.max_iter):
        gradients = _gradients(tasks, options, whole, outside, runner, record)
        candidates = np.vstack([outside.coef, gradients * precondition, steps])
        frame, inside = _frame_of(candidates, whole, outside)
        sums = component_sums(tasks, options, frame, inside, runner, record)
        frame, inside, sums = _along_what_varies(frame, inside, sums)
        gram = sums.gram.sum(axis=0)[:-1, :-1]
        standardiser = standardiser_from_gram(gram, direction_names(len(gram) - 1), tasks.dtype)
        directions = np.eye(len(gram))
        mixture = finalise_sums(sums, inside, standardiser, directions)
        if sums.log_likelihood - before < options.tol:
            break
        before = sums.log_likelihood
        moved = frame.wide(mixture.coef)
        steps = moved - outside.coef
        outside = replace(mixture, coef=moved)
    spectrum = replace(spectrum, frame=frame, standardiser=standardiser, directions=directions)
    return spectrum, mixture


def _frame_of(
    candidates: NDArray[np.float64], whole: Frame, outside: Mixture
) -> tuple[SubspaceFrame, Mixture]:
    """Return the frame of the slopes that some coefficients span, and a mixture within it."""
    slopes = orthonormal(candidates[:, 1:].T)
    frame = SubspaceFrame.of(whole, np.vstack([np.zeros(slopes.shape[1]), slopes]))
    inside = np.column_stack([outside.coef[:, 0], outside.coef[:, 1:] @ slopes])
    return frame, replace(outside, coef=inside)


def _along_what_varies(
    frame: SubspaceFrame, mixture: Mixture, sums: ComponentSums
) -> tuple[SubspaceFrame, Mixture, ComponentSums]:
    """Leave out the combinations of a frame's directions that are constant."""
    kept = varying(sums.gram.sum(axis=0)[:-1, :-1])
    turn = np.zeros((len(kept) + 2, kept.shape[1] + 2))
    turn[0, 0] = turn[-1, -1] = 1
    turn[1:-1, 1:-1] = kept
    return (
        SubspaceFrame.of(frame.whole, frame.basis @ kept),
        replace(mixture, coef=mixture.coef @ turn[:-1, :-1]),
        replace(sums, gram=turn.T @ sums.gram @ turn),
    )


def _gradients(
    tasks: TaskStore,
    options: FitOptions,
    frame: Frame,
    mixture: Mixture,
    runner: Runner,
    record: RunRecord,
) -> NDArray[np.float64]:
    gradients: NDArray[np.float64] = record.reduce(
        "widen",
        tasks,
        _gradients_of,
        np.add,
        args=(frame, mixture, options.part(2)),
        runner=runner,
    )
    return gradients.T


def _gradients_of(
    block: TaskBlock, frame: Frame, mixture: Mixture, part: Part | None
) -> NDArray[np.float64]:
    return gradients_from_block(block, frame, mixture, part=part)
