"""Which tasks a robust fit leaves out: extreme along the subspace, then odd under the mixture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.errors import ComponentWarning, DaskmlrWarning
from daskmlr.kernels.assignment import block_log_likelihood, posterior
from daskmlr.kernels.blocks import Part
from daskmlr.kernels.outliers import odd_tasks, tail_probability
from daskmlr.kernels.robust import combine_extremes, double_filter, extremes, pair_scores
from daskmlr.spectral import find_subspace
from daskmlr.stages import refine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.diagnostics import Diagnosis, Spectrum
    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.assignment import Mixture
    from daskmlr.kernels.blocks import Frame, TaskBlock
    from daskmlr.kernels.robust import Extremes
    from daskmlr.record import RunRecord
    from daskmlr.stages import FitOptions
    from daskmlr.storage.tasks import TaskStore

# Rounds of filtering, and of finding odd tasks; each is two or three passes.
MAX_ROUNDS = 10
# The largest `fraction` of the scores of sound tasks raise their mean by 1.2 (tasks of 32 examples)
# to 3 (of 2) times fraction log(1/fraction) standard deviations of the bulk. Filtering some sound
# tasks is cheaper than keeping a corrupted direction.
TAIL = 2.0
# The filter also takes sound tasks, which the refinement gets back: it may take so many times
# the fraction.
FILTER_FRACTIONS = 2.0
# Of the tasks a refinement leaves out, the share that may be sound.
ODD_RATE = 0.05


def filter_tasks(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    runner: Runner,
    record: RunRecord,
    rng: np.random.Generator,
) -> tuple[FitOptions, Spectrum]:
    """Leave out tasks that are extreme along the subspace, and estimate it again, in rounds.

    Returns
    -------
    options : FitOptions
        With at most `FILTER_FRACTIONS` times `options.robust` of the tasks excluded.
    spectrum : Spectrum
        Without them.
    """
    fraction = options.robust or 0.0
    most = math.ceil(fraction * tasks.n_tasks)
    tolerance = TAIL * fraction * math.log(1 / fraction)
    for _ in range(MAX_ROUNDS):
        args = (spectrum.frame, spectrum.basis, most, Part.without(options.excluded))
        found = record.reduce("filter", tasks, _score, combine_extremes, args=args, runner=runner)
        extreme = double_filter(found, fraction, tolerance)
        if len(options.excluded) + len(extreme) > FILTER_FRACTIONS * most:
            extreme = extreme[:0]
        record.entries[-1]["left_out"] = len(options.excluded) + len(extreme)
        if extreme.size == 0:
            break
        options = options.without(np.union1d(options.excluded, extreme))
        spectrum = find_subspace(tasks, options, runner, record, rng)
    return options, spectrum


def trim_tasks(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    mixture: Mixture,
    runner: Runner,
    record: RunRecord,
) -> tuple[FitOptions, Mixture]:
    """Refine without the tasks that are odd under the mixture, until they are the same tasks.

    Tasks excluded before count again, unless they are odd.

    Returns
    -------
    options : FitOptions
        With at most `options.robust` of the tasks excluded, the oddest.
    mixture : Mixture
        Refined without them, or nearly: a refinement from it ends in a pass or two.
    """
    options = options.without(_odd(tasks, options, spectrum, mixture, runner, record))
    for _ in range(MAX_ROUNDS):
        mixture = refine(tasks, options, spectrum, mixture, runner, record)[0]
        before = options.excluded
        options = options.without(_odd(tasks, options, spectrum, mixture, runner, record))
        if np.array_equal(options.excluded, before):
            break
    return options, mixture


def diagnose_trimming(
    verdict: Diagnosis, mixture: Mixture, options: FitOptions, n_tasks: int
) -> None:
    """Say how many tasks a robust fit left out, and where it cannot be trusted."""
    fraction, left_out = options.robust or 0.0, len(options.excluded)
    verdict.facts |= {"tasks_left_out": left_out, "odd_rate": ODD_RATE}
    small = np.flatnonzero(mixture.weights < fraction)
    if small.size:
        verdict.warn(
            ComponentWarning,
            f"{small.size} of {mixture.n_components} components hold a smaller share of the "
            f"tasks than robust={fraction}, the smallest {mixture.weights.min():.3g}: they "
            "could be made of corrupted tasks alone. Lower n_components or robust",
        )
    if left_out >= math.ceil(fraction * n_tasks):
        verdict.warn(
            DaskmlrWarning,
            f"{left_out} tasks are odd and were left out, as many as robust={fraction} "
            "allows: more may be corrupted. Raise robust until fewer are left out",
        )


def _odd(
    tasks: TaskStore,
    options: FitOptions,
    spectrum: Spectrum,
    mixture: Mixture,
    runner: Runner,
    record: RunRecord,
) -> NDArray[np.int64]:
    """Positions of the odd tasks, ascending, at most the fraction."""
    most = math.ceil((options.robust or 0.0) * tasks.n_tasks)
    args = (spectrum.frame, mixture, most)
    found = record.reduce("odd", tasks, _oddness, combine_extremes, args=args, runner=runner)
    p_values = np.exp(-found.score)
    odd = odd_tasks(p_values, false_discovery_rate=ODD_RATE, n_tests=tasks.n_tasks)
    record.entries[-1]["left_out"] = int(odd.sum())
    return np.sort(found.position[odd])


def _score(
    block: TaskBlock, frame: Frame, basis: NDArray[np.float64], most: int, part: Part
) -> Extremes:
    return pair_scores(block, frame, basis, signal_share=1 / basis.shape[1], most=most, part=part)


def _oddness(block: TaskBlock, frame: Frame, mixture: Mixture, most: int) -> Extremes:
    """Minus the logarithm of the p-values of the tasks that could be listed."""
    log_likelihood = posterior(block_log_likelihood(block, frame, mixture))[1]
    p_value = tail_probability(log_likelihood, block.sizes, mixture)
    candidates = np.flatnonzero(p_value <= ODD_RATE)
    score = -np.log(np.maximum(p_value[candidates], np.finfo(float).tiny))
    return extremes(score, block.first_task + candidates, most)
