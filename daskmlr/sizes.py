"""How large the tasks of a store are, and how many components they could carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskmlr.graph.environment import environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.storage.tasks import TaskStore

# Provenance of a store that a fit has written from arrays, and that goes with the fit.
FROM_ARRAYS = {"command": "fit_arrays"}


@dataclass(frozen=True)
class Sufficiency:
    """Whether a store can carry `n_components`, by the paper's orders of magnitude.

    With ``n(t)`` the number of tasks that have at least ``t`` examples, the subspace needs some
    ``t >= log k`` with ``n(t) t >= d k^2`` (light tasks), the first components some
    ``t >= sqrt k`` with ``n(t) >= k^{3/2}`` and ``n(t) t >= k^2`` (heavy tasks); constants and
    logarithms dropped (Kong et al. 2020, figure 1).

    Attributes
    ----------
    n_components : int
    light, heavy : int or None
        The task size ``t`` at which the requirement is met with most room, None if nowhere.
    """

    n_components: int
    light: int | None
    heavy: int | None


def size_counts(tasks: TaskStore, start: int = 0) -> NDArray[np.int64]:
    """Count the tasks of each size, index 0 to the largest; read piece by piece.

    Parameters
    ----------
    tasks : TaskStore
    start : int
        The tasks before it do not count.
    """
    counts, first = np.zeros(1, dtype=np.int64), 0
    for sizes in tasks.sizes_in_pieces():
        part = np.bincount(sizes[max(start - first, 0) :])
        first += len(sizes)
        if len(part) > len(counts):
            counts, part = part, counts
        counts[: len(part)] += part
    return counts


def tasks_at_least(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``n(t)``: number of tasks with at least t examples, by t from 0."""
    return counts[::-1].cumsum()[::-1]


def requirements(
    t: NDArray[np.integer | np.floating], n_features: int, n_components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least number of tasks of each size that a fit needs, by the paper's orders of magnitude.

    Parameters
    ----------
    t : ndarray
        Task sizes.
    n_features, n_components : int

    Returns
    -------
    light, heavy : ndarray of float64
        As in `Sufficiency`; infinite where tasks are too small, however many there are.
    """
    k, at = n_components, np.maximum(t, 1)
    light = np.where(t >= max(math.log(k), 2), n_features * k**2 / at, np.inf)
    heavy = np.where(t >= max(math.sqrt(k), 2), np.maximum(k**1.5, k**2 / at), np.inf)
    return light, heavy


def sufficiency(counts: NDArray[np.int64], n_features: int, n_components: int) -> Sufficiency:
    """Hold the sizes of a store's tasks against the paper's requirements.

    Examples
    --------
    >>> counts = np.bincount([8] * 100_000 + [32] * 500)
    >>> sufficiency(counts, 10, 4)
    Sufficiency(n_components=4, light=8, heavy=2)
    """
    n = tasks_at_least(counts)
    rooms = [n / need for need in requirements(np.arange(len(counts)), n_features, n_components)]
    return Sufficiency(
        n_components, *(int(room.argmax()) if room.max() >= 1 else None for room in rooms)
    )


def data_of(tasks: TaskStore, first_block: int = 0) -> dict[str, Any]:
    """Say what a fit reads of a store, from some block on; JSON-able.

    Returns
    -------
    dict
        ``path``, None of arrays in memory; ``dtype``, ``codec``; ``blocks`` of up to
        ``block_rows`` examples; ``tasks``, ``examples``, and their ``bytes`` when decoded;
        ``tasks_at_least``, pairs of a power of two and the number of tasks that have so many
        examples; ``versions`` of the packages that read it.
    """
    first = int(tasks.block_tasks[first_block])
    counts = size_counts(tasks, first)
    n_rows = int(counts @ np.arange(len(counts)))
    at_least = tasks_at_least(counts)
    powers = [2**i for i in range(len(counts).bit_length()) if 2**i < len(counts)]
    return {
        "path": None if FROM_ARRAYS in tasks.provenance else tasks.path,
        "dtype": str(tasks.dtype),
        "codec": tasks.codec,
        "blocks": tasks.n_blocks - first_block,
        "block_rows": tasks.block_rows,
        "tasks": tasks.n_tasks - first,
        "examples": n_rows,
        "bytes": n_rows * (tasks.n_features + 1) * tasks.itemsize,
        "tasks_at_least": [[t, int(at_least[t])] for t in powers],
        "versions": environment(),
    }
