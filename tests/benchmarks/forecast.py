"""A forecast beside the fit it is of.

    python -m tests.benchmarks.forecast

Makes a store, plans its fit as `daskmlr plan` does, then fits it on that Dask cluster (worker
processes of one thread), and prints each stage's seconds for a pass as planned and as taken.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression
from daskmlr.forecast import DaskCluster, forecast_fit, measure_rates
from daskmlr.stages import FitOptions
from tests.benchmarks.passes import make_store

if TYPE_CHECKING:
    from collections.abc import Iterable


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--n-components", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| d | stage | passes | planned, s | bound by | taken, s |\n" + "|---" * 6 + "|")
    for n_features in asked.features:
        with (
            tempfile.TemporaryDirectory() as folder,
            LocalCluster(
                n_workers=asked.workers, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            tasks = make_store(Path(folder), n_features, asked.gigabytes)
            os.sync()  # what is still being written would slow what is measured
            options = FitOptions(asked.n_components)
            rates = measure_rates(tasks, options, 1)
            planned = forecast_fit(tasks, options, DaskCluster(asked.workers, 1), rates)
            estimator = MixedLinearRegression(asked.n_components, random_state=0)
            history = estimator.fit(tasks, client=client).model_.history
            for stage in planned:
                taken = [entry["seconds"] for entry in history if entry["stage"] == stage.stage]
                print(
                    f"| {n_features} | {stage.stage} | {len(taken)} | "
                    f"{stage.seconds / stage.n_passes:.2f} | {stage.bound} | {mean(taken):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
