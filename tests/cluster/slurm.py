"""A SLURM of its own for a test run: munge, slurmctld, and slurmd for each of a few nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.daemons import daemon, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch")
CPUS, MEGABYTES = 4, 8000

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=3
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
    "RealMemory={megabytes} State=UNKNOWN\n"
)


@contextmanager
def running_slurm(n_nodes: int = 2) -> Iterator[None]:
    """Run SLURM for the length of a ``with`` block; its commands find it by ``SLURM_CONF``."""
    # a short path, for sockets have a longest one
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge looks at it
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(_write_config(folder, n_nodes))
    try:
        with ExitStack() as daemons:
            _start(folder, n_nodes, daemons)
            try:
                yield
            finally:
                _cancel_all()
    finally:
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def ask(*command: str) -> str:
    """Run one of SLURM's commands; return what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def jobs() -> list[str]:
    """Return the numbers of the jobs that run."""
    return ask("squeue", "--noheader", "--states", "running", "--format", "%i").split()


def _write_config(folder: Path, n_nodes: int) -> Path:
    host = socket.gethostname().split(".")[0]
    nodes = "".join(
        NODE.format(name=f"n{i}", host=host, port=free_port(), cpus=CPUS, megabytes=MEGABYTES)
        for i in range(n_nodes)
    )
    path = folder / "slurm.conf"
    path.write_text(nodes + CONFIG.format(host=host, port=free_port(), folder=folder))
    return path


def _start(folder: Path, n_nodes: int, daemons: ExitStack) -> None:
    def start(*command: object) -> None:
        environment = {"SLURM_CONF": os.environ["SLURM_CONF"]}
        daemons.enter_context(daemon(command, folder / "log", **environment))

    secret = folder / "munge"
    secret.mkdir(mode=0o700)
    (secret / "key").write_bytes(secrets.token_bytes(1024))
    (secret / "key").chmod(0o400)
    (folder / "state").mkdir()
    places = {
        "key-file": secret / "key", "seed-file": secret / "seed", "log-file": folder / "munge.log",
        "pid-file": folder / "munge.pid", "socket": folder / "munge.sock",
    }  # fmt: skip
    start("munged", "--foreground", "--force", *(f"--{name}={at}" for name, at in places.items()))
    wait_until((folder / "munge.sock").exists, what="munge")
    start("slurmctld", "-D", "-c")
    for i in range(n_nodes):
        start("slurmd", "-D", "-N", f"n{i}")
    idle = ("sinfo", "--noheader", "--Node", "--states", "idle", "--format", "%N")

    def up() -> bool:
        shown = subprocess.run(idle, capture_output=True, text=True, check=False).stdout
        return len(shown.split()) == n_nodes

    wait_until(up, what=f"SLURM ({folder / 'log'})")


def _cancel_all() -> None:
    subprocess.run(["scancel", "--user", "root"], check=False)
    wait_until(lambda: not ask("squeue", "--noheader"), what="the end of all jobs")
