"""The page on Dask's dashboard, in a browser, while a fit runs on worker processes."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
import warnings

import cloudpickle
import pytest
from distributed import Client, LocalCluster

from daskmlr import MixedLinearRegression, simulate

# worker processes cannot import a test module: what is defined here travels whole
cloudpickle.register_pickle_by_value(sys.modules[__name__])

N_COMPONENTS = 3
SOON = 45_000  # milliseconds: a machine may be busy


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("live") / "trips & <b>.daskmlr",
        n_components=N_COMPONENTS,
        n_features=4,
        noise=1.5,
        task_groups=[(4000, (1, 6)), (100, 30)],
        random_state=3,
        block_bytes=8_000,
    )


@pytest.fixture
def client():
    """Two worker processes; they end after the page was left, which would miss them."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def read_slowly(folder):
    """Let this process take its time over each block while nobody says go."""
    from daskmlr.storage.tasks import TaskStore

    read_block = TaskStore.read_block

    def slowly(self, index, buffers=None):
        if not (folder / "go").exists():
            time.sleep(0.05)
        return read_block(self, index, buffers)

    TaskStore.read_block = slowly


class Fit(threading.Thread):
    """A fit in another thread: this one drives the browser."""

    def __init__(self, tasks, client):
        super().__init__(daemon=True)
        self.tasks, self.client = tasks, client
        self.address, self.has_page, self.error = "", threading.Event(), None

    def heard(self, at):
        if at.page:
            self.address = at.page
            self.has_page.set()

    def run(self):
        estimator = MixedLinearRegression(N_COMPONENTS, random_state=0, tol=1e-9)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the few workers, and of the tolerance
                self.model = estimator.fit(self.tasks, client=self.client, progress=self.heard)
        except BaseException as error:
            self.error = error


def length(page, source, column):
    """Points that a figure was given to draw."""
    return page.evaluate(
        """([name, column]) => {
            const models = [...Bokeh.documents[0]._all_models.values()];
            return models.find(model => model.name === name).data[column].length;
        }""",
        [source, column],
    )


def test_a_fit_is_seen_while_it_runs(client, tasks, page, shoot, tmp_path):
    client.run(read_slowly, tmp_path)
    fit = Fit(tasks, client)
    fit.start()
    assert fit.has_page.wait(SOON / 1000)
    assert fit.address == client.dashboard_link.replace("/status", "/daskmlr")
    page.goto(fit.address)
    page.wait_for_selector("canvas", timeout=SOON)
    assert page.locator(".navbar a", has_text="Daskmlr").get_attribute("href") == "daskmlr"

    # it moves by itself
    page.locator(".head", has_text="refine, pass").wait_for(timeout=SOON)
    seen = {page.locator(".facts").inner_text()}
    while len(seen) < 3:  # or the test times out
        seen.add(page.locator(".facts").inner_text())
        page.wait_for_timeout(100)
    page.locator(".facts", has_text="log-likelihood").wait_for(timeout=SOON)
    page.locator(".stages td", has_text="cluster").wait_for(timeout=SOON)
    assert "blocks decoded" in page.locator(".facts").inner_text()
    assert "2 now, 0 lost, 0 joined" in page.locator(".facts").inner_text()
    assert "trips & <b>.daskmlr" in page.locator(".facts").inner_text()
    shoot("dashboard-running")

    # a worker is lost, and another comes
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    page.locator("li", has_text="was lost").wait_for(timeout=SOON)
    page.locator("li", has_text="joined").wait_for(timeout=SOON)
    page.locator(".facts", has_text="2 now, 1 lost, 1 joined").wait_for(timeout=SOON)
    assert fit.is_alive()
    shoot("dashboard-worker-lost")

    (tmp_path / "go").touch()
    page.locator(".head", has_text="done after").wait_for(timeout=SOON)
    fit.join()
    assert fit.error is None
    model = fit.model
    shown = page.locator(".facts").inner_text()
    assert ", ".join(f"{share:.3f}" for share in sorted(model.weights_)) in _sorted(shown)
    likelihoods = [
        entry["log_likelihood"] for entry in model.model_.history if entry["stage"] == "refine"
    ]
    assert f"{likelihoods[-1]:,.2f}" in shown
    latest = page.locator(".stages tr").nth(1).inner_text().split("\t")
    assert latest[:3] == ["diagnose", str(N_COMPONENTS), "1"]
    assert latest[6].endswith("%")  # of the threads' time, until blocks were there
    assert latest[7] == ""
    rows = page.locator(".stages tr").count() - 1
    assert rows == len(model.model_.history)
    assert length(page, "likelihoods", "value") == len(likelihoods)
    assert length(page, "weights", "weights") == N_COMPONENTS
    assert length(page, "rates", "decoded") > 2
    assert length(page, "best", "rate") == 2
    shoot("dashboard-done")

    # another run takes its place; the fit can be asked for
    model.assign(tasks, client=client)
    page.locator(".stages td", has_text="assign").wait_for(timeout=SOON)
    assert page.locator(".stages tr").count() == 2
    runs = page.locator("select option")
    assert runs.count() == 3
    page.locator("select").select_option(index=2)
    page.locator(".facts", has_text="log-likelihood").wait_for(timeout=SOON)
    shoot("dashboard-of-two")

    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= 400", timeout=SOON)
    shoot("dashboard-phone")

    with urllib.request.urlopen(fit.address.replace("daskmlr", "json/daskmlr.json")) as answer:
        told = json.load(answer)
    run, after = told["runs"]
    assert [stage["stage"] for stage in after["stages"]] == ["assign"]
    assert (told["workers"], run["state"], run["workers_lost"]) == (2, "done", 1)
    assert run["log_likelihoods"] == likelihoods
    assert run["seconds_left"] is None
    assert sum(run["weights"][-1]) == pytest.approx(1)


def _sorted(text):
    """The component sizes in a text, by size."""
    sizes = text.split("component sizes\n")[1].splitlines()[0]
    return ", ".join(sorted(sizes.split(", ")))
