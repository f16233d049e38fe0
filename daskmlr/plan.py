"""Arithmetic of a pass: which blocks go together, what they cost; refuses a run that cannot fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from daskmlr.errors import PlanError

MIB = 1 << 20
# One graph task reads about so much: long enough to hide the scheduler's cost per graph task,
# short enough that a lost worker loses little.
RUN_BYTES = 256 * MIB
# A small store is cut finer, so that its blocks spread over the workers ...
MIN_RUNS = 32
# ... and a huge one coarser, so that the scheduler's part stays small: some 40,000 graph tasks.
MAX_RUNS = 32768
# Above so many features thin products are faster than the sums of d x d, and need less memory.
WIDE_FEATURES = 1024
# k regressions span k directions; where tasks differ by degrees, more rise above the noise edge.
SPARE_DIRECTIONS = 16
# Of the null the edge alone is wanted.
NULL_DIRECTIONS = 4
# Passes that look for the subspace of many features, at most.
THIN_PASSES = 16
# Matrices as large as all the directions they looked along: these, two products, a copy of one.
SEARCH_MATRICES = 4
# Fan-in of the tree that combines the sums: more hold more finished sums in memory.
SPLIT_EVERY = 4
# An interpreter with its libraries, before it computes anything.
PROCESS_BYTES = 256 * MIB
# Pieces cut from a block while it is summed.
PIECES_BYTES = 32 * MIB
# What may bound a pass.
BOUNDS = ("reading", "products", "scheduling", "combining")
# Matrices as large as the information that its inversion holds at a time.
INVERSION_MATRICES = 10


class StoreShape(Protocol):
    """What a plan needs to know of a task store."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""

    @property
    def block_rows(self) -> int:
        """Rows of a full block."""

    @property
    def n_features(self) -> int:
        """Number of covariates."""

    @property
    def n_rows(self) -> int:
        """Number of examples."""

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""

    @property
    def blocks_ahead(self) -> int:
        """Blocks that a thread holds besides, since it asked for them ahead."""


def block_bytes(store: StoreShape) -> int:
    """Bytes of one decoded block."""
    return store.block_rows * (store.n_features + 1) * store.itemsize


def runs(store: StoreShape, first_block: int = 0) -> list[tuple[int, int]]:
    """Cut the blocks from `first_block` on into runs, each the work of one graph task.

    They depend on the store alone, never on the workers: so do the order of the sums and every
    bit of the result.
    """
    length = min(RUN_BYTES // max(block_bytes(store), 1), math.ceil(store.n_blocks / MIN_RUNS))
    length = max(length, math.ceil(store.n_blocks / MAX_RUNS), 1)
    starts = range(first_block, store.n_blocks, length)
    return [(start, min(start + length, store.n_blocks)) for start in starts]


def levels(n_runs: int) -> list[int]:
    """Count the nodes of each level of the tree that sums so many runs, its leaves first."""
    sizes = [n_runs]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / SPLIT_EVERY))
    return sizes


@dataclass(frozen=True)
class PassPlan:
    """Cost of one pass over a store.

    Attributes
    ----------
    n_runs, n_graph_tasks : int
        Leaves, and leaves with the tree above them.
    depth : int
        Levels of the tree above the leaves.
    bytes_read : int
        Decoded bytes of all blocks.
    bytes_per_thread : int
        Peak memory of one worker thread: a block in use, the one before, one more for its
        temporaries, and those asked for ahead; pieces; and four sums (two that are combined,
        what they combine to, and a temporary of its size).
    bytes_of_process : int
        What a worker process holds besides: interpreter and libraries, and the finished sums that
        wait for the others of their node, at each level of the tree.
    """

    n_runs: int
    n_graph_tasks: int
    depth: int
    bytes_read: int
    bytes_per_thread: int
    bytes_of_process: int

    def peak_bytes(self, n_threads: int) -> int:
        """Peak memory of a worker process of so many threads."""
        return self.bytes_of_process + n_threads * self.bytes_per_thread


def plan_pass(store: StoreShape, sum_bytes: int) -> PassPlan:
    """Cost a pass whose sum takes `sum_bytes` (8 bytes for each float64 entry)."""
    sizes = levels(len(runs(store)))
    depth = len(sizes) - 1
    return PassPlan(
        sizes[0],
        sum(sizes),
        depth,
        bytes_read=store.n_rows * (store.n_features + 1) * store.itemsize,
        bytes_per_thread=(3 + store.blocks_ahead) * block_bytes(store)
        + PIECES_BYTES
        + 4 * sum_bytes,
        bytes_of_process=PROCESS_BYTES + (SPLIT_EVERY - 1) * depth * sum_bytes,
    )


def is_wide(n_features: int) -> bool:
    """Whether a fit of so many features forms nothing of d x d: by the data alone, as the runs."""
    return n_features > WIDE_FEATURES


def projected_task_bytes(n_directions: int) -> int:
    """Bytes of a task's moments in the subspace: a triangle, a vector, a few numbers."""
    return 4 * (n_directions + 2) ** 2


def sum_bytes_of_fit(
    n_features: int, n_components: int, n_heavy: int, n_left_out: int
) -> dict[str, int]:
    """Bytes of the sum that each stage of a fit carries."""
    r = min(n_components, n_features + 1)
    either = {"filter": 16 * n_left_out, "heavy": n_heavy * projected_task_bytes(r)}
    if is_wide(n_features):
        directions = n_components + SPARE_DIRECTIONS + NULL_DIRECTIONS
        return either | {
            "moments": 8 * (n_features + 2) * (2 * directions + 1),
            "refine": 8 * n_components * (3 * n_components + 2) ** 2,
            "widen": 8 * (n_features + 1) * n_components,
        }
    return either | {
        "moments": 8 * 4 * (n_features + 2) ** 2,
        "refine": 8 * n_components * (n_features + 2) ** 2,
    }


def check_search(n_features: int, n_components: int, *, limit: int) -> None:
    """Refuse a search for the subspace of many features that this process cannot hold.

    Parameters
    ----------
    n_features, n_components : int
    limit : int
        Memory of this process, bytes; 0 for no limit.

    Raises
    ------
    PlanError
        With the arithmetic.
    """
    columns = THIN_PASSES * (n_components + SPARE_DIRECTIONS + NULL_DIRECTIONS)
    need = PROCESS_BYTES + SEARCH_MATRICES * 8 * (n_features + 1) * columns
    if limit and need > limit:
        raise PlanError(
            f"the search for the subspace of {n_features:,} features needs {need / MIB:.0f} MiB in "
            f"this process ({SEARCH_MATRICES} matrices of {n_features + 1:,} x {columns} float64), "
            f"the limit is {limit / MIB:.0f} MiB. Use a machine with more memory, or fewer features"
        )


def sum_bytes_of_uncertainty(n_features: int, n_components: int) -> int:
    """Bytes of the sum that the pass for the standard errors carries."""
    p = n_components * (n_features + 3) - 1
    return 8 * (p**2 + n_components * (n_features + 3) ** 2)


def check_inversion(n_parameters: int, *, limit: int) -> None:
    """Refuse an information matrix that this process cannot invert.

    Parameters
    ----------
    n_parameters : int
        ``p = k (d + 3) - 1``; the matrix is p x p.
    limit : int
        Memory of this process, bytes; 0 for no limit.

    Raises
    ------
    PlanError
        With the arithmetic.
    """
    need = INVERSION_MATRICES * 8 * n_parameters**2
    if limit and need > limit:
        raise PlanError(
            f"the covariance of {n_parameters:,} parameters, k (d + 3) - 1, needs "
            f"{need / MIB:.0f} MiB in this process ({INVERSION_MATRICES} matrices of p x p "
            f"float64), the limit is {limit / MIB:.0f} MiB. Use a machine with more memory, or a "
            "model of fewer components or features"
        )


def check_memory(plan: PassPlan, *, stage: str, n_threads: int, limit: int) -> None:
    """Refuse a pass that cannot fit.

    Parameters
    ----------
    plan : PassPlan
    stage : str
    n_threads : int
        Threads of one worker process.
    limit : int
        Memory of that process, bytes; 0 for no limit.

    Raises
    ------
    PlanError
        With the arithmetic.

    Examples
    --------
    >>> plan = PassPlan(1, 1, 0, 10 * MIB, 100 * MIB, 256 * MIB)
    >>> check_memory(plan, stage="moments", n_threads=2, limit=400 * MIB)
    Traceback (most recent call last):
    daskmlr.errors.PlanError: stage 'moments' needs 456 MiB on each worker ...
    """
    need = plan.peak_bytes(n_threads)
    if limit and need > limit:
        raise PlanError(
            f"stage {stage!r} needs {need / MIB:.0f} MiB on each worker "
            f"({plan.bytes_per_thread / MIB:.0f} MiB for each of {n_threads} threads, "
            f"{plan.bytes_of_process / MIB:.0f} MiB for the process), "
            f"the limit is {limit / MIB:.0f} MiB. Use fewer threads per worker, a higher memory "
            "limit, or a store with smaller blocks (block_bytes)"
        )
