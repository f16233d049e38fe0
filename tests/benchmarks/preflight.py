"""How long the checks before a pass take.

    python -m tests.benchmarks.preflight

A Dask cluster of ten worker processes on this machine, over TCP and over TLS. The first time,
workers import the package; then three times more.
"""

from __future__ import annotations

import tempfile
import time

from distributed import Client, LocalCluster, Security

from daskmlr import simulate
from daskmlr.graph.execute import connect

N_WORKERS = 10


def main() -> None:
    """Print a line for each protocol."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = simulate(
            f"{folder}/tasks",
            n_components=2,
            n_features=8,
            task_groups=[(10_000, 8)],
            random_state=0,
        )
        for protocol, security in (("tcp://", None), ("tls://", Security.temporary())):
            with (
                LocalCluster(
                    n_workers=N_WORKERS,
                    threads_per_worker=1,
                    protocol=protocol,
                    security=security,
                    dashboard_address="127.0.0.1:0",
                ) as cluster,
                Client(cluster) as client,
            ):
                client.wait_for_workers(N_WORKERS)
                seconds = []
                for _ in range(4):
                    with connect(client) as runner:
                        start = time.perf_counter()
                        runner.check(tasks)
                        seconds.append(time.perf_counter() - start)
                print(protocol, " ".join(f"{value:.2f}" for value in seconds), "s")


if __name__ == "__main__":
    main()
