"""Dask clusters that a command starts for itself: processes, batch jobs, hosts, pods.

The classes are those of distributed, dask-jobqueue, dask-kubernetes and dask-gateway, called with
the user's own arguments; Dask's configuration counts as it always does. What is added: traffic is
encrypted and dashboards listen on the loopback unless the arguments say otherwise, and a cluster
without workers is an error that says why.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.system import CPU_COUNT
from distributed import Client
from distributed.deploy.utils import nprocesses_nthreads

from daskmlr.cluster.options import LOOPBACK, encrypted, needed, read_options
from daskmlr.cluster.slurm import job_report, start_slurm
from daskmlr.cluster.ssh import start_ssh
from daskmlr.errors import ClusterError, DaskmlrError, InputError
from daskmlr.graph.memory import memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Kind:
    """A class that starts Dask clusters.

    Attributes
    ----------
    module, name : str
        Where it is.
    extra : str
        What installs it: ``daskmlr[extra]``.
    start : callable
        ``start(cls, options, n_workers, stack) -> cluster``; `stack` closes what goes with it.
    report : callable or None
        ``report(cluster) -> (text, hopeless)``: what is known of workers that have not come.
    """

    module: str
    name: str
    extra: str
    start: Callable[[Any, dict[str, Any], int | None, ExitStack], Any]
    report: Callable[[Any], tuple[str, bool]] | None = None


def _start_local(cls: Any, options: dict[str, Any], n_workers: int | None, _: ExitStack) -> Any:
    asked = encrypted(options) | ({} if n_workers is None else {"n_workers": n_workers})
    # Dask would share out what the machine has, of which a job of a batch system may have a part
    threads = asked.get("threads_per_worker") or nprocesses_nthreads()[1]
    number = asked.get("n_workers") or max(CPU_COUNT // threads, 1)
    own = {"dashboard_address": LOOPBACK, "memory_limit": memory_limit() // number}
    return cls(**own | asked)


def _start_kubernetes(
    cls: Any, options: dict[str, Any], n_workers: int | None, _: ExitStack
) -> Any:
    number = {} if n_workers is None else {"n_workers": n_workers}
    cluster = cls(**{"quiet": True, **number, **options})
    if n_workers is not None and "custom_cluster_spec" in options:
        cluster.scale(n_workers)  # else the number in the specification counts
    return cluster


def _start_gateway(cls: Any, options: dict[str, Any], n_workers: int | None, _: ExitStack) -> Any:
    number = needed("gateway", n_workers)
    cluster = cls(**options)
    cluster.scale(number)
    return cluster


KINDS = {
    "local": Kind("distributed", "LocalCluster", "tls", _start_local),
    "slurm": Kind("dask_jobqueue", "SLURMCluster", "slurm", start_slurm, job_report),
    "ssh": Kind("distributed", "SSHCluster", "ssh", start_ssh),
    "kubernetes": Kind("dask_kubernetes.operator", "KubeCluster", "kubernetes", _start_kubernetes),
    "gateway": Kind("dask_gateway", "GatewayCluster", "gateway", _start_gateway),
}


@contextmanager
def start_cluster(
    kind: str, *, n_workers: int | None, options: str | Path | None, wait: float
) -> Iterator[Client]:
    """Start a Dask cluster, wait for its first worker, and close it at the end.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    n_workers : int or None
        Worker processes.
    options : path or None
        A YAML file with keyword arguments of the class.
    wait : float
        Seconds to wait for the first worker; the others may come while it computes.

    Raises
    ------
    InputError
        For options that cannot be.
    ClusterError
        If the class is not installed, the cluster does not start, or no worker comes.
    """
    of, arguments = KINDS[kind], read_options(options)
    with _ending_on_sigterm(), ExitStack() as stack:
        try:
            cls = getattr(import_module(of.module), of.name)
            cluster = stack.enter_context(of.start(cls, arguments, n_workers, stack))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except DaskmlrError:
            raise
        except ImportError as error:
            raise ClusterError(
                f"--cluster {kind} needs what is not installed ({error}): "
                f"pip install 'daskmlr[{of.extra}]'"
            ) from error
        except Exception as error:  # whatever the class makes of its arguments and its hosts
            cause = _first_cause(error)
            raise ClusterError(
                f"{of.module}.{of.name} did not start: {type(cause).__name__}: {cause}"
            ) from error
        _wait_for_a_worker(client, cluster, of, wait)
        yield client


def read_address(path: str | Path, wait: float) -> str:
    """Read the address of a scheduler from the file that it writes, waiting for it to appear.

    Parameters
    ----------
    path : path
        As of ``dask scheduler --scheduler-file``.
    wait : float
        Seconds.

    Raises
    ------
    InputError
        If it does not appear, or names no address.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return str(json.loads(Path(path).read_text())["address"])
        except FileNotFoundError:
            reason = f"it does not exist (waited {wait:g} s)"
        except (ValueError, KeyError, TypeError):  # also while it is being written
            reason = "it names no address"
        if time.monotonic() > deadline:
            raise InputError(
                f"{path} is no file of a Dask scheduler: {reason}. `dask scheduler "
                "--scheduler-file FILE` writes one, where this machine must see it"
            )
        time.sleep(min(POLL_SECONDS, wait / 10))


def _first_cause(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _first_cause(error.__cause__)


def _wait_for_a_worker(client: Client, cluster: Any, of: Kind, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            client.wait_for_workers(1, timeout=POLL_SECONDS)
        except TimeoutError:
            said, hopeless = of.report(cluster) if of.report else ("", False)
        else:
            return
        if hopeless or time.monotonic() > deadline:
            why = "all have ended" if hopeless else f"waited {wait:g} s; --wait says how long"
            raise ClusterError(f"no worker of {of.name} came ({why}). {said}".rstrip())


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which batch systems end a job, close what was started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
