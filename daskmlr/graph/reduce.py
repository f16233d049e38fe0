"""The two things that can be done to all tasks: sum over them, and map each to a row.

Every pass of daskmlr is one of these; a pass of your own is a function away.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from dask import delayed

from daskmlr import plan
from daskmlr.graph import leaf
from daskmlr.graph.execute import connect
from daskmlr.storage.rows import abandon_rows, finish_rows, start_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from dask.delayed import Delayed

    from daskmlr.graph.execute import ClientLike
    from daskmlr.progress import Show
    from daskmlr.storage.tasks import TaskStore

logger = logging.getLogger(__name__)

Sum = TypeVar("Sum")

# A pass of more runs, some 16 GiB or more, is long: what it has come to is worth keeping ...
LONG_PASS = 64
# ... in at most so many parts.
MOST_PARTS = 16


class Parts(Protocol):
    """Sums of parts of a pass, by their number; they need not be held in memory."""

    def __contains__(self, part: int) -> bool: ...

    def __getitem__(self, part: int) -> Any: ...

    def __setitem__(self, part: int, value: Any) -> None: ...


def reduce_tasks(
    tasks: TaskStore,
    from_block: Callable[..., Sum],
    combine: Callable[[Sum, Sum], Sum],
    *,
    args: Sequence[Any] = (),
    in_place: bool = False,
    first_block: int = 0,
    client: ClientLike = None,
    progress: bool | Show = False,
    name: str = "reduce",
    parts: Parts | None = None,
) -> Sum:
    """Sum something over all tasks, in one pass, in memory that does not grow with the store.

    Blocks are read once and summed in runs, runs in a tree of fixed shape, so the result is the
    same to the last bit on any scheduler and any number of workers of one kind.

    Parameters
    ----------
    tasks : TaskStore
    from_block : callable
        ``from_block(block, *args) -> sum`` of a `TaskBlock`; pure, picklable.
    combine : callable
        ``combine(left, right) -> sum``; associative. May not change its arguments.
    args : sequence
        Further arguments of `from_block`, sent once to each worker.
    in_place : bool
        Whether `from_block` takes ``onto=``, None or the sum of blocks before, adds the block to it
        and returns it: faster where sums are not small beside blocks.
    first_block : int
        Blocks before it are left out: a sum of what was appended is added to the sum before.
    client : Client, str or None
        A `distributed.Client`, the address of a scheduler, ``"threads"`` or ``"sync"``. By
        default the current client if there is one, else a Dask cluster in this process.
    progress : bool or callable
        True shows bars in a terminal or a notebook; a callable is called with a
        `daskmlr.progress.Progress`.
    name : str
        What progress bars and the dashboard call the pass.
    parts : mapping of int to sum, optional
        Takes the sums of parts of a long pass as they are ready; those that it holds already are
        not computed. The result is the same.

    Returns
    -------
    The sum, as `combine` makes it.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = simulate(
    ...         f"{folder}/tasks", n_components=2, n_features=3, task_groups=[(100, 5)],
    ...         random_state=0,
    ...     )
    ...     reduce_tasks(tasks, lambda block: block.n_rows, lambda left, right: left + right)
    500
    """
    result: Sum
    all_runs = plan.runs(tasks, first_block)
    with connect(client, progress) as runner, _logged(name, tasks, all_runs) as n_bytes:
        runner.check(tasks)
        skipped = runner.left_out(tasks).blocks
        shared = leaf.pack(tasks, from_block, combine, tuple(args), in_place, skipped)
        if parts is None or len(all_runs) <= LONG_PASS:
            result = runner.compute(
                lambda: _reduction(shared, all_runs, name, most=1)[0],
                name,
                len(all_runs),
                tasks,
                n_bytes,
            )
            return result

        n_parts = next(size for size in plan.levels(len(all_runs)) if size <= MOST_PARTS)
        missing = [i for i in range(n_parts) if i not in parts]
        n_runs = math.ceil(len(all_runs) * len(missing) / n_parts)

        def build() -> list[Delayed]:
            nodes = _reduction(shared, all_runs, name, most=MOST_PARTS)
            return [nodes[i] for i in missing]

        n_bytes = n_bytes * n_runs // len(all_runs)
        for i, part in runner.compute_each(build, name, n_runs, tasks, n_bytes):
            parts[missing[i]] = part
        result = _from_parts(shared, parts, range(n_parts))
        return result


def map_tasks(
    tasks: TaskStore,
    function: Callable[..., dict[str, np.ndarray]],
    out: str | os.PathLike[str] | None,
    *,
    args: Sequence[Any] = (),
    client: ClientLike = None,
    progress: bool | Show = False,
    name: str = "map",
) -> dict[str, np.ndarray] | None:
    """Compute one row per task, in one pass, written as it is made.

    Parameters
    ----------
    tasks : TaskStore
    function : callable
        ``function(block, *args) -> {column: array of shape (block.n_tasks, ...)}``; pure.
    out : path, URL or None
        A new folder of Parquet files (``.parquet``) or Zarr group (``.zarr``), in the store's
        order with the task's key as first column, published when it is complete. None returns
        the columns in memory.
    args, client, progress, name
        As for `reduce_tasks`.

    Returns
    -------
    dict or None
        The columns if `out` is None.

    Raises
    ------
    PathExistsError
        If `out` exists.
    InputError
        If a column has not one row per task, or `out` has another suffix.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = simulate(
    ...         f"{folder}/tasks", n_components=2, n_features=3, task_groups=[(100, 5)],
    ...         random_state=0,
    ...     )
    ...     rows = map_tasks(tasks, lambda block: {"size": block.sizes}, None)
    >>> rows["task"][:3].tolist(), rows["size"][:3].tolist()
    ([0, 1, 2], [5, 5, 5])
    """
    if out is None:
        parts = reduce_tasks(
            tasks,
            leaf.map_block,
            _extend,
            args=(tasks, function, tuple(args)),
            client=client,
            progress=progress,
            name=name,
        )
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    staging = start_rows(out)
    try:
        all_runs = plan.runs(tasks)
        with connect(client, progress) as runner, _logged(name, tasks, all_runs) as n_bytes:
            runner.check(tasks, staging)
            skipped = runner.left_out(tasks).blocks
            shared = leaf.pack(tasks, function, tuple(args), skipped)
            written = runner.compute(
                lambda: _mapping(shared, all_runs, name, staging),
                name,
                len(all_runs),
                tasks,
                n_bytes,
            )
        empty = set(range(len(all_runs))).difference(written)
        finish_rows(staging, out, len(all_runs), empty=empty)
    except BaseException:
        abandon_rows(staging)
        raise
    return None


@contextmanager
def _logged(name: str, tasks: TaskStore, all_runs: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Log the begin and end of a pass, with its rate if it came to an end; give its bytes."""
    n_bytes = sum(stop - start for start, stop in all_runs) * plan.block_bytes(tasks)
    facts = {"pass": name, "store": str(tasks.path), "runs": len(all_runs), "bytes": n_bytes}
    logger.info("pass %s begins", name, extra={"facts": {"event": "pass begins", **facts}})
    start = time.perf_counter()
    yield n_bytes
    seconds = time.perf_counter() - start
    facts |= {"seconds": seconds, "bytes_per_second": n_bytes / seconds}
    logger.info("pass %s took %.3g s", name, seconds, extra={"facts": {"event": "pass", **facts}})


def _reduction(
    shared: bytes, all_runs: Sequence[tuple[int, int]], name: str, *, most: int
) -> list[Delayed]:
    """Tree of fixed shape over the runs of the store, up to where it has at most `most` nodes.

    The scheduler spreads leaves over all workers only if it takes them for roots of the graph:
    if they are many, in a group of their own, whose dependencies are few. Else it would send
    them all to the worker that holds what they share. So that travels as one key.
    """
    key, sums, packed = _keys(name, shared)
    leaf_of = delayed(leaf.reduce_run, pure=False)
    node_of = delayed(leaf.combine_partials, pure=False)
    level = [leaf_of(run, packed, dask_key_name=(key, i)) for i, run in enumerate(all_runs)]
    depth = 0
    while len(level) > most:
        level = [
            node_of(packed, level[i : i + plan.SPLIT_EVERY], dask_key_name=(sums, depth, i))
            for i in range(0, len(level), plan.SPLIT_EVERY)
        ]
        depth += 1
    return level


def _mapping(
    shared: bytes, all_runs: Sequence[tuple[int, int]], name: str, staging: str
) -> Delayed:
    """Parts of a table, and the list of them."""
    key, sums, packed = _keys(name, shared)
    write = delayed(leaf.map_run, pure=False)
    parts = [
        write(run, part, packed, staging, dask_key_name=(key, part))
        for part, run in enumerate(all_runs)
    ]
    return delayed(leaf.join_parts, pure=False)(parts, dask_key_name=sums)


def _from_parts(shared: bytes, parts: Parts, numbers: Sequence[int]) -> Any:
    """Combine the nodes of a level of the tree as the tree would, few of them in memory."""
    if len(numbers) == 1:
        return parts[numbers[0]]
    width = 1
    while width * plan.SPLIT_EVERY < len(numbers):
        width *= plan.SPLIT_EVERY
    below = (numbers[i : i + width] for i in range(0, len(numbers), width))
    return leaf.combine_sums(shared, (_from_parts(shared, parts, some) for some in below))


def _keys(name: str, shared: bytes) -> tuple[str, str, Delayed]:
    """Key groups of the leaves and of their sums, and what all leaves share, of one pass."""
    number = uuid.uuid4().hex
    packed = delayed(shared, name=f"{name}-args-{number}")
    return f"{name}-{number}", f"{name}-sum-{number}", packed


def _extend(left: list[Any], right: list[Any]) -> list[Any]:
    return left + right
