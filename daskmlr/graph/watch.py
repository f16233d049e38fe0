"""What a Dask cluster does for a pass: progress, warnings when nothing moves, stragglers."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import format_bytes, format_time, parse_timedelta

from daskmlr.errors import ClusterWarning
from daskmlr.graph.board import note

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dask.delayed import Delayed
    from distributed import Client

    from daskmlr.graph.telling import Telling

# A pass of which nothing starts or ends for so long is said to be stalled; the first setting ...
STALLED_AFTER = "daskmlr.stalled-after", "120s"
# ... but nobody waits so long to learn that there are no workers.
NO_WORKERS_AFTER = 20.0
# A graph task straggles if it takes so many times the average, and so many seconds (longer than
# a read is tried again), while other workers are idle.
STRAGGLES, STRAGGLES_SECONDS = 3.0, 5.0
# States of a graph task that has ended, and of one that no worker has taken.
ENDED = ("memory", "released", "forgotten")
UNTAKEN = ("waiting", "queued", "no-worker", "released")
# Workers that a warning names.
NAMED = 8


class Watch:
    """Looks at one pass from the client.

    Parameters
    ----------
    client : Client
    graphs : sequence of Delayed
        Of the pass.
    name : str
    n_runs : int
        Leaves in all.
    telling : Telling
        What it has to tell the scheduler goes with each look.
    """

    def __init__(
        self,
        client: Client,
        graphs: Sequence[Delayed],
        name: str,
        n_runs: int,
        telling: Telling,
    ):
        self._client, self._name, self._n_runs, self._telling = client, name, n_runs, telling
        groups = {key[0] for graph in graphs for key in graph.dask if isinstance(key, tuple)}
        self._groups = sorted(groups, key=lambda group: group.startswith(f"{name}-sum-"))
        self._seen: list[dict[str, int]] = []
        self._moved = time.monotonic()
        self._patience = 1.0
        self._taken: dict[Any, tuple[str, float]] = {}
        self._handed: set[Any] = set()
        self.n_done = 0

    def look(self) -> None:
        """Look once: count what is done, warn if nothing moves, hand over what straggles."""
        told = self._telling.waiting()
        seen = self._client.run_on_scheduler(look, groups=self._groups, told=told)
        leaves = seen["states"][0]
        self.n_done = min(max(sum(leaves[state] for state in ENDED), self.n_done), self._n_runs)
        if seen["states"] != self._seen:
            self._seen, self._moved, self._patience = seen["states"], time.monotonic(), 1.0
        self._warn_if_stalled(seen["n_workers"])
        self._hand_over(seen)

    def _warn_if_stalled(self, n_workers: int) -> None:
        key, default = STALLED_AFTER
        limit = parse_timedelta(dask.config.get(key, default))
        if not n_workers:
            limit = min(limit, NO_WORKERS_AFTER)
        still = time.monotonic() - self._moved
        if still < limit * self._patience:
            return
        self._patience *= 2
        doing = self._client.run_on_scheduler(describe, groups=self._groups)
        warnings.warn(
            f"pass {self._name!r} has not moved for {format_time(still)}: {self.n_done} of "
            f"{self._n_runs} graph tasks are done. {doing} It goes on waiting",
            ClusterWarning,
            stacklevel=2,
        )

    def _hand_over(self, seen: dict[str, Any]) -> None:
        """Give what straggles at the end of a pass to workers that are idle, once.

        Graph tasks are pure: whatever the slow worker still makes of it is thrown away.
        """
        now = time.monotonic()
        running: dict[Any, str] = seen["running"]
        self._taken = {
            key: (worker, self._taken[key][1] if self._taken.get(key, ("",))[0] == worker else now)
            for key, worker in running.items()
        }
        limit = max(STRAGGLES * seen["seconds"], STRAGGLES_SECONDS)
        late = [
            key
            for key, (_, since) in self._taken.items()
            if now - since > limit and key not in self._handed
        ]
        if late and seen["n_idle"]:
            self._handed.update(late)
            self._client.run_on_scheduler(hand_over, keys=late)


def look(
    groups: Sequence[str], told: Mapping[str, Any] | None, dask_scheduler: Any
) -> dict[str, Any]:
    """See how far a pass is, and note it with what is told; runs on the scheduler.

    Returns
    -------
    dict
        ``states``, graph tasks by state for each group; ``n_workers``; ``n_idle``, those with
        nothing to do; and, once all of the pass is taken, ``running``, the worker of each graph
        task, and the average ``seconds`` of the leaves.
    """
    found = [dask_scheduler.task_groups.get(group) for group in groups]
    states = [
        {
            state: group.states.get(state, 0) if group else 0
            for state in (*ENDED, *UNTAKEN, "processing")
        }
        for group in found
    ]
    workers = dask_scheduler.workers.values()
    idle = [ws for ws in dask_scheduler.running if not ws.processing]
    ended = sum(states[0][state] for state in ENDED)
    note(told, ended, dask_scheduler)
    running = {}
    if found[0] and not any(states[0][state] for state in ("waiting", "queued", "no-worker")):
        running = {
            ts.key: ws.address for ws in workers for ts in ws.processing if ts.group in found
        }
    return {
        "states": states,
        "n_workers": len(workers),
        "n_idle": len(idle),
        "running": running,
        "seconds": found[0].duration / max(ended, 1) if found[0] else 0.0,
    }


def describe(groups: Sequence[str], dask_scheduler: Any) -> str:
    """Say in words what the workers are doing; runs on the scheduler."""
    workers = list(dask_scheduler.workers.values())
    if not workers:
        return (
            f"The Dask cluster {dask_scheduler.address} has no workers: start some, or look at "
            "why they do not come."
        )
    now = time.time()
    own = {ws: sum(ts.group.name in groups for ts in ws.processing) for ws in workers}
    workers.sort(key=lambda ws: -own[ws])
    said = []
    for ws in workers[:NAMED]:
        name = "" if ws.name in (None, ws.address) else f"{ws.name} "
        memory = format_bytes(ws.metrics.get("memory", 0))
        limit = f" of {format_bytes(ws.memory_limit)}" if ws.memory_limit else ""
        said.append(
            f"{name}({ws.address}) {ws.status.name}, {own[ws]} of its {len(ws.processing)} graph "
            f"tasks are of this pass, memory {memory}{limit}, last seen "
            f"{format_time(now - ws.last_seen)} ago"
        )
    more = f"; and {len(workers) - NAMED} more" if len(workers) > NAMED else ""
    return f"Workers: {'; '.join(said)}{more}."


def hand_over(keys: Collection[Any], dask_scheduler: Any) -> None:
    """Take graph tasks from the workers that run them, for others; runs on the scheduler."""
    for key in keys:
        ts = dask_scheduler.tasks.get(key)
        if ts is None or ts.state != "processing":
            continue
        others = {ws.address for ws in dask_scheduler.running if ws is not ts.processing_on}
        if others:
            dask_scheduler.set_restrictions(worker={key: others})
            ts.loose_restrictions = True
            dask_scheduler.transitions({key: "released"}, stimulus_id=f"hand-over-{time.time()}")


def elsewhere(
    key: Any, avoided: Collection[str], dask_scheduler: Any
) -> tuple[set[str], list[str]]:
    """Return the workers on which a graph task failed, and those left beside them and `avoided`.

    Runs on the scheduler. None are left if it is not known where the task failed.
    """
    blamed = dask_scheduler.tasks[key].exception_blame
    bad = set(blamed.erred_on or ()) if blamed else set()
    left = {ws.address for ws in dask_scheduler.running} - bad - set(avoided)
    return bad, sorted(left) if bad else []
