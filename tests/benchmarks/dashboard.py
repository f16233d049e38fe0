"""What the live page costs a fit: without it, with it, and with it looked at.

    python -m tests.benchmarks.dashboard

A Dask cluster of worker processes on this machine fits the same store again and again. In each
round every way takes its turn, in an order that rotates; a round's ratios are to its own fit
without the page, so what else the machine does, and how warm it is, falls out of them. *Accounted*
is the time in what the page alone calls, by the clock: the fit waits while it tells the scheduler,
and what the scheduler notes and draws keeps it from other work. Workers have no part in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any
from unittest import mock

from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression, simulate
from daskmlr.graph import watch
from daskmlr.graph.telling import Telling
from daskmlr.graph.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from daskmlr.storage.tasks import TaskStore

N_COMPONENTS = 4
WAYS = ("without", "with", "looked at")
# Opens the page as a browser does, and takes what it sends.
LOOK = """
import sys, time
from bokeh.client import pull_session
session = pull_session(url=sys.argv[1])
print("looking", flush=True)
while True:
    session.force_roundtrip()
    time.sleep(0.5)
"""


@contextmanager
def way_of(way: str, page: str) -> Iterator[None]:
    if way == "without":
        with mock.patch.object(Telling, "listen"):
            yield
    elif way == "with":
        yield
    else:
        looking = subprocess.Popen(
            [sys.executable, "-c", LOOK, page], stdout=subprocess.PIPE, text=True
        )
        try:
            if looking.stdout is None or looking.stdout.readline() != "looking\n":
                raise RuntimeError(f"{page} cannot be opened")
            yield
        finally:
            looking.kill()
            looking.wait()


@contextmanager
def accounting() -> Iterator[list[float]]:
    """List the seconds of each call of what the page alone calls, here and on the scheduler."""
    calls: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                calls.append(time.perf_counter() - start)

        return call

    with (
        mock.patch.object(Telling, "_send", timed(Telling._send)),
        mock.patch.object(watch, "note", timed(watch.note)),
        mock.patch.object(View, "show", timed(View.show)),
    ):
        yield calls


def fit(tasks: TaskStore, client: Client, max_iter: int) -> tuple[float, float, float]:
    """Seconds; those accounted to the page; log-likelihood."""
    estimator = MixedLinearRegression(N_COMPONENTS, random_state=0, tol=0.0, max_iter=max_iter)
    with accounting() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not to converge, but to take as long each time
        start = time.perf_counter()
        estimator.fit(tasks, client=client)
        return time.perf_counter() - start, sum(calls), estimator.log_likelihood_


def spread(values: list[float]) -> str:
    """Median, and the quartiles around it."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{median(values):.4f} ({low:.4f} to {high:.4f})"


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--passes", type=int, default=10, help="of refinement")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        tasks = simulate(
            Path(folder) / "tasks", n_components=N_COMPONENTS, n_features=asked.features,
            task_groups=[(asked.tasks, 6), (512, 40)], random_state=0,
        )  # fmt: skip
        page = client.dashboard_link.replace("/status", "/daskmlr")
        fit(tasks, client, asked.passes)  # warms what can be, and puts the page up
        took: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
        for number in range(asked.rounds):
            turn = number % len(WAYS)
            for way in (*WAYS[turn:], *WAYS[:turn]):
                with way_of(way, page):
                    took[way].append(fit(tasks, client, asked.passes))
        if len({found for fits in took.values() for _, _, found in fits}) > 1:
            raise AssertionError("the fits are not the same")
    print(f"{asked.rounds} rounds, {tasks.n_rows:,} examples of {asked.features} features\n")
    print("| page | took, s | ratio: median (quartiles) | accounted: median (quartiles) |")
    print("|---|---|---|---|")
    for way in WAYS:
        pairs = list(zip(took[way], took["without"], strict=True))
        ratio = spread([here[0] / bare[0] for here, bare in pairs])
        accounted = spread([one[1] / one[0] for one in took[way]])
        seconds = median(one[0] for one in took[way])
        print(f"| {way} | {seconds:.2f} | {ratio} | {accounted} |", flush=True)


if __name__ == "__main__":
    main()
