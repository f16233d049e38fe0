"""Workers as jobs of SLURM."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Security

from daskmlr.cluster.options import LOOPBACK, as_pem, encrypted, needed, of_pem
from daskmlr.errors import ClusterError

if TYPE_CHECKING:
    from contextlib import ExitStack

# States of a job that may still bring a worker.
HOPEFUL = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "unknown")
LOG_LINES = 3
# Jobs that a message tells of.
TOLD = 4


def start_slurm(cls: Any, options: dict[str, Any], n_workers: int | None, stack: ExitStack) -> Any:
    """Start a scheduler here, and jobs that bring workers and are replaced when they are lost.

    Raises
    ------
    ClusterError
        If SLURM would not take the jobs.
    """
    number = needed("slurm", n_workers)
    configured = dask.config.get("jobqueue.slurm")
    shared = options.get("shared_temp_directory") or configured["shared-temp-directory"]
    for_scheduler = options.get("scheduler_options", configured["scheduler-options"])
    extra = options.get("worker_extra_args", configured["worker-extra-args"])
    options = {
        **encrypted(options, lambda: _credentials(shared, stack)),
        "scheduler_options": {"dashboard_address": LOOPBACK, **(for_scheduler or {})},
        "worker_extra_args": ["--dashboard-address", LOOPBACK, *(extra or [])],
    }
    cluster = cls(**options)
    try:
        _check_script(cluster.job_script())
    except BaseException:
        cluster.close()
        raise
    cluster.adapt(minimum=number, maximum=number)  # `scale` would not replace jobs that are lost
    return cluster


def job_report(cluster: Any) -> tuple[str, bool]:
    """Tell what SLURM says of the jobs and what they logged; and whether all of them have ended."""
    jobs = [job.job_id for job in cluster.workers.values() if job.job_id]
    if not jobs:
        return "No job was submitted yet.", False
    facts = [_job_facts(job) for job in jobs]
    told = " ".join(_told(job, known) for job, known in list(zip(jobs, facts, strict=True))[:TOLD])
    more = f" And {len(jobs) - TOLD} more jobs." if len(jobs) > TOLD else ""
    return told + more, all(known.get("JobState") not in HOPEFUL for known in facts)


def _credentials(shared: str | None, stack: ExitStack) -> Security:
    """Keep key and certificate of this run where workers find them and no other user can.

    dask-jobqueue would write them too, and remove them when Python happens to collect its garbage.
    """
    parent = os.path.expandvars(shared) if shared else "."
    folder = Path(parent).expanduser().absolute()
    made = stack.enter_context(tempfile.TemporaryDirectory(prefix=".daskmlr-tls-", dir=folder))
    file = Path(made, "credentials.pem")
    file.write_text(as_pem(Security.temporary()))
    return Security(**of_pem(str(file)))


def _check_script(script: str) -> None:
    """Ask SLURM whether it would take the job, without giving it."""
    asked = _ask("sbatch", "--test-only", script=script)
    if asked.returncode != 0:
        raise ClusterError(
            f"SLURM does not take a job for a worker: {asked.stderr.strip()}. Its script, from "
            f"--cluster-options and Dask's configuration (jobqueue.slurm):\n{script}"
        )


def _ask(command: str, *args: str, script: str = "") -> subprocess.CompletedProcess[str]:
    tool = shutil.which(command)
    if tool is None:
        raise ClusterError(
            f"SLURM's {command} is not on the PATH: start the run where jobs are submitted"
        )
    return subprocess.run(  # noqa: S603 - no shell, and our own words
        [tool, *args], input=script, capture_output=True, text=True, check=False
    )


def _job_facts(job: str) -> dict[str, str]:
    """Return what ``scontrol`` knows of a job, by its own names."""
    asked = _ask("scontrol", "--oneliner", "show", "job", job)
    pairs = (word.split("=", 1) for word in asked.stdout.split() if "=" in word)
    return {"JobState": "unknown", "Reason": asked.stderr.strip(), **dict(pairs)}


def _told(job: str, facts: dict[str, str]) -> str:
    said = f"Job {job}: {facts['JobState']} ({facts['Reason']})"
    log = facts.get("StdErr", "").replace("%J", job).replace("%j", job)
    if not log:
        return f"{said}."
    with suppress(OSError), Path(log).open(errors="replace") as file:
        last = " | ".join(line.strip() for line in deque(file, LOG_LINES) if line.strip())
        return f"{said}, whose log {log} ends: {last or 'empty'}."
    return f"{said}, log {log}."
