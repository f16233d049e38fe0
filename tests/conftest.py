"""Stores, clusters and the site, which several test files share."""

import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from daskmlr import simulate

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="session")
def easy_tasks(tmp_path_factory):
    """Three well separated components, correlated covariates far from zero, in a dozen blocks."""
    return simulate(
        tmp_path_factory.mktemp("easy") / "tasks.daskmlr",
        n_components=3,
        n_features=4,
        noise=0.3,
        intercept_scale=1.0,
        mean=5.0,
        correlation=0.5,
        task_groups=[(3000, (1, 12)), (100, 20)],
        random_state=7,
        dtype="float64",
        block_bytes=40 * 1500,
    )


@pytest.fixture(scope="session")
def process_client():
    """A Dask cluster of two worker processes."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The documentation site, built."""
    site = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, site],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return site
