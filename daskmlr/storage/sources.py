"""Tell one store from others without reading them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daskmlr.storage.tasks import TaskStore


def begins_with(tasks: TaskStore, source: Mapping[str, Any]) -> bool:
    """Whether a store is the one that `source_of` told of, or was appended to since."""
    n_tasks, block = source["n_tasks"], source.get("block", 0)
    return bool(n_tasks <= tasks.n_tasks and source == source_of(tasks, n_tasks, block=block))


def source_of(tasks: TaskStore, n_tasks: int | None = None, *, block: int = 0) -> dict[str, Any]:
    """Tell the first `n_tasks` of a store, all by default, from others without reading them all.

    Parameters
    ----------
    tasks : TaskStore
    n_tasks : int, optional
    block : int
        The block whose targets are read: not one that is damaged.

    Returns
    -------
    dict
        ``n_tasks``, and a ``fingerprint`` of their sizes and of the targets of a block, the same
        after tasks were appended; ``block``, if it is not the first.
    """
    n_tasks = tasks.n_tasks if n_tasks is None else n_tasks
    digest = hashlib.blake2b(digest_size=16)
    for sizes in tasks.sizes_in_pieces(n_tasks):
        digest.update(sizes.tobytes())
    digest.update(tasks.read_targets(block).tobytes())
    named = {"block": block} if block else {}
    return {"n_tasks": n_tasks, "fingerprint": digest.hexdigest(), **named}
