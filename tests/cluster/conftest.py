"""A store, and what a fit and an assignment of it give on this machine alone."""

import numpy as np
import pandas as pd
import pytest

from daskmlr import Model, open_tasks, simulate
from daskmlr.cli import main
from tests.benchmarks.bitwise import different
from tests.cluster.daemons import run_cli

FIT = ("--n-components", 3, "--seed", 1)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Enough blocks for dozens of graph tasks a pass."""
    path = tmp_path_factory.mktemp("cluster") / "tasks.daskmlr"
    simulate(
        path, n_components=3, n_features=4, noise=0.3, task_groups=[(2000, (1, 9)), (60, 30)],
        random_state=5, block_bytes=10_000,
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def alone(store, tmp_path_factory):
    """Model and labels, made without a Dask cluster."""
    folder = tmp_path_factory.mktemp("alone")
    main(
        ["fit", *map(str, (store, folder / "model", *FIT)), "--scheduler", "sync"],
        standalone_mode=False,
    )
    model = Model.load(folder / "model")
    model.assign(open_tasks(store), out=folder / "labels.parquet", client="sync")
    return model, pd.read_parquet(folder / "labels.parquet")


@pytest.fixture
def same_bits(store, alone, tmp_path):
    """Fit and assign by the command line with some options; hold the bits against `alone`."""

    def check(*where, **environment):
        model, labels = tmp_path / "model", tmp_path / "labels.parquet"
        for command in (("fit", store, model, *FIT), ("assign", model, store, labels)):
            done = run_cli(*command, *where, cwd=tmp_path, **environment)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
        assert different(alone[0], Model.load(model)) == []
        found = pd.read_parquet(labels)
        assert list(found) == list(alone[1])
        for name in found:
            np.testing.assert_array_equal(found[name], alone[1][name], strict=True)

    return check
