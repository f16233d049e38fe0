"""Scheduler and workers on hosts that SSH reaches."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from distributed import Security

from daskmlr.cluster.options import LOOPBACK, as_pem, configured, of_pem
from daskmlr.errors import ClusterError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

ROLES = ("scheduler_options", "worker_options")


def start_ssh(cls: Any, options: dict[str, Any], n_workers: int | None, stack: ExitStack) -> Any:
    """Start a scheduler on the first of `hosts`, workers on the others.

    Raises
    ------
    InputError
        If `n_workers` is given: `hosts` says it.
    ClusterError
        If a host lets nobody in.
    """
    if n_workers is not None:
        raise InputError(
            "--workers is not for --cluster ssh: `hosts` in --cluster-options names the "
            "scheduler's host and then one for each worker, and `worker_options: {n_workers: N}` "
            "starts N on each"
        )
    given = {role: {"dashboard_address": LOOPBACK, **(options.get(role) or {})} for role in ROLES}
    if not any({"protocol", "security"} & set(of_role) for of_role in given.values()):
        tls: dict[str, Any] = {"protocol": "tls://"}
        if configured():  # by files that are on the hosts; Dask tells them its configuration
            security = Security()
        else:
            security = Security.temporary()
            tls["security"] = stack.enter_context(_on_hosts(options, as_pem(security)))
        options = {"security": security, **options}
        given = {role: {**tls, **of_role} for role, of_role in given.items()}
    return cls(**{**options, **given})


@contextmanager
def _on_hosts(options: dict[str, Any], pem: str) -> Iterator[dict[str, Any]]:
    """Keep key and certificate of this run on each host, readable by the user alone.

    Gives the arguments of a `distributed.Security` there. Dask would pass them on a command line,
    which every user of a host can read.
    """
    folder = f"/tmp/daskmlr-{uuid.uuid4().hex}"  # noqa: S108 - nobody can guess it, or read in it
    file = f"{folder}/credentials.pem"
    _run_on_hosts(options, f"umask 077 && mkdir -p {folder} && cat > {file}", pem)
    try:
        yield of_pem(file)
    finally:
        with suppress(ClusterError):  # a host may be gone
            _run_on_hosts(options, f"rm -f {file} && rmdir {folder}", "")


def _run_on_hosts(options: dict[str, Any], command: str, text: str) -> None:
    import asyncssh

    hosts = options.get("hosts") or []
    connect = options.get("connect_options") or {}
    each = connect if isinstance(connect, list) else [connect] * len(hosts)

    async def run(host: str, how: dict[str, Any]) -> None:
        try:
            async with asyncssh.connect(host, **how) as connection:
                await connection.run(command, input=text, check=True)
        except (OSError, asyncssh.Error) as error:
            raise ClusterError(
                f"SSH to {host} failed: {error}. `connect_options` in --cluster-options are the "
                "arguments of asyncssh.connect (username, client_keys, known_hosts, port)"
            ) from error

    async def run_on_all() -> None:
        # hosts are repeated where more than one process runs on one
        places = {(host, repr(how)): (host, how) for host, how in zip(hosts, each, strict=True)}
        await asyncio.gather(*(run(*place) for place in places.values()))

    asyncio.run(run_on_all())
