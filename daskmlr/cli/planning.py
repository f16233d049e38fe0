"""The command that plans a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from dask.utils import parse_bytes

from daskmlr import report
from daskmlr.cli.base import PATH_OR_URL, as_json, main, print_facts

if TYPE_CHECKING:
    pass


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, such as ``8GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read what was typed."""
        try:
            size = value if isinstance(value, int) else parse_bytes(value)
        except ValueError:
            self.fail(f"{value!r} is no size: write a number and a unit, such as 8GB", param, ctx)
        if size <= 0:
            self.fail(f"must be above 0, got {value}", param, ctx)
        return size


@main.command()
@click.argument("store", type=PATH_OR_URL)
@click.option("--n-components", type=click.IntRange(min=1), required=True, help="Regressions, k.")
@click.option("--workers", type=click.IntRange(min=1), required=True, help="Worker processes.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each worker."
)
@click.option("--memory", type=Bytes(), required=True, help="Of each worker.")
@click.option("--size", type=Bytes(), help="Plan for a store like STORE of so many bytes.")
@click.option(
    "--read-rate",
    type=Bytes(),
    help="Bytes a second that a worker reads. Default: as measured here.",
)
@click.option(
    "--storage-rate",
    type=Bytes(),
    help="Bytes a second that the storage gives all workers. Default: no bound.",
)
@click.option(
    "--network-rate",
    type=Bytes(),
    default="1GB",
    show_default=True,
    help="Bytes a second between two workers.",
)
@as_json
def plan(
    store: str,
    n_components: int,
    workers: int,
    threads: int,
    memory: int,
    size: int | None,
    read_rate: int | None,
    storage_rate: int | None,
    network_rate: int,
    as_json: bool,
) -> None:
    """Say how long a fit of STORE would take on so many workers, and what would bound it.

    Reads and works on a few blocks of STORE, on this machine: run it on one like the workers'.
    """
    import math

    from daskmlr.forecast import DaskCluster, forecast_fit, measure_rates
    from daskmlr.stages import FitOptions
    from daskmlr.storage.tasks import open_tasks

    tasks, options = open_tasks(store), FitOptions(n_components)
    cluster = DaskCluster(
        workers, threads, memory, read_rate, storage_rate or math.inf, network_rate
    )
    rates = measure_rates(tasks, options, threads)
    facts = report.forecast_facts(forecast_fit(tasks, options, cluster, rates, n_bytes=size))
    facts["rates"] = {"read": rates.read, **rates.products}
    print_facts(facts, as_json, [report.forecast_table(facts)])
