"""What an object store loses on the way is sent again, and comes out right; within limits."""

import numpy as np
import pytest

from daskmlr import MixedLinearRegression, open_tasks, simulate
from daskmlr.errors import AccessError
from daskmlr.model import Model
from daskmlr.storage import clients
from daskmlr.storage.location import locate
from daskmlr.storage.rows import read_column
from tests.objects.proxy import proxy

DRAW = {
    "n_components": 2,
    "n_features": 3,
    "task_groups": [(300, (4, 12))],
    "random_state": 1,
    "dtype": "float64",
    "block_bytes": 40 * 1000,
}


def run(tasks, folder):
    """Simulate, fit, save and load, label: what comes out."""
    simulate(tasks, **DRAW)
    store = open_tasks(tasks)
    store.validate(deep=True)
    fitted = MixedLinearRegression(2, random_state=0).fit(store, client="threads").model_
    fitted.save(f"{folder}/model")
    loaded = Model.load(f"{folder}/model")
    loaded.assign(store, out=f"{folder}/labels.parquet", client="threads")
    posterior = np.concatenate(list(read_column(f"{folder}/labels.parquet", "posterior_0")))
    return loaded.coef.tobytes(), posterior.tobytes()


@pytest.mark.parametrize("fault", [503, 500, "reset", "lost", "cut"])
def test_every_request_fails_once(seaweed, use, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(clients, "FIRST_WAIT", clients.FIRST_WAIT / 20)
    bucket = seaweed.make_bucket(f"fault-{fault}")

    def once(method, path, attempt):
        return fault if attempt == 0 and (fault != "cut" or method == "GET") else None

    with proxy(seaweed.endpoint, once) as between:
        use(seaweed, AWS_ENDPOINT_URL=between.endpoint)
        found = run(f"{bucket}/tasks", bucket)
    assert between.done[fault] > 40
    assert found == run(tmp_path / "tasks", tmp_path)


@pytest.mark.parametrize("fault", [503, "reset"])
def test_a_server_that_keeps_failing_is_an_error_after_some_attempts(
    seaweed, use, monkeypatch, fault
):
    monkeypatch.setattr(clients, "RETRIES", 2)
    monkeypatch.setattr(clients, "FIRST_WAIT", clients.FIRST_WAIT / 20)
    bucket = seaweed.make_bucket(f"failing-{fault}")
    use(seaweed)
    simulate(f"{bucket}/tasks", **DRAW)
    store = open_tasks(f"{bucket}/tasks")
    _ = store.block_tasks, store.task_sizes()
    with proxy(seaweed.endpoint, lambda *_: fault) as between:
        use(seaweed, AWS_ENDPOINT_URL=between.endpoint)
        said = f"{bucket}/tasks/x/c/0/0 gives no answer .*; asked up to 3 times"
        with pytest.raises(AccessError, match=said):
            store.read_block(0)
        assert between.done[fault] == 3
        if fault == 503:
            with pytest.raises(AccessError, match=r"\(503; asked"):
                locate(bucket).write("a", b"1")


def test_a_write_that_the_server_stops_answering_fails_and_its_rest_is_refused(
    seaweed, use, monkeypatch
):
    monkeypatch.setattr(clients, "RETRIES", 1)
    monkeypatch.setattr(clients, "FIRST_WAIT", clients.FIRST_WAIT / 20)
    bucket = seaweed.make_bucket("stops")
    stopped = []

    def stop(method, path, attempt):
        if path.endswith("/x/c/1/0"):
            stopped.append(path)
        return 503 if stopped else None

    with proxy(seaweed.endpoint, stop) as between:
        use(seaweed, AWS_ENDPOINT_URL=between.endpoint)
        with pytest.raises(AccessError, match=r"gives no answer \(503"):
            simulate(f"{bucket}/tasks", **DRAW)
    use(seaweed)
    with pytest.raises(Exception, match=f"if it was stopped, remove all of {bucket}/tasks"):
        open_tasks(f"{bucket}/tasks")
