"""What a task store shows of itself in a notebook: its counts, and the sizes of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskmlr import markup
from daskmlr.errors import DaskmlrError
from daskmlr.storage import layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.storage.tasks import TaskStore

# Chunks of task sizes that are looked at: a card must appear at once, from an object store too.
SHOWN_CHUNKS = 8
SHOWN_FEATURES = 100
# Sizes up to this are shown one by one, larger ones by powers of two.
SINGLE_SIZES = 12


def store_card(tasks: TaskStore) -> str:
    """Return a store in HTML, from its attributes and a bounded part of its task sizes."""
    sizes, damage = np.zeros(0, np.int32), ""
    try:
        sizes = some_sizes(tasks)
        sizes = sizes[(sizes > 0) & (sizes <= tasks.block_rows)]  # others are damage
    except (DaskmlrError, OSError) as error:
        damage = str(error)
    moments = (tasks.feature_names, tasks.feature_mean.tolist(), tasks.feature_scale.tolist())
    return markup.render(
        "store.html",
        tasks=tasks,
        features=list(zip(*moments, strict=True))[:SHOWN_FEATURES],
        block_bytes=tasks.block_rows * (tasks.n_features + 1) * tasks.itemsize,
        sizes=size_classes(np.bincount(sizes)) if sizes.size else [],
        n_seen=sizes.size,
        damage=damage,
    )


def some_sizes(tasks: TaskStore) -> NDArray[np.int32]:
    """Return the sizes of all tasks, or of a few whole chunks of them, evenly spread."""
    n_chunks = -(-tasks.n_tasks // layout.TASK_CHUNK)
    chosen = np.unique(np.linspace(0, n_chunks - 1, min(n_chunks, SHOWN_CHUNKS)).round())
    starts = (chosen.astype(np.int64) * layout.TASK_CHUNK).tolist()
    return np.concatenate([tasks.task_sizes(at, at + layout.TASK_CHUNK) for at in starts])


def size_classes(counts: NDArray[np.integer], *, by_powers: bool = False) -> list[tuple[str, int]]:
    """Count tasks by size: each size, or where they reach far, the powers of two.

    Parameters
    ----------
    counts : ndarray of shape (n,)
        Tasks of each size, from 0 on.
    by_powers : bool
        Take the powers of two in any case.

    Examples
    --------
    >>> size_classes(np.bincount([2, 2, 3]))
    [('2', 2), ('3', 1)]
    >>> size_classes(np.bincount([1, 5, 6, 20]))
    [('1', 1), ('2–3', 0), ('4–7', 2), ('8–15', 0), ('16–31', 1)]
    """
    there = np.flatnonzero(counts)
    first, last = int(there[0]), int(there[-1])
    if last <= SINGLE_SIZES and not by_powers:
        return [(str(t), int(counts[t])) for t in range(first, last + 1)]
    classes = []
    for power in range(first.bit_length() - 1, last.bit_length()):
        low, high = 1 << power, (2 << power) - 1
        label = str(low) if low == high else f"{low:,}–{high:,}"
        classes.append((label, int(counts[low : high + 1].sum())))
    return classes
