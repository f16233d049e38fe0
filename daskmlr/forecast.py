"""How long a fit would take on a Dask cluster, and what would bound it: measured here, scaled.

A pass is over when the slowest of three is, for they overlap: the storage has given the bytes, the
threads have taken them in and done the products, the scheduler has handed out the graph tasks. Then
the last sums go up the tree.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.system import CPU_COUNT

from daskmlr import plan
from daskmlr.graph import leaf
from daskmlr.kernels import diagnosis, moments, projected, regression, thin
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.blocks import Frame
from daskmlr.kernels.krylov import orthonormal
from daskmlr.stages import FitOptions, heavy_count, most_directions
from daskmlr.storage.chunks import Buffers

if TYPE_CHECKING:
    from collections.abc import Callable

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.storage.tasks import TaskStore

    Kernel = Callable[..., Any]
    Combine = Callable[[Any, Any], Any]

# Seconds of processor that scheduler and client take for a graph task (docs/scaling.md).
GRAPH_TASK_SECONDS = 2e-3
# Refinement passes of a fit that nobody has run yet.
USUAL_REFINEMENTS = 10
# Blocks of the run that is read, and worked on by each thread, to measure with.
SAMPLED_BLOCKS = 4
# Times that each stage does so; the fastest counts, for the machine may be doing other work.
ROUNDS = 4


@dataclass(frozen=True)
class DaskCluster:
    """The machines a fit is planned for.

    Attributes
    ----------
    n_workers, n_threads : int
        Worker processes, and threads of each.
    memory : int
        Bytes of each worker process; 0 for no limit.
    read_rate : float or None
        Bytes per second that the storage gives a worker; as measured here if None.
    storage_rate : float
        Bytes per second that it gives all together.
    network_rate : float
        Bytes per second between two workers.
    """

    n_workers: int
    n_threads: int
    memory: int = 0
    read_rate: float | None = None
    storage_rate: float = math.inf
    network_rate: float = 1e9


@dataclass(frozen=True)
class StoreSize:
    """What a pass is planned by: blocks like those of a store, so many of them."""

    n_blocks: int
    block_rows: int
    n_features: int
    n_rows: int
    itemsize: int
    blocks_ahead: int

    @staticmethod
    def like(tasks: TaskStore, n_bytes: int | None = None) -> StoreSize:
        """Size of a store, or of one like it of so many bytes."""
        times = 1.0 if n_bytes is None else n_bytes / tasks.nbytes
        return StoreSize(
            max(round(times * tasks.n_blocks), 1),
            tasks.block_rows,
            tasks.n_features,
            max(round(times * tasks.n_rows), 1),
            tasks.itemsize,
            tasks.blocks_ahead,
        )


@dataclass(frozen=True)
class Rates:
    """What this machine does with some blocks of a store, bytes per second.

    Attributes
    ----------
    read : float
        Reading, checking and decoding, by one thread: from the system's cache if they are there.
    products : dict of str to float
        A graph task of each stage, by one thread while as many others run as a worker has: blocks
        from the system's cache, checked and decoded, and the kernel.
    """

    read: float
    products: dict[str, float]


@dataclass(frozen=True)
class StageForecast:
    """One stage of a fit on a Dask cluster.

    Attributes
    ----------
    stage : str
    n_passes : int
    cost : PassPlan
        Of one pass.
    memory : int
        Peak bytes of a worker process.
    reading, products, scheduling, combining : float
        Seconds of one pass that each would take alone.
    """

    stage: str
    n_passes: int
    cost: plan.PassPlan
    memory: int
    reading: float
    products: float
    scheduling: float
    combining: float

    @property
    def seconds(self) -> float:
        """Of all passes: the slowest of three that overlap, and the way up the tree."""
        together = max(self.reading, self.products, self.scheduling)
        return self.n_passes * (together + self.combining)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(plan.BOUNDS, key=lambda name: float(getattr(self, name)))


def measure_rates(tasks: TaskStore, options: FitOptions, n_threads: int) -> Rates:
    """Read a few blocks, and run the kernels of a fit on them.

    Parameters
    ----------
    tasks : TaskStore
    options : FitOptions
    n_threads : int
        Of a worker; here no more than this machine has cores.
    """
    n_threads = min(n_threads, CPU_COUNT)
    run = (0, min(SAMPLED_BLOCKS, tasks.n_blocks))
    start = time.perf_counter()
    n_bytes = sum(block.X.nbytes + block.y.nbytes for block in leaf.read_run(tasks, run, (), []))
    read = time.perf_counter() - start
    products: dict[str, float] = {}

    def summed(kernel: Kernel, combine: Combine, in_place: bool) -> None:
        """From the page cache, whatever the size of the store."""
        buffers = Buffers()
        blocks = (tasks.read_block(index, buffers) for index in range(*run))
        leaf.sum_blocks(blocks, kernel, combine, (), in_place=in_place)

    with leaf.one_blas_thread(), ThreadPoolExecutor(n_threads) as threads:
        for stage, kernel in _kernels(tasks, options).items():
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                list(threads.map(lambda _, kernel=kernel: summed(*kernel), range(n_threads)))
                seconds.append(time.perf_counter() - start)
            products[stage] = n_bytes / min(seconds)
    return Rates(n_bytes / read, products)


def forecast_fit(
    tasks: TaskStore,
    options: FitOptions,
    cluster: DaskCluster,
    rates: Rates,
    *,
    n_bytes: int | None = None,
) -> list[StageForecast]:
    """Forecast each stage of a fit.

    Parameters
    ----------
    tasks : TaskStore
    options : FitOptions
    cluster : DaskCluster
    rates : Rates
        As `measure_rates` gives them, on a machine like the workers'.
    n_bytes : int, optional
        For a store like this one of so many bytes.

    Returns
    -------
    list of StageForecast
        The search between the passes, on the client, is not in it: it does not grow with the store.

    Raises
    ------
    PlanError
        If a stage cannot fit the workers' memory.
    """
    size = StoreSize.like(tasks, n_bytes)
    sums = plan.sum_bytes_of_fit(
        tasks.n_features, options.n_components, heavy_count(tasks, options), 0
    )
    # the pooled regression may be worth a second look, and many features take more
    n_moments = plan.THIN_PASSES if plan.is_wide(tasks.n_features) else 2
    return [
        _forecast_stage(stage, n_passes, size, sum_bytes, cluster, rates)
        for stage, n_passes, sum_bytes in (
            ("moments", n_moments, sums["moments"]),
            ("project", 1, sums["heavy"]),
            ("refine", USUAL_REFINEMENTS, sums["refine"]),
            ("diagnose", 1, sums["refine"]),
        )
    ]


def _forecast_stage(
    stage: str,
    n_passes: int,
    size: StoreSize,
    sum_bytes: int,
    cluster: DaskCluster,
    rates: Rates,
) -> StageForecast:
    cost = plan.plan_pass(size, sum_bytes)
    plan.check_memory(cost, stage=stage, n_threads=cluster.n_threads, limit=cluster.memory)
    # the last wave of runs may be short, and lasts as long
    waves = math.ceil(cost.n_runs / (cluster.n_workers * cluster.n_threads))
    of_worker = cluster.read_rate or rates.read * cluster.n_threads
    read_rate = min(of_worker * min(cluster.n_workers, cost.n_runs), cluster.storage_rate)
    return StageForecast(
        stage,
        n_passes,
        cost,
        cost.peak_bytes(cluster.n_threads),
        reading=cost.bytes_read / read_rate,
        products=waves * cost.bytes_read / cost.n_runs / rates.products[stage],
        scheduling=cost.n_graph_tasks * GRAPH_TASK_SECONDS,
        combining=cost.depth * (plan.SPLIT_EVERY - 1) * sum_bytes / cluster.network_rate,
    )


def _kernels(tasks: TaskStore, options: FitOptions) -> dict[str, tuple[Kernel, Combine, bool]]:
    """Return what the stages run, at parameters of no meaning, and whether it adds in place."""
    rng = np.random.default_rng(options.seed)
    d, k, seed = tasks.n_features, options.n_components, options.seed
    wide = plan.is_wide(d)
    frame = Frame.near(tasks.feature_mean, tasks.feature_scale, tasks.target_mean, tasks.dtype)
    directions = orthonormal(rng.standard_normal((d + 1, most_directions(tasks, options))))
    null = directions[:, : plan.NULL_DIRECTIONS]
    near: Frame = thin.SubspaceFrame.of(frame, directions) if wide else frame
    p = len(directions.T) + 1 if wide else d + 1
    # components so far apart that nearly every label is sure, as in the fits that succeed
    mixture = Mixture(
        tasks.target_scale * rng.standard_normal((k, p)) / math.sqrt(p),
        np.full(k, (0.1 * tasks.target_scale) ** 2),
        np.full(k, 1 / k),
    )
    nearest, basis = np.roll(np.arange(k), 1), orthonormal(rng.standard_normal((p, min(k, p))))
    heavy = np.linspace(0, tasks.n_tasks - 1, heavy_count(tasks, options)).astype(np.int64)

    def moments_of(block: TaskBlock, onto: moments.Moments | None) -> moments.Moments:
        return moments.moments_from_block(
            block, frame, groups=options.groups, signal_share=1 / k, seed=seed, onto=onto
        )

    def thin_of(block: TaskBlock) -> thin.ThinMoments:
        return thin.thin_from_block(
            block, frame, directions, null,
            groups=options.groups, signal_share=1 / k, seed=seed,
        )  # fmt: skip

    def project(block: TaskBlock) -> projected.ProjectedTasks:
        return projected.projected_from_block(block, near, basis, heavy, n_batches=0)

    def refine(block: TaskBlock, onto: regression.ComponentSums | None) -> regression.ComponentSums:
        return regression.sums_from_block(block, near, mixture, assign=options.assign, onto=onto)

    def diagnose(block: TaskBlock) -> diagnosis.DiagnosisSums:
        return diagnosis.diagnosis_from_block(
            block, near, mixture, basis, nearest, mixture, seed=seed
        )

    first: tuple[Kernel, Combine, bool] = (moments_of, moments.combine_moments, True)
    if wide:
        first = (thin_of, thin.combine_thin, False)
    return {
        "moments": first,
        "project": (project, projected.combine_projected, False),
        "refine": (refine, regression.combine_sums, True),
        "diagnose": (diagnose, diagnosis.combine_diagnosis, False),
    }
