"""From a table to labels on an object store, by workers that find their own credentials."""

import json
import logging
import pickle

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression, ingest, open_tasks, simulate
from daskmlr.cli import main
from daskmlr.errors import ClusterError
from daskmlr.graph.leaf import pack
from daskmlr.graph.reduce import _reduction
from daskmlr.model import Model
from daskmlr.plan import runs
from daskmlr.storage.location import locate
from daskmlr.storage.rows import read_column
from tests.objects.test_stores import DRAW, files, objects

LOUD = {"DASK_LOGGING__DISTRIBUTED": "debug"}


@pytest.fixture
def workers():
    """Start a Dask cluster of two worker processes, with an environment of their own."""
    opened = []

    def start(environment):
        cluster = LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            env={**environment, **LOUD},
        )
        opened.append(cluster)
        client = Client(cluster, set_as_default=False)
        opened.append(client)
        return client

    yield start
    for each in reversed(opened):
        each.close()


def said(client, caplog):
    """All that client, scheduler and workers logged."""
    logs = [
        client.get_scheduler_logs(),
        client.get_worker_logs(),
        client.get_worker_logs(nanny=True),
    ]
    return caplog.text + repr(logs)


def columns(path):
    names = ("label", "p_value", "log_likelihood")
    return {name: np.concatenate(list(read_column(path, name))) for name in names}


def test_a_fit_by_processes_gives_the_bits_of_the_local_run_and_no_secret_away(
    server, bucket, tmp_path, workers, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    secrets = [server.key, server.secret]
    here, there = tmp_path / "tasks", f"{bucket}/tasks"
    for path in (here, there):
        simulate(path, **DRAW)
    client = workers(server.environment())
    estimator = MixedLinearRegression(2, random_state=0)
    local = estimator.fit(here, client="sync").model_
    model = estimator.fit(there, client=client).model_
    for name in ("coef", "intercept", "noise_variance", "weights", "subspace", "gram"):
        np.testing.assert_array_equal(getattr(model, name), getattr(local, name))
    assert model.log_likelihood == local.log_likelihood
    model.save(f"{bucket}/model")
    model = Model.load(f"{bucket}/model")
    local.assign(open_tasks(here), out=tmp_path / "labels.parquet", client="sync")
    for suffix in ("parquet", "zarr"):
        model.assign(open_tasks(there), out=f"{bucket}/labels.{suffix}", client=client)
        expected, found = columns(tmp_path / "labels.parquet"), columns(f"{bucket}/labels.{suffix}")
        assert all(np.array_equal(found[name], expected[name]) for name in expected)

    store = open_tasks(there)
    shared = pack(store, len, max, (), False)
    graph = _reduction(shared, runs(store), "probe", most=1)
    travels = pickle.dumps(store) + cloudpickle.dumps(graph) + pickle.dumps(locate(there))
    assert there.encode() in travels
    written = b"".join([key.encode() + data for key, data in objects(bucket).items()])
    assert b"daskmlr-model" in written
    logged = said(client, caplog) + "".join(capfd.readouterr()) + repr(store)
    assert len(logged) > 1000
    for secret in secrets:
        assert secret.encode() not in travels
        assert secret.encode() not in written
        assert secret not in logged


def test_workers_with_a_wrong_key_say_so(seaweed, use, workers, caplog):
    use(seaweed)
    bucket = seaweed.make_bucket("workers-wrong")
    store = simulate(f"{bucket}/tasks", **DRAW)
    client = workers(seaweed.environment(AWS_SECRET_ACCESS_KEY="not-the-right-one"))
    refused = f"2 of 2 workers .* read the store: access to {bucket}/.* was refused .*: check AWS_"
    with pytest.raises(ClusterError, match=refused):
        MixedLinearRegression(2, random_state=0).fit(store, client=client)
    with pytest.raises(ClusterError, match=refused):
        Model.load(fitted(store, bucket)).assign(
            store, out=f"{bucket}/labels.parquet", client=client
        )
    assert locate(f"{bucket}/labels.parquet").is_empty()
    logged = said(client, caplog)
    assert not any(secret in logged for secret in (seaweed.secret, "not-the-right-one"))


def fitted(store, bucket):
    model = MixedLinearRegression(2, random_state=0).fit(store, client="sync").model_
    model.save(f"{bucket}/model")
    return f"{bucket}/model"


def table(n_tasks, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(n_tasks), n_rows)
    x, kind = rng.normal(size=len(task)), rng.choice(["a", "b"], len(task))
    y = np.where(task % 2, 2.0, -1.0) * x + (kind == "a") + 0.2 * rng.normal(size=len(task))
    return pd.DataFrame({"user": task, "x": x, "kind": kind, "y": y})


def test_every_command_takes_urls(seaweed, use, tmp_path):
    use(seaweed)
    bucket = seaweed.make_bucket("commands")
    table(400, 8).to_parquet(tmp_path / "rows.parquet")
    new = table(20, 8, seed=1)
    new.groupby("user").head(4).to_csv(tmp_path / "known.csv", index=False)
    new.groupby("user").tail(4).drop(columns="y").to_csv(tmp_path / "new.csv", index=False)

    def command(*arguments, fails=False):
        result = CliRunner().invoke(main, [*arguments])
        assert (result.exit_code != 0) == fails, result.output
        assert seaweed.secret not in result.output
        return result.output

    store, model = f"{bucket}/tasks", f"{bucket}/model"
    in_process = ("--scheduler", "sync")
    command("ingest", str(tmp_path / "rows.parquet"), store, "--task", "user", "--target", "y")
    facts = json.loads(command("info", store, "--validate", "--json"))
    assert facts["tasks"] == 400
    command("fit", store, model, "--n-components", "2", *in_process)
    out = json.loads(command("assign", model, store, f"{bucket}/l.parquet", "--json", *in_process))
    assert out["tasks"] == 400
    command("intervals", model, store, *in_process)
    command("simulate", f"{bucket}/drawn", "--tasks", "100", "--n-features", "3")
    given = ("--support", str(tmp_path / "known.csv"), "--query", str(tmp_path / "new.csv"))
    command("predict", model, *given, f"{bucket}/predicted.csv")
    command("predict", model, *given, str(tmp_path / "predicted.csv"))
    assert locate(bucket).read("predicted.csv") == (tmp_path / "predicted.csv").read_bytes()
    more = table(500, 8, seed=2)
    ingest(more, f"{bucket}/more", task="user", target="y")
    command("update", model, f"{bucket}/more", f"{bucket}/updated", *in_process)

    ingest(table(400, 8), tmp_path / "tasks", task="user", target="y")
    assert objects(store) == files(tmp_path / "tasks")
    assert "exists and is a model" in command(
        "fit", store, model, "--n-components", "2", fails=True
    )
    assert "is a model: the order is MODEL STORE OUT" in command(
        "assign", store, model, f"{bucket}/other.parquet", fails=True
    )
    assert "exists and is a file" in command(
        "predict", model, *given, f"{bucket}/predicted.csv", fails=True
    )
    use(seaweed, AWS_SECRET_ACCESS_KEY="not-the-right-one")
    output = command("info", store, fails=True)
    assert output.startswith(f"Error: access to {store}")
    assert output.count("\n") == 1
    assert "not-the-right-one" not in output
