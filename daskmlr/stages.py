"""The stages of a fit, each a pass or a few over the tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from daskmlr import plan
from daskmlr.diagnostics import Spectrum, nearest_components
from daskmlr.errors import InputError
from daskmlr.kernels import clustering, diagnosis, linkage, moments, projected, regression
from daskmlr.kernels.acceleration import Ascent
from daskmlr.kernels.blocks import Frame, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.record import RunRecord
    from daskmlr.storage.tasks import TaskStore

# Projected tasks are kept on the client: this many for each component and in all, in this much
# memory.
HEAVY_PER_COMPONENT = 256
LEAST_HEAVY = 8192
# ... and so many times more in a robust fit: corrupted tasks could be all of the largest.
ROBUST_HEAVY = 4
HEAVY_BYTES = 256 * plan.MIB
# Of these, so many are kept in the model, for pictures.
SAMPLE = 500


@dataclass(frozen=True)
class FitOptions:
    """What a fit may be told; documented at `MixedLinearRegression`."""

    n_components: int
    groups: int = moments.ALL_PAIRS
    clustering: Literal["em", "linkage"] = "em"
    n_heavy: int | None = None
    n_batches: int = 1
    n_restarts: int = 12
    assign: Literal["soft", "hard"] = "soft"
    max_iter: int = 100
    tol: float = 0.01
    seed: int = 0
    sample_split: bool = False
    robust: float | None = None
    excluded: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def part(self, step: int) -> Part | None:
        """Tasks of the paper's step 0, 1 or 2: disjoint parts if `sample_split`, else all.

        Those at the positions `excluded` are in none.
        """
        if self.sample_split:
            return Part(step, 3, self.seed, self.excluded)
        return Part.without(self.excluded) if self.excluded.size else None

    def without(self, excluded: NDArray[np.int64]) -> FitOptions:
        """Leave out the tasks at some positions, ascending, and only those."""
        return replace(self, excluded=excluded)


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """Turn scikit-learn's `random_state` into one seed."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def first_components(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    runner: Runner,
    record: RunRecord,
    rng: np.random.Generator,
) -> tuple[clustering.Clustering, projected.ProjectedTasks]:
    """Cluster the largest tasks in the subspace.

    Returns
    -------
    found : Clustering
        Its components are in the frame of `spectrum`.
    sample : ProjectedTasks
        Some of those tasks, the largest: what `heavy_sample` shows of them.
    """
    positions = _heavy_positions(tasks, options)
    n_batches = options.n_batches if options.clustering == "linkage" else 0
    tasks_in_subspace = record.reduce(
        "project",
        tasks,
        _project,
        projected.combine_projected,
        args=(spectrum.frame, spectrum.basis, positions, n_batches),
        runner=runner,
        facts=lambda _: {"tasks": len(positions)},
    )
    eigenvalues = _prior(spectrum)

    def cluster() -> clustering.Clustering:
        if options.clustering == "linkage":
            return linkage.cluster_by_linkage(tasks_in_subspace, options.n_components)
        return clustering.cluster_by_em(
            tasks_in_subspace,
            options.n_components,
            eigenvalues,
            n_restarts=options.n_restarts,
            rng=rng,
            corrupted=options.robust or 0.0,
        )

    # the last stage to draw from `rng`: where it is not run again, nobody misses its draws
    inputs = (tasks_in_subspace, options, eigenvalues, rng.bit_generator.state)
    found: clustering.Clustering = record.timed(
        "cluster",
        cluster,
        inputs=inputs,
        facts=lambda found: {"log_likelihoods": found.log_likelihoods.tolist()},
    )
    rivals = [found.mixture] if found.rival is None else [found.mixture, found.rival]
    starts = [replace(rival, coef=rival.coef @ spectrum.basis.T) for rival in rivals]
    found = replace(found, mixture=_likeliest(starts, tasks, options, spectrum, runner, record))
    largest = projected.select_largest(lambda: [tasks_in_subspace.size], SAMPLE)
    return found, tasks_in_subspace.take(largest)


def heavy_sample(
    tasks: projected.ProjectedTasks,
    spectrum: Spectrum,
    mixture: Mixture,
    coef: NDArray[np.float64],
    intercept: NDArray[np.float64],
) -> dict[str, Any]:
    """Say where some tasks lie in the subspace, and the components: `Model.heavy_coef` and others.

    Parameters
    ----------
    tasks : ProjectedTasks
    spectrum : Spectrum
        That they were projected by.
    mixture : Mixture
        In any frame.
    coef, intercept : ndarray of shape (k, d) and (k,)
        Its regressions, in the user's units.
    """
    inside = spectrum.frame.from_user(coef, intercept)
    centres = spectrum.standardiser.coef_from_frame(inside) @ spectrum.directions
    shares = projected.expectation(tasks, replace(mixture, coef=centres)).posterior
    return {
        "heavy_coef": projected.ridge_estimates(tasks, _prior(spectrum)),
        "heavy_centres": centres,
        "heavy_labels": shares.argmax(axis=1),
        "heavy_sizes": tasks.size,
    }


def _prior(spectrum: Spectrum) -> NDArray[np.float64]:
    """Variance of the coefficients along each direction."""
    return np.maximum(spectrum.values, spectrum.edge / 4)


def _likeliest(
    starts: list[Mixture],
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    runner: Runner,
    record: RunRecord,
) -> Mixture:
    """Choose among starts by the likelihood of all tasks one step on, out of the subspace."""
    if len(starts) == 1:
        return starts[0]
    brief = replace(options, max_iter=2)
    ends = []
    for i, start in enumerate(starts):
        before = len(record.entries)
        ends.append(refine(tasks, brief, spectrum, start, runner, record)[:2])
        for entry in record.entries[before:]:
            entry["start"] = i
    return max(ends, key=lambda end: end[1].log_likelihood)[0]


def refine(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    mixture: Mixture,
    runner: Runner,
    record: RunRecord,
) -> tuple[Mixture, regression.ComponentSums, bool]:
    """Repeat assignment and least squares until the log-likelihood gains less than `tol`.

    Hard labels jump: they take plain steps.

    Returns
    -------
    mixture : Mixture
    sums : ComponentSums
        Of all tasks at `mixture`.
    converged : bool
    """

    def advance(ascent: Ascent) -> Ascent:
        return ascent.after(
            component_sums(tasks, options, spectrum.frame, ascent.mixture, runner, record),
            spectrum.standardiser,
            spectrum.directions,
            tol=options.tol,
            accelerate=options.assign == "soft",
        )

    end = record.repeat(
        "ascent",
        Ascent(mixture),
        advance,
        lambda ascent: ascent.converged or ascent.n_passes >= options.max_iter,
        inputs=(spectrum.frame, spectrum.standardiser, spectrum.directions, options),
    )
    if end.at is None or end.sums is None:
        raise InputError(f"max_iter must be at least 1, got {options.max_iter}")
    return end.at, end.sums, end.converged


def component_sums(
    tasks: TaskStore,
    options: FitOptions,
    frame: Frame,
    at: Mixture,
    runner: Runner,
    record: RunRecord,
    *,
    first_block: int = 0,
) -> regression.ComponentSums:
    """Assign every task and sum each component's normal equations, in one pass."""
    sums: regression.ComponentSums = record.reduce(
        "refine",
        tasks,
        _sums,
        regression.combine_sums,
        args=(frame, at, options.assign, options.part(2)),
        runner=runner,
        in_place=True,
        first_block=first_block,
        facts=lambda sums: {
            "log_likelihood": sums.log_likelihood,
            "weights": (sums.mass / sums.n_tasks).tolist(),
        },
    )
    return sums


def diagnosis_sums(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    at: regression.ComponentSums,
    mixture: Mixture,
    runner: Runner,
    record: RunRecord,
    *,
    first_block: int = 0,
) -> diagnosis.DiagnosisSums:
    """Take the sums that speak for or against the components, in one more pass.

    Parameters
    ----------
    at : ComponentSums
        Of a pass at `mixture`.
    """
    nearest = nearest_components(mixture, spectrum)
    pairs = replace(at, gram=at.gram + at.gram[nearest], mass=at.mass + at.mass[nearest])
    merged = regression.finalise_sums(pairs, mixture, spectrum.standardiser, spectrum.directions)
    part = options.part(2)
    sums: diagnosis.DiagnosisSums = record.reduce(
        "diagnose",
        tasks,
        _diagnosis_of,
        diagnosis.combine_diagnosis,
        args=(spectrum.frame, mixture, spectrum.basis, nearest, merged, options.seed, part),
        runner=runner,
        first_block=first_block,
    )
    return sums


def _diagnosis_of(
    block: TaskBlock,
    frame: Frame,
    mixture: Mixture,
    basis: NDArray[np.float64],
    nearest: NDArray[np.int64],
    merged: Mixture,
    seed: int,
    part: Part | None,
) -> diagnosis.DiagnosisSums:
    return diagnosis.diagnosis_from_block(
        block, frame, mixture, basis, nearest, merged, seed=seed, part=part
    )


def _project(
    block: TaskBlock,
    frame: Frame,
    basis: NDArray[np.float64],
    positions: NDArray[np.int64],
    n_batches: int,
) -> projected.ProjectedTasks:
    return projected.projected_from_block(block, frame, basis, positions, n_batches=n_batches)


def _sums(
    block: TaskBlock,
    frame: Frame,
    mixture: Mixture,
    assign: Literal["soft", "hard"],
    part: Part | None,
    onto: regression.ComponentSums | None,
) -> regression.ComponentSums:
    return regression.sums_from_block(block, frame, mixture, assign=assign, part=part, onto=onto)


def most_directions(tasks: TaskStore, options: FitOptions) -> int:
    """Count the directions that may be kept."""
    return min(options.n_components + plan.SPARE_DIRECTIONS, tasks.n_features + 1)


def _heavy_positions(tasks: TaskStore, options: FitOptions) -> NDArray[np.int64]:
    """Choose the largest tasks, as many as the client's memory allows; none without a pair."""
    part = options.part(1)

    def sizes() -> Iterator[NDArray[np.integer]]:
        start = 0
        for some in tasks.sizes_in_pieces():
            if part is not None:
                some[~part.holds(start, start + len(some))] = 0
            yield some
            start += len(some)

    return projected.select_largest(sizes, heavy_count(tasks, options), least=2)


def heavy_count(tasks: TaskStore, options: FitOptions) -> int:
    """Count the tasks that the first components are found from."""
    if options.n_heavy is not None:
        return min(options.n_heavy, tasks.n_tasks)
    k = options.n_components
    affordable = HEAVY_BYTES // plan.projected_task_bytes(most_directions(tasks, options))
    wanted = HEAVY_PER_COMPONENT * k * (1 if options.robust is None else ROBUST_HEAVY)
    return min(max(wanted, LEAST_HEAVY), max(affordable, 2 * k), tasks.n_tasks)
