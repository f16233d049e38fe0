"""Real SLURM daemons, several nodes on this host, for the length of a ``with`` block."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
missing = [name for name in DAEMONS if not shutil.which(name)]
needs = f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"

# cred_expire: a requeued job may start again after as long, not after two minutes
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=5
{nodes}
PartitionName=main Nodes=n[1-{n_nodes}] Default=YES MaxTime=60 State=UP
"""
NODE = (
    "NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000 "
    "Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 State=UNKNOWN"
)


@contextmanager
def slurm(n_nodes=2):
    """Yield the environment that SLURM's commands need."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munge wants its socket's folder readable
        (folder / "state").mkdir()
        (folder / "secret").mkdir(mode=0o700)
        key = folder / "secret" / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))
        (folder / "slurm.conf").write_text(_configuration(folder, n_nodes))
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        log = stack.enter_context((folder / "daemons.log").open("w"))

        def start(*command):
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(_stop, daemon)

        places = {
            "key-file": key,
            "socket": folder / "munge.sock",
            "pid-file": folder / "munged.pid",
            "log-file": folder / "munged.log",
            "seed-file": folder / "secret" / "munge.seed",
        }
        places = [f"--{name}={path}" for name, path in places.items()]
        start("munged", "--foreground", "--force", *places)
        wait_until((folder / "munge.sock").exists, "munged to listen", log)
        start("slurmctld", "-D", "-c")
        for i in range(1, n_nodes + 1):
            start("slurmd", "-D", "-N", f"n{i}")
        idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
        wait_until(lambda: len(_output(idle, environment).split()) == n_nodes, "idle nodes", log)
        stack.callback(_cancel_all, environment, log)
        yield environment


def wait_for_job(job, environment, states=("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")):
    """Wait until a job is in one of `states`; return what SLURM says of it."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    said = {}

    def arrived():
        words = _output(command, environment).split()
        said.update(word.split("=", 1) for word in words if "=" in word)
        return said.get("JobState") in states

    wait_until(arrived, f"job {job} to be {' or '.join(states)}", seconds=90)
    return said


def _configuration(folder, n_nodes):
    host = socket.gethostname().split(".")[0]
    nodes = [NODE.format(i=i, host=host, port=free_port()) for i in range(1, n_nodes + 1)]
    return CONFIGURATION.format(
        folder=folder, host=host, port=free_port(), nodes="\n".join(nodes), n_nodes=n_nodes
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _output(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.stdout


def wait_until(condition, what, log=None, seconds=20):
    """Wait until `condition` holds, for so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = Path(log.name).read_text() if log else ""
            raise TimeoutError(f"waited {seconds} s for {what}. {said}")
        time.sleep(0.1)


def _cancel_all(environment, log):
    subprocess.run(["scancel", "--user=root"], env=environment, timeout=30)
    queue = ["squeue", "--noheader"]
    wait_until(lambda: not _output(queue, environment), "jobs to end", log)


def _stop(daemon):
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
