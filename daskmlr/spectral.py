"""The first stage of a fit: the subspace that the coefficients span, in a few passes at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskmlr import plan
from daskmlr.diagnostics import Spectrum
from daskmlr.errors import InputError
from daskmlr.kernels import moments, regression, thin
from daskmlr.kernels.blocks import Frame
from daskmlr.kernels.krylov import Krylov, orthonormal
from daskmlr.kernels.standardise import Standardiser, standardiser_from_gram
from daskmlr.kernels.subspace import rank_above, top_eigenspace
from daskmlr.stages import most_directions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.blocks import Part, TaskBlock
    from daskmlr.record import RunRecord
    from daskmlr.stages import FitOptions
    from daskmlr.storage.tasks import TaskStore

# A pooled regression that explains more of the target is worth a second read of the moments.
POOLED_SHARE = 0.2
# The thin search ends when the leading values move by less than this share.
SETTLED = 0.003


def find_subspace(
    tasks: TaskStore,
    options: FitOptions,
    runner: Runner,
    record: RunRecord,
    rng: np.random.Generator,
) -> Spectrum:
    """Moments, standardisation, top eigenvectors; by thin products where the plan says so."""
    frame = Frame.near(tasks.feature_mean, tasks.feature_scale, tasks.target_mean, tasks.dtype)
    if plan.is_wide(tasks.n_features):
        return _find_thin(tasks, frame, options, runner, record, rng)
    return _find_dense(tasks, frame, options, runner, record, rng)


def _find_dense(
    tasks: TaskStore,
    frame: Frame,
    options: FitOptions,
    runner: Runner,
    record: RunRecord,
    rng: np.random.Generator,
) -> Spectrum:
    """One pass, or two.

    What all tasks share adds to the variance of the second moment and nothing to its signal, so a
    pooled regression that explains a good part of the target is taken out by a second pass.
    """
    sums = _moments(tasks, frame, options, runner, record)
    standardiser = standardiser_from_gram(sums.gram[:-1, :-1], tasks.feature_names, tasks.dtype)
    pooled, explained = regression.pooled_regression(sums.gram)
    if explained / max(sums.gram[-1, -1], np.finfo(float).tiny) > POOLED_SHARE:
        frame = frame.with_offset(frame.offset + pooled)
        sums = _moments(tasks, frame, options, runner, record)
    second, null = moments.finalise_moments(sums)
    most = most_directions(tasks, options)
    values, directions = top_eigenspace(standardiser.whiten(second), most, rng=rng)
    edge = float(top_eigenspace(standardiser.whiten(null), 1, rng=rng)[0][0])
    r = max(rank_above(values, edge), min(options.n_components, most))
    return Spectrum(frame, standardiser, values[:r], directions[:, :r], edge)


def _find_thin(
    tasks: TaskStore,
    frame: Frame,
    options: FitOptions,
    runner: Runner,
    record: RunRecord,
    rng: np.random.Generator,
) -> Spectrum:
    """Block Krylov iteration on the whitened second moment, a pass for each step.

    What comes out is the spectrum of a problem of few features, those of a `SubspaceFrame`: they
    are white, so that nothing that follows needs to know of the many.
    """
    _check_wide(tasks)
    p, most = tasks.n_features + 1, most_directions(tasks, options)
    signal, null = Krylov.empty(p), Krylov.empty(p)
    block, null_block = (
        orthonormal(rng.standard_normal((p, n))) for n in (most, min(plan.NULL_DIRECTIONS, p))
    )
    precondition = 1 / np.append(1.0, tasks.feature_scale / frame.scale) ** 2
    before = np.zeros(0)
    for _ in range(plan.THIN_PASSES):
        sums = _thin_moments(tasks, frame, block, null_block, options, runner, record)
        gram, second, fluctuation, mean = thin.finalise_thin(sums)
        signal = signal.extend(block, second, gram[:, : block.shape[1]])
        null = null.extend(null_block, fluctuation, gram[:, block.shape[1] :])
        values, mixing = signal.ritz(most)
        edge = float(null.ritz(1)[0][0])
        leading = np.append(values[: options.n_components], edge)
        settled = len(leading) == len(before) and np.allclose(leading, before, rtol=SETTLED)
        block = signal.next_block(most, precondition)
        null_block = null.next_block(plan.NULL_DIRECTIONS, precondition)
        if settled or not block.size + null_block.size:
            break
        before = leading
    r = max(rank_above(values, edge), min(options.n_components, len(values)))
    basis, directions = thin.centred_basis(signal.basis @ mixing[:, :r], mean)
    white = np.eye(len(directions))
    return Spectrum(
        thin.SubspaceFrame.of(frame, basis), Standardiser(white, white), values[:r], directions,
        edge,
    )  # fmt: skip


def _check_wide(tasks: TaskStore) -> None:
    """Refuse what thin products would not show."""
    constant = np.flatnonzero(tasks.feature_scale == 0)
    if constant.size:
        names = ", ".join(repr(tasks.feature_names[i]) for i in constant[:5])
        raise InputError(
            f"{constant.size} of {tasks.n_features} features never vary: {names}. A constant "
            "cannot be told from the intercept: leave such features out"
        )


def _moments(
    tasks: TaskStore, frame: Frame, options: FitOptions, runner: Runner, record: RunRecord
) -> moments.Moments:
    sums: moments.Moments = record.reduce(
        "moments",
        tasks,
        _moments_of,
        moments.combine_moments,
        args=(frame, *_moment_options(options)),
        runner=runner,
        in_place=True,
    )
    return sums


def _moments_of(
    block: TaskBlock,
    frame: Frame,
    groups: int,
    signal_share: float,
    seed: int,
    part: Part | None,
    onto: moments.Moments | None,
) -> moments.Moments:
    return moments.moments_from_block(
        block, frame, groups=groups, signal_share=signal_share, seed=seed, part=part, onto=onto
    )


def _thin_moments(
    tasks: TaskStore,
    frame: Frame,
    directions: NDArray[np.float64],
    null_directions: NDArray[np.float64],
    options: FitOptions,
    runner: Runner,
    record: RunRecord,
) -> thin.ThinMoments:
    sums: thin.ThinMoments = record.reduce(
        "moments",
        tasks,
        _thin_of,
        thin.combine_thin,
        args=(frame, directions, null_directions, *_moment_options(options)),
        runner=runner,
    )
    return sums


def _thin_of(
    block: TaskBlock,
    frame: Frame,
    directions: NDArray[np.float64],
    null_directions: NDArray[np.float64],
    groups: int,
    signal_share: float,
    seed: int,
    part: Part | None,
) -> thin.ThinMoments:
    return thin.thin_from_block(
        block, frame, directions, null_directions,
        groups=groups, signal_share=signal_share, seed=seed, part=part,
    )  # fmt: skip


def _moment_options(options: FitOptions) -> tuple[int, float, int, Part | None]:
    return options.groups, 1 / options.n_components, options.seed, options.part(0)
