"""`deploy/slurm` under real SLURM daemons, two nodes on this host."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from daskmlr import MixedLinearRegression, Model, simulate
from tests.benchmarks.bitwise import different
from tests.deploy import slurm as fixture

DEPLOY = Path(__file__).parents[2] / "deploy"
FIT = ("--n-components", "2", "--tol", "1e-6")
pytestmark = [
    pytest.mark.skipif(bool(fixture.missing), reason=fixture.needs),
    pytest.mark.skipif(os.getuid() != 0, reason="SLURM's daemons want to be started by root"),
    pytest.mark.timeout(240),  # a job may wait for its turn
]


@pytest.fixture(scope="module")
def slurm():
    with fixture.slurm() as environment:
        commands = Path(sys.executable).parent  # dask, daskmlr
        yield environment | {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "DASKMLR_INTERFACE": "lo",
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    tasks = simulate(
        folder / "tasks",
        n_components=2,
        n_features=3,
        noise=2.0,
        task_groups=[(3000, 6)],
        random_state=0,
        block_bytes=40 * 1500,
    )
    here = MixedLinearRegression(2, random_state=0, tol=1e-6)  # many passes
    here.fit(tasks, client="sync").model_.save(folder / "here")
    return folder


def submit(folder, environment, *arguments):
    command = ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=1500M", "--time=10",
               "--output=%j.log", DEPLOY / "slurm" / "fit.sbatch", "tasks", *arguments]  # fmt: skip
    done = subprocess.run(
        [*command, *FIT],
        cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_fit_on_two_nodes_is_the_one_made_here(folder, slurm):
    job = submit(folder, slurm, "there")
    said = fixture.wait_for_job(job, slurm)
    log = (folder / f"{job}.log").read_text()
    assert (said["JobState"], said["ExitCode"], said["NumNodes"]) == ("COMPLETED", "0:0", "2"), log
    assert "Saved as there" in log
    assert not different(Model.load(folder / "here"), Model.load(folder / "there"))
    assert not list(folder.glob(".daskmlr-*")), "the folder with the job's key stays"


def test_the_job_ends_with_the_status_of_the_command(folder, slurm):
    job = submit(folder, slurm, "again", "--robust", "7")
    said = fixture.wait_for_job(job, slurm)
    log = (folder / f"{job}.log").read_text()
    assert (said["JobState"], said["ExitCode"]) == ("FAILED", "1:0"), log
    assert "robust" in log
    assert not (folder / "again").exists()


def test_a_job_told_of_its_walltime_queues_again_and_resumes(folder, slurm):
    job = submit(folder, slurm, "resumed")
    found = folder / "resumed.checkpoint"
    fixture.wait_until(found.exists, "the first checkpoint", seconds=60)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True, timeout=30)
    fixture.wait_for_job(job, slurm, states=("PENDING",))
    assert found.exists()
    said = fixture.wait_for_job(job, slurm)
    log = (folder / f"{job}.log").read_text()
    assert (said["JobState"], said["ExitCode"], said["Restarts"]) == ("COMPLETED", "0:0", "1"), log
    assert f"job {job} queues again" in log
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    left = [some for some in map(" ".join, commands) if f"{folder}/.daskmlr-{job}" in some]
    assert not left
    assert not different(Model.load(folder / "here"), Model.load(folder / "resumed"))
    assert not found.exists()


def test_workers_by_jobqueue_yaml(folder, slurm):
    options = yaml.safe_load((DEPLOY / "slurm" / "jobqueue.yaml").read_text())
    of_here = {"cores": 1, "memory": "1500MB", "walltime": "00:30:00", "interface": "lo"}
    (folder / "options.yaml").write_text(yaml.safe_dump(options | of_here))
    done = subprocess.run(
        ["daskmlr", "fit", "tasks", "by-jobs", *FIT, "--cluster", "slurm", "--workers", "2",
         "--cluster-options", "options.yaml"],
        cwd=folder, env=slurm | {"HOME": str(folder)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not different(Model.load(folder / "here"), Model.load(folder / "by-jobs"))
    assert not list(folder.glob(".dask-jobqueue*")), "keys stay"
