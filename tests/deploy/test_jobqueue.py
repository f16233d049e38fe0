"""The job scripts that dask-jobqueue writes from the files of `deploy`; no batch system needed."""

import asyncio
from pathlib import Path

import dask_jobqueue
import pytest
import yaml
from dask.utils import parse_timedelta
from distributed import Security

DEPLOY = Path(__file__).parents[2] / "deploy"
GOLDEN = Path(__file__).parent / "golden"
SYSTEMS = {
    "SLURMCluster": "slurm/jobqueue.yaml",
    "PBSCluster": "pbs-lsf/pbs.yaml",
    "LSFCluster": "pbs-lsf/lsf.yaml",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_job_scripts(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where logs would go
    options = yaml.safe_load((DEPLOY / SYSTEMS[name]).read_text())
    assert options["security"] is True, "keys made for each Dask cluster"
    keys = Security(tls_ca_file="CA", tls_worker_cert="CERT", tls_worker_key="KEY")

    async def script():
        cluster = getattr(dask_jobqueue, name)(
            asynchronous=True, **options | {"security": keys, "python": "python"}
        )
        try:
            return cluster.job_script()
        finally:
            await cluster.close()

    assert asyncio.run(script()) == (GOLDEN / f"{name}.sh").read_text()


@pytest.mark.parametrize("name", SYSTEMS)
def test_workers_leave_before_their_walltime(name):
    options = yaml.safe_load((DEPLOY / SYSTEMS[name]).read_text())
    arguments = options["worker_extra_args"]
    hours, minutes, *seconds = map(int, options["walltime"].split(":"))
    walltime = hours * 3600 + minutes * 60 + sum(seconds)
    lifetime, stagger = (
        parse_timedelta(arguments[arguments.index(option) + 1])
        for option in ("--lifetime", "--lifetime-stagger")
    )
    assert walltime / 2 < lifetime - stagger
    assert lifetime + stagger < walltime
