"""Forecasts of a fit on a Dask cluster: arithmetic, refusals, the command."""

import json
import math

import pytest
from click.testing import CliRunner

from daskmlr import plan, simulate
from daskmlr.cli import main
from daskmlr.errors import PlanError
from daskmlr.forecast import DaskCluster, Rates, StoreSize, forecast_fit, measure_rates
from daskmlr.stages import FitOptions, heavy_count

OPTIONS = FitOptions(3)
# Bytes per second that bound nothing.
FAST = Rates(1e15, dict.fromkeys(("moments", "project", "refine", "diagnose"), 1e15))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("forecast") / "tasks", n_components=3, n_features=5,
        task_groups=[(4000, 6)], block_bytes=20_000, random_state=0,
    )  # fmt: skip


def by_stage(tasks, cluster, rates=FAST, **options):
    return {stage.stage: stage for stage in forecast_fit(tasks, OPTIONS, cluster, rates, **options)}


def test_plans_what_a_fit_plans(tasks):
    sums = plan.sum_bytes_of_fit(5, 3, heavy_count(tasks, OPTIONS), 0)
    found = by_stage(tasks, DaskCluster(2, 3))
    for stage, sum_bytes in (("moments", sums["moments"]), ("project", sums["heavy"])):
        assert found[stage].cost == plan.plan_pass(tasks, sum_bytes)
        assert found[stage].memory == plan.plan_pass(tasks, sum_bytes).peak_bytes(3)


def test_bound_by_the_slowest(tasks):
    bytes_read = plan.plan_pass(tasks, 0).bytes_read
    slow_products = Rates(1e15, {**FAST.products, "refine": 10.0})
    assert by_stage(tasks, DaskCluster(2, 1))["refine"].bound == "scheduling"
    assert by_stage(tasks, DaskCluster(2, 1), slow_products)["refine"].bound == "products"
    assert by_stage(tasks, DaskCluster(2, 1, network_rate=1.0))["refine"].bound == "combining"
    read = by_stage(tasks, DaskCluster(2, 1, read_rate=10.0))["refine"]
    assert read.bound == "reading"
    assert read.reading == pytest.approx(bytes_read / 20)
    assert read.seconds == pytest.approx(read.n_passes * (read.reading + read.combining))
    shared = by_stage(tasks, DaskCluster(2, 1, read_rate=10.0, storage_rate=5.0))["refine"]
    assert shared.reading == pytest.approx(bytes_read / 5)


def test_last_wave_of_runs_lasts_as_long(tasks):
    n_runs = plan.plan_pass(tasks, 0).n_runs
    rates = Rates(1e15, {**FAST.products, "refine": 10.0})
    each, fewer, one = (
        by_stage(tasks, DaskCluster(n, 1), rates)["refine"].products
        for n in (n_runs, n_runs - 1, 1)
    )
    assert fewer == pytest.approx(2 * each)
    assert one == pytest.approx(n_runs * each)


def test_store_of_another_size(tasks):
    cluster = DaskCluster(7, 2, read_rate=10.0)
    small, large = (
        by_stage(tasks, cluster, n_bytes=times * tasks.nbytes)["refine"] for times in (1, 1000)
    )
    assert small == by_stage(tasks, cluster)["refine"]
    assert large.reading == pytest.approx(1000 * small.reading)
    assert large.cost.n_runs <= plan.MAX_RUNS


def test_hundred_terabytes_keep_the_scheduler_s_part_small():
    size = StoreSize(3_000_000, 64_000, 128, 192_000_000_000, 4, blocks_ahead=0)
    assert plan.block_bytes(size) * size.n_blocks > 90e12
    assert plan.plan_pass(size, 0).n_graph_tasks < 50_000


def test_worker_too_small(tasks):
    with pytest.raises(PlanError, match=r"needs .* MiB on each worker"):
        by_stage(tasks, DaskCluster(2, 4, memory=100 * plan.MIB))


@pytest.mark.parametrize("n_features", [5, plan.WIDE_FEATURES + 1])
def test_rates_of_every_kernel(tmp_path, n_features):
    tasks = simulate(
        tmp_path / "tasks", n_components=3, n_features=n_features,
        task_groups=[(60, 6)], block_bytes=200_000, random_state=0,
    )  # fmt: skip
    rates = measure_rates(tasks, OPTIONS, 2)
    assert set(rates.products) == {"moments", "project", "refine", "diagnose"}
    assert all(0 < rate < math.inf for rate in (rates.read, *rates.products.values()))
    stages = forecast_fit(tasks, OPTIONS, DaskCluster(2, 1), rates)
    assert all(stage.seconds > 0 for stage in stages)


def test_command(tasks):
    arguments = ["plan", str(tasks.path), "--n-components", "3", "--workers", "1000"]
    told = CliRunner().invoke(
        main, [*arguments, "--memory", "4GB", "--size", "1TB", "--read-rate", "100MB", "--json"]
    )
    assert told.exit_code == 0, told.output
    facts = json.loads(told.output)
    assert facts["seconds"] == pytest.approx(sum(row["seconds"] for row in facts["stages"]))
    assert facts["stages"][0]["reading"] == pytest.approx(10, rel=0.01)
    table = CliRunner().invoke(main, [*arguments, "--memory", "4GB"]).output
    assert "diagnose" in table
    assert "bound by" in table


@pytest.mark.parametrize(
    ("memory", "status", "message"),
    [("50MB", 1, "needs"), ("5x", 2, "is no size"), ("0", 2, "must be above 0")],
)
def test_command_refuses(tasks, memory, status, message):
    arguments = ["plan", str(tasks.path), "--n-components", "3", "--workers", "2"]
    told = CliRunner().invoke(main, [*arguments, "--memory", memory])
    assert told.exit_code == status
    assert message in told.output
