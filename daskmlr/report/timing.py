"""How long the stages of a fit took, and how far its passes were from reading alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the stages of a fit do, in words.
STAGES = {
    "moments": "moments of all tasks, for the subspace",
    "filter": "tasks extreme along the subspace",
    "project": "largest tasks, projected on the subspace",
    "cluster": "search for first components, on the client",
    "odd": "tasks that no component explains",
    "refine": "labels of all tasks, and least squares",
    "widen": "least squares beyond the subspace",
    "diagnose": "sums that speak for or against the components",
}


@dataclass(frozen=True)
class StageTime:
    """What the steps of one stage took together.

    Attributes
    ----------
    stage, what : str
    steps : int
        Passes, or runs of a stage that reads nothing.
    seconds : float
    bytes_read, graph_tasks : int
        Of all passes; 0 of a stage that has none.
    thread_seconds, reading_seconds : float
        See `daskmlr.graph.faults.Work`.
    """

    stage: str
    what: str
    steps: int
    seconds: float
    bytes_read: int
    graph_tasks: int
    thread_seconds: float
    reading_seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes_read / self.seconds

    @property
    def reading_share(self) -> float:
        """Share of the threads' time until blocks were there: rate over `reading_rate`."""
        return self.reading_seconds / self.thread_seconds

    @property
    def reading_rate(self) -> float:
        """Bytes per second, had the threads only read: they were as many, and as busy."""
        return self.rate / self.reading_share


def stage_times(history: Iterable[dict[str, Any]]) -> list[StageTime]:
    """Add the entries of a record up by stage, in the order of their first."""
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for entry in history:
        by_stage.setdefault(entry["stage"], []).append(entry)

    def total(entries: list[dict[str, Any]], name: str) -> Any:
        return sum(entry.get(name, 0) for entry in entries)

    return [
        StageTime(
            stage,
            STAGES.get(stage, ""),
            len(entries),
            total(entries, "seconds"),
            total(entries, "bytes_read"),
            total(entries, "graph_tasks"),
            total(entries, "thread_seconds"),
            total(entries, "reading_seconds"),
        )
        for stage, entries in by_stage.items()
    ]
