"""A run tells the scheduler of itself; it does not hang on whether that listens."""

import json
import re
import subprocess
import sys
import threading
import urllib.request

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression, reduce_tasks
from daskmlr.errors import InputError
from daskmlr.graph import page, telling
from daskmlr.graph.board import NAME
from daskmlr.graph.execute import connect
from daskmlr.graph.telling import Telling, page_address


def rows(block):
    return block.n_rows


def add(left, right):
    return left + right


def get(address):
    with urllib.request.urlopen(address) as answer:
        return answer.read().decode()


def runs_of(client):
    """Ask the scheduler for what it knows."""
    return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins[NAME].told())[
        "runs"
    ]


def served(client, page):
    """Address of a page of the dashboard: Dask's own link of such a client names another host."""
    port = client.scheduler_info()["services"]["dashboard"]
    return f"http://127.0.0.1:{port}/{page}"


@pytest.fixture
def thread_client():
    with Client(
        processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False
    ) as client:
        yield client


def test_page_and_json_come_with_the_first_run(easy_tasks, thread_client):
    page = served(thread_client, "daskmlr")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(page)
    seen = []
    estimator = MixedLinearRegression(3, random_state=0)
    estimator.fit(easy_tasks, client=thread_client, progress=seen.append)
    assert seen[-1].page == page
    assert "data-root-id" in get(page)
    # in the navigation of others
    assert re.search(r'<a href="daskmlr">\s*Daskmlr', get(served(thread_client, "status")))
    (run,) = json.loads(get(served(thread_client, "json/daskmlr.json")))["runs"]
    assert run["state"] == "done"
    assert run["store"] == str(easy_tasks.path)
    assert [stage["stage"] for stage in run["stages"]] == [
        entry["stage"] for entry in estimator.model_.history
    ]
    assert run["log_likelihoods"][-1] == estimator.log_likelihood_
    np.testing.assert_allclose(sorted(run["weights"][-1]), sorted(estimator.weights_), atol=1e-3)


def test_runs_one_after_another_and_two_at_once(easy_tasks, thread_client):
    reduce_tasks(easy_tasks, rows, add, client=thread_client, name="first")
    both = threading.Barrier(2, timeout=60)
    here = set()

    def wait_for_the_other(at):
        if at.number == 2 and at.stage not in here:
            here.add(at.stage)
            both.wait()

    def passes(name):
        with (
            Client(thread_client.scheduler.address, set_as_default=False) as client,
            connect(client, wait_for_the_other) as runner,
        ):
            for _ in range(2):
                reduce_tasks(easy_tasks, rows, add, client=runner, name=name)

    threads = [threading.Thread(target=passes, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dask.config.get("scheduler", None) is None  # one setting for all threads: left alone
    told = runs_of(thread_client)
    assert [run["state"] for run in told] == ["done"] * 3
    assert [stage["stage"] for stage in told[0]["stages"]] == ["first"]
    for run in told[1:]:
        (name,) = {stage["stage"] for stage in run["stages"]}
        assert [stage["pass"] for stage in run["stages"]] == [1, 2]
        assert name in ("one", "two")
    assert len({run["client"] for run in told}) == 3


def test_an_error_ends_a_run_in_its_words(easy_tasks, thread_client):
    def refuse(block):
        raise InputError("all tasks are odd")

    with pytest.raises(InputError):
        reduce_tasks(easy_tasks, refuse, add, client=thread_client)
    (run,) = runs_of(thread_client)
    assert (run["state"], run["error"]) == ("failed", "all tasks are odd")


def test_a_client_that_goes_ends_its_run(thread_client):
    with Client(thread_client.scheduler.address, set_as_default=False) as client:
        gone = Telling()
        gone.begin("moments", 7)
        gone.listen(client)
        assert [run["state"] for run in runs_of(thread_client)] == ["running"]
    assert [run["state"] for run in runs_of(thread_client)] == ["lost"]
    gone.end(None)  # nobody listens


def test_many_short_stages_are_told_at_once(thread_client, monkeypatch):
    sent = []
    telling_of = Telling()
    telling_of.listen(thread_client)
    send = thread_client.run_on_scheduler
    monkeypatch.setattr(
        thread_client, "run_on_scheduler", lambda *a, **k: sent.append(a) or send(*a, **k)
    )
    monkeypatch.setattr(telling, "TELL_SECONDS", 60)
    for _ in range(100):
        telling_of.begin("refine", 3, n_bytes=100)
        telling_of.over()
    assert sent == []
    telling_of.begin("cluster")  # of which there are few, and which may take minutes
    assert len(sent) == 1
    (run,) = runs_of(thread_client)
    assert len(run["stages"]) == 100
    assert (run["state"], run["stage"]) == ("running", "cluster")


def test_a_page_that_cannot_be_put_up_stops_no_run(easy_tasks, thread_client, monkeypatch, caplog):
    def fail(*_):
        raise AttributeError("distributed is not what it was")

    monkeypatch.setattr(page, "get_handlers", fail)
    seen = []
    n_rows = reduce_tasks(easy_tasks, rows, add, client=thread_client, progress=seen.append)
    assert n_rows == easy_tasks.n_rows
    assert seen[-1].page == ""
    assert "there will be no page /daskmlr on Dask's dashboard" in caplog.text
    assert len(runs_of(thread_client)) == 1


def test_a_scheduler_that_cannot_be_told_stops_no_run(easy_tasks, thread_client, monkeypatch):
    def fail(told, dask_scheduler):
        raise RuntimeError("no such board")

    monkeypatch.setattr(telling, "receive", fail)
    n_rows = reduce_tasks(easy_tasks, rows, add, client=thread_client)
    assert n_rows == easy_tasks.n_rows


def test_a_link_that_cannot_be_made_stops_no_run(easy_tasks, thread_client):
    seen = []
    with dask.config.set({"distributed.dashboard.link": "{NOT_SET}proxy/{port}/status"}):
        reduce_tasks(easy_tasks, rows, add, client=thread_client, progress=seen.append)
    assert seen[-1].page == ""
    assert len(runs_of(thread_client)) == 1


def test_a_prefix_of_the_dashboard_is_one_of_the_page(easy_tasks):
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"http_prefix": "user/me"},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        reduce_tasks(easy_tasks, rows, add, client=client)
        root = served(client, "user/me")
        assert "data-root-id" in get(f"{root}/daskmlr")
        assert len(json.loads(get(f"{root}/json/daskmlr.json"))["runs"]) == 1


def test_without_bokeh_there_is_the_json(easy_tasks, tmp_path):
    start = "import sys; sys.modules['bokeh'] = None; from dask.__main__ import main; main()"
    file = tmp_path / "scheduler.json"
    at = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen(
        [sys.executable, "-c", start, "scheduler", *at, "--scheduler-file", str(file)],
        stderr=subprocess.DEVNULL,
    )
    try:
        with (
            Client(scheduler_file=str(file), timeout=60, set_as_default=False) as client,
            LocalWorker(client.scheduler.address),
        ):
            seen = []
            assert (
                reduce_tasks(easy_tasks, rows, add, client=client, progress=seen.append)
                == easy_tasks.n_rows
            )
            assert seen[-1].page == ""
            (run,) = json.loads(get(served(client, "json/daskmlr.json")))["runs"]
            assert run["state"] == "done"
    finally:
        scheduler.terminate()
        scheduler.wait()


class LocalWorker:
    """A worker process for as long as the block lasts."""

    def __init__(self, address):
        command = [sys.executable, "-m", "dask", "worker", address, "--no-dashboard"]
        self._command = [*command, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny"]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()


BY_SSH = "http://127.0.0.1:8787/daskmlr after ssh -L 8787:127.0.0.1:8787"


@pytest.mark.parametrize(
    ("link", "host", "listens", "by_ssh", "address"),
    [
        ("http://127.0.0.1:8787/status", "here", "127.0.0.1", "", "http://127.0.0.1:8787/daskmlr"),
        ("http://10.0.0.5:8787/status", "here", "127.0.0.1", "", "http://127.0.0.1:8787/daskmlr"),
        ("http://10.0.0.7:8787/status", "head", "0.0.0.0", "", "http://10.0.0.7:8787/daskmlr"),
        ("http://10.0.0.7:8787/status", "head", "127.0.0.1", "", f"{BY_SSH} head"),
        ("http://127.0.0.1:8787/status", "here", "127.0.0.1", "1", f"{BY_SSH} here"),
        ("/user/me/proxy/8787/status", "here", "127.0.0.1", "1", "/user/me/proxy/8787/daskmlr"),
        ("https://gate/clusters/a/status", "pod", "0.0.0.0", "", "https://gate/clusters/a/daskmlr"),
        ("", "here", "127.0.0.1", "", ""),
    ],
)
def test_the_way_to_the_page(monkeypatch, link, host, listens, by_ssh, address):
    monkeypatch.setattr(telling.socket, "gethostname", lambda: "here")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    if by_ssh:
        monkeypatch.setenv("SSH_CONNECTION", by_ssh)
    assert page_address(link, host, listens, 8787) == address
