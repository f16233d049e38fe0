"""The runs that a scheduler was told of, and how far they are."""

from __future__ import annotations

import logging
import math
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Of the board among the scheduler's plugins.
NAME = "daskmlr"
# Runs that are remembered, those under way aside.
REMEMBERED = 20
# A sample of the throughput is taken at first so often; when so many are kept, every other one
# goes, and the next are taken half as often.
SAMPLE_SECONDS, MOST_SAMPLES = 1.0, 400
# Workers that came or went, remembered for each run.
MOST_CHANGES = 50

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """One run, as its client tells of it. Times are in seconds since it began."""

    id: str
    started: float
    facts: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    error: str = ""
    stage: str = ""
    number: int = 0
    done: int = 0
    total: int = 0
    n_bytes: int = 0
    began: float = 0.0
    ended: float | None = None
    bytes_before: int = 0
    log_likelihoods: list[float | None] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    samples: list[tuple[float, int, float]] = field(default_factory=list)
    n_lost: int = 0
    n_joined: int = 0
    changes: list[tuple[float, str]] = field(default_factory=list)
    _apart: float = SAMPLE_SECONDS

    def now(self) -> float:
        """Seconds since the run began; until it ended, if it has."""
        return time.time() - self.started if self.ended is None else self.ended

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in what the client tells."""
        kind = event["event"]
        if kind == "run":
            self.facts.update(event)
        elif kind == "fit":
            self.facts["n_components"] = event["n_components"]
            self.log_likelihoods, self.weights = [], []
        elif kind == "begin":
            self.stage, self.number = event["stage"], event["number"]
            self.done, self.total, self.n_bytes = 0, event["total"], event["n_bytes"]
            self.began = event["at"]
            self.facts["store"] = event["store"] or self.facts.get("store", "")
        elif kind == "over":
            self.done = self.total
            self.stages.append(
                {
                    "stage": self.stage,
                    "pass": self.number,
                    "seconds": event["seconds"],
                    "bytes": self.n_bytes,
                }
            )
            self.bytes_before, self.n_bytes = self.bytes_before + self.n_bytes, 0
        elif kind == "found":
            self._take_found(dict(event["entry"]), kept=event["kept"])
        elif kind == "end":
            self.end("failed" if event["error"] else "done", event["error"], at=event["at"])

    def _take_found(self, entry: dict[str, Any], *, kept: bool) -> None:
        last = self.stages[-1] if self.stages else {}
        if last.get("stage") == entry["stage"] and "found" not in last:
            stage = last
        else:
            stage = {"stage": entry["stage"], "seconds": entry["seconds"]}
            self.stages.append(stage)
        stage["found"] = {
            name: plain(value) for name, value in entry.items() if name not in ("stage", "seconds")
        }
        if kept:
            stage["kept"] = True
        if "n_components" in self.facts:
            stage["n_components"] = self.facts["n_components"]
        if entry["stage"] == "refine":
            self.log_likelihoods.append(plain(entry["log_likelihood"]))
            self.weights.append(plain(entry.get("weights", [])))

    def look(self, done: int) -> None:
        """Take in how far the pass is."""
        self.done = min(max(self.done, done), self.total)

    def sample(self, read_rate: Callable[[], float]) -> None:
        """Keep, now and then, what was read so far, and how fast disks are read just now."""
        now = self.now()
        if self.samples and now - self.samples[-1][0] < self._apart:
            return
        self.samples.append((now, self.bytes_read(), read_rate()))
        if len(self.samples) > MOST_SAMPLES:
            self.samples, self._apart = self.samples[::2], 2 * self._apart

    def bytes_read(self) -> int:
        """Return the decoded bytes of all blocks so far."""
        return self.bytes_before + self.n_bytes * self.done // max(self.total, 1)

    def change(self, said: str, *, lost: int = 0, joined: int = 0) -> None:
        """Take in that a worker came or went."""
        self.n_lost, self.n_joined = self.n_lost + lost, self.n_joined + joined
        self.changes = [*self.changes, (self.now(), said)][-MOST_CHANGES:]

    def end(self, state: str, error: str = "", *, at: float | None = None) -> None:
        """End the run."""
        if self.state == "running":
            self.state, self.error = state, error
            self.ended = self.now() if at is None else at

    def told(self) -> dict[str, Any]:
        """Return all of it, JSON-able."""
        seconds = self.now() - self.began if self.state == "running" else 0.0
        rate = self.n_bytes * self.done / max(self.total, 1) / seconds if seconds > 0 else 0.0
        rates = [row["bytes"] / row["seconds"] for row in self.stages if row.get("bytes")]
        left = seconds * (self.total - self.done) / self.done if self.done else None
        return {
            "id": self.id,
            "client": self.facts.get("client", ""),
            "host": self.facts.get("host", ""),
            "process": self.facts.get("process", 0),
            "store": self.facts.get("store", ""),
            "n_components": self.facts.get("n_components"),
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": self.now(),
            "state": self.state,
            "error": self.error,
            "stage": self.stage,
            "pass": self.number,
            "graph_tasks_done": self.done,
            "graph_tasks": self.total,
            "bytes_per_second": rate,
            "seconds_left": left if self.state == "running" else None,
            "best_pass_bytes_per_second": max(rates, default=0.0),
            "device": device(self.facts.get("store", "")),
            "device_bytes_per_second": self.samples[-1][2] if self.samples else 0.0,
            "log_likelihoods": self.log_likelihoods,
            "weights": self.weights,
            "workers_lost": self.n_lost,
            "workers_joined": self.n_joined,
            "worker_changes": self.changes,
            "samples": self.samples,
            "stages": self.stages,
        }


class Board(SchedulerPlugin):  # type: ignore[misc]
    """Runs by their ids, the latest last; a plugin of the scheduler, to hear of workers."""

    name = NAME

    def __init__(self, workers: Mapping[str, str] | None = None):
        self.runs: dict[str, Run] = {}
        self.has_page = False
        self._workers = dict(workers or {})

    def take(self, told: Mapping[str, Any]) -> Run:
        """Take in what a client tells of its run."""
        run = self.runs.get(told["run"])
        if run is None:
            run = self.runs[told["run"]] = Run(told["run"], time.time() - told["now"])
            over = [key for key, known in self.runs.items() if known.state != "running"]
            for key in over[: max(len(self.runs) - REMEMBERED, 0)]:
                del self.runs[key]
        for event in told["events"]:
            run.take(event)
        return run

    def told(self) -> dict[str, Any]:
        """Return all of it, JSON-able."""
        return {"workers": self.n_workers, "runs": [run.told() for run in self.runs.values()]}

    @property
    def n_workers(self) -> int:
        """Workers at present."""
        return len(self._workers)

    def _running(self) -> list[Run]:
        return [run for run in self.runs.values() if run.state == "running"]

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Hear of a worker that came."""
        self._workers[worker] = named(scheduler.workers[worker])
        for run in self._running():
            run.change(f"{self._workers[worker]} joined", joined=1)

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:  # noqa: ARG002
        """Hear of a worker that went."""
        name = self._workers.pop(worker, worker)
        for run in self._running():
            run.change(f"{name} was lost", lost=1)

    def remove_client(self, scheduler: Any, client: str) -> None:  # noqa: ARG002
        """Hear of a client that went; what it was running has no end of its own."""
        for run in self._running():
            if run.facts.get("client") == client:
                run.end("lost", "its client went without a word")


def named(worker_state: Any) -> str:
    """Return the name of a worker, and its address if that is another."""
    name, address = worker_state.name, worker_state.address
    return f"worker {address}" if name in (None, address) else f"worker {name} ({address})"


def receive(told: Mapping[str, Any], dask_scheduler: Any) -> tuple[str, str, int] | None:
    """Take in what a client tells; put up board and page if need be; runs on the scheduler.

    Returns
    -------
    tuple or None
        Name of this host; address and port of the page; None if there is none.
    """
    from daskmlr.graph.page import install

    board = dask_scheduler.plugins.get(NAME)
    if board is None:
        workers = {address: named(ws) for address, ws in dask_scheduler.workers.items()}
        board = Board(workers)
        dask_scheduler.add_plugin(board, name=NAME)
        board.has_page = install(dask_scheduler, board)
    run = board.take(told)
    run.sample(lambda: read_rate(dask_scheduler, run.facts.get("store", "")))
    server = dask_scheduler.http_server
    return (socket.gethostname(), server.address, server.port) if board.has_page else None


def note(told: Mapping[str, Any] | None, done: int, dask_scheduler: Any) -> None:
    """Take in what a look at a pass brings; runs on the scheduler. A run does not hang on it."""
    board = dask_scheduler.plugins.get(NAME)
    if told is not None and board is not None:
        with suppress(Exception):
            run = board.take(told)
            run.look(done)
            run.sample(lambda: read_rate(dask_scheduler, run.facts.get("store", "")))


def device(store: str) -> str:
    """Say what blocks come from, as Dask's workers know it: their disks, or the network."""
    return "network" if "://" in store else "disk"


def read_rate(scheduler: Any, store: str) -> float:
    """Bytes per second that the hosts of all workers read of their disks, or the network."""
    hosts: dict[str, float] = {}
    counted = {"disk": "host_disk_io", "network": "host_net_io"}[device(store)]
    for ws in scheduler.workers.values():
        rate = ws.metrics.get(counted, {}).get("read_bps", 0.0)
        hosts[ws.host] = max(hosts.get(ws.host, 0.0), rate)
    return sum(hosts.values())


def plain(value: Any) -> Any:
    """Return a value as JSON knows it, in which no number is infinite."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
