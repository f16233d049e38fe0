"""Workers as jobs of a real SLURM of two nodes."""

import os
import signal
import subprocess
import sys
import threading
import time

import dask
import numpy as np
import pytest
import yaml

from daskmlr import open_tasks, reduce_tasks
from daskmlr.cluster import start_cluster
from daskmlr.errors import ClusterError
from tests.cluster.daemons import SOURCE, wait_until
from tests.deploy import slurm as daemons

pytestmark = [
    pytest.mark.skipif(bool(daemons.missing), reason=daemons.needs),
    pytest.mark.skipif(os.getuid() != 0, reason="SLURM's daemons want to be started by root"),
]
OPTIONS = {"cores": 1, "memory": "1GB", "interface": "lo", "walltime": "00:20:00"}


@pytest.fixture(scope="module", autouse=True)
def slurm():
    with daemons.slurm() as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield


def ask(*command):
    """Run one of SLURM's commands; return what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def jobs():
    """Return the numbers of the jobs that run."""
    return ask("squeue", "--noheader", "--states", "running", "--format", "%i").split()


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a cluster, whose jobs run this package and log to a folder of their own."""
    monkeypatch.setenv("PYTHONPATH", SOURCE)

    def write(**changes):
        path = tmp_path / "slurm.yaml"
        given = {**OPTIONS, "log_directory": str(tmp_path / "logs"), **changes}
        path.write_text(yaml.safe_dump(given))
        return path

    return write


@pytest.mark.timeout(300)  # starts a Dask cluster twice
def test_the_same_bits(options, same_bits):
    same_bits("--cluster", "slurm", "--workers", 2, "--cluster-options", options())
    assert not ask("squeue", "--noheader")


def test_a_job_that_is_cancelled_is_replaced_and_the_result_is_right(options, store, tmp_path):
    """Leaves are slow, so that the cancel falls into the pass; two workers are there again."""
    tasks = open_tasks(store)

    def slow_sums(block):
        time.sleep(0.5)
        return block.X.sum(axis=0, dtype=float)

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}),
        start_cluster("slurm", n_workers=2, options=options(), wait=60) as client,
    ):
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        client.wait_for_workers(2, timeout=60)
        first = jobs()
        assert len(first) == 2
        lost = threading.Timer(1.5, subprocess.run, [["scancel", first[0]]])
        lost.start()
        total = reduce_tasks(tasks, slow_sums, lambda a, b: a + b, client=client)
        assert lost.finished.is_set()  # in time
        lost.join()
        again = wait_until(
            lambda: len(jobs()) == 2 and first[0] not in jobs() and jobs(), what="another job"
        )
        assert first[1] in again
        client.wait_for_workers(2, timeout=60)
    here = reduce_tasks(
        tasks, lambda block: block.X.sum(axis=0, dtype=float), lambda a, b: a + b, client="sync"
    )
    np.testing.assert_array_equal(total, here)


def test_what_slurm_refuses_is_said_in_its_words(options):
    with (
        pytest.raises(ClusterError, match=r"not take a job for a worker: .*invalid partition"),
        start_cluster("slurm", n_workers=1, options=options(queue="none"), wait=30),
    ):
        pass


def test_jobs_that_cannot_start_are_told_with_reason_and_log(options, tmp_path):
    with (
        pytest.raises(
            ClusterError,
            match=rf"Job \d+: FAILED .*whose log {tmp_path}/logs/\S+.err ends: .*no/py",
        ),
        start_cluster("slurm", n_workers=1, options=options(python="/no/python"), wait=60),
    ):
        pass


def test_jobs_that_wait_too_long_are_told(options):
    hold = options(job_extra_directives=["--hold"])
    with (
        pytest.raises(ClusterError, match=r"waited 2 s; --wait .* Job \d+: PENDING .JobHeldUser"),
        start_cluster("slurm", n_workers=1, options=hold, wait=2),
    ):
        pass


def test_sigterm_leaves_no_jobs(options, store, tmp_path):
    command = (
        sys.executable, "-m", "daskmlr", "fit", store, tmp_path / "model", "--n-components", 3,
        "--cluster", "slurm", "--workers", 1, "--cluster-options",
        options(job_extra_directives=["--hold"]),
    )  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], cwd=tmp_path)
    wait_until(lambda: ask("squeue", "--noheader"), what="a job")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not ask("squeue", "--noheader")
    assert not list(tmp_path.glob(".dask*"))
