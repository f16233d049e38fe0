"""Checks of a Dask cluster before a pass: its processes are alike, and see the same files."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import cloudpickle

from daskmlr.errors import ClusterError, ClusterWarning
from daskmlr.graph.environment import DECISIVE, differences, environment
from daskmlr.storage.rows import try_rows_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from daskmlr.storage.tasks import TaskStore

# Workers that a message names; of more it gives the number.
NAMED = 4
# A worker that is slow to answer may have ended: so often that is looked up.
LOOK_SECONDS, AGAIN_SECONDS = 1.0, 0.1


def check_environments(client: Any, seconds: float) -> None:
    """Compare the scheduler and every worker with this process.

    Parameters
    ----------
    client : distributed.Client
    seconds : float
        Longest time that one of them may take to answer.

    Raises
    ------
    ClusterError
        Where one does not answer, has no daskmlr, or differs in what decides the bits of a result:
        the version and code of daskmlr, numpy, scipy.

    Warns
    -----
    ClusterWarning
        Where one differs in other packages.
    """
    here = environment()
    fatal, doubtful = {}, {}
    for who, there in client.sync(_ask_all, client, seconds).items():
        if isinstance(there, BaseException):
            fatal[who] = f"cannot say what it runs ({there})"  # cannot import this, most likely
            continue
        unlike = differences(there, here)
        wrong = [text for name, text in unlike.items() if name in DECISIVE]
        if wrong:
            fatal[who] = ", ".join(wrong)
        elif unlike:
            doubtful[who] = ", ".join(unlike.values())
    if fatal:
        raise ClusterError(
            f"the Dask cluster does not run what runs here: {_grouped(fatal)}. Install the same "
            "there (a container image, a shared environment): results would not be the same"
        )
    if doubtful:
        warnings.warn(
            f"parts of the Dask cluster differ from this process: {_grouped(doubtful)}",
            ClusterWarning,
            stacklevel=2,
        )


def check_files(client: Any, tasks: TaskStore, staging: str | None, seconds: float) -> None:
    """Check that every worker reads the store and, if there is one, writes to the staging folder.

    Parameters
    ----------
    client : distributed.Client
    tasks : TaskStore
    staging : str or None
        Where the parts of an output go, from `start_rows`.
    seconds : float
        Longest time that a worker may take.

    Raises
    ------
    ClusterError
        Naming workers and what hinders them.
    """
    packed = cloudpickle.dumps(tasks)
    answers = client.sync(_ask_workers, client, seconds, look, packed, staging)
    trouble = {
        who: str(answer) if isinstance(answer, BaseException) else answer
        for who, answer in answers.items()
        if answer is not None
    }
    if trouble:
        raise ClusterError(
            f"{len(trouble)} of {len(answers)} workers cannot do their part: {_grouped(trouble)}. "
            "Inputs and outputs must lie where every worker finds them under the same path"
        )


async def look(packed: bytes, staging: str | None) -> str | None:
    """Say what hinders this process from reading a store and writing parts; runs on a worker."""
    return await asyncio.to_thread(_look, packed, staging)


def _look(packed: bytes, staging: str | None) -> str | None:
    doing = "read the store"
    try:
        tasks: TaskStore = cloudpickle.loads(packed)
        tasks.task_sizes(tasks.n_tasks - 1)
        if staging is not None:
            doing = "write the output"
            try_rows_part(staging)
    except Exception as error:
        return f"cannot {doing}: {error}"
    return None


async def _ask_all(client: Any, seconds: float) -> dict[str, Any]:
    """Environment of the scheduler and of each worker, or the error that it gave instead."""
    try:
        scheduler = await asyncio.wait_for(client.run_on_scheduler(environment), seconds)
    except TimeoutError:
        raise _silent(["the scheduler"], seconds) from None
    except Exception as error:  # such as an import that fails there
        scheduler = error
    return {"the scheduler": scheduler, **await _ask_workers(client, seconds, environment)}


async def _ask_workers(
    client: Any, seconds: float, function: Callable[..., Any], *args: Any
) -> dict[str, Any]:
    """Run a function on every worker by itself, so that one that hangs is known by its name.

    Workers that end meanwhile are left out. One whose connection broke is asked again while the
    scheduler knows it: that it has ended may be learnt a moment later.
    """

    async def ask(worker: str) -> Any:
        return (await client.run(function, *args, workers=[worker], on_error="return"))[worker]

    until = time.monotonic() + seconds
    asked = await _workers(client, seconds)
    asking = {worker: asyncio.create_task(ask(worker)) for worker in asked}
    answers: dict[str, Any] = {}
    try:
        while asking and time.monotonic() < until:
            done, _ = await asyncio.wait(asking.values(), timeout=LOOK_SECONDS)
            answers |= {worker: task.result() for worker, task in asking.items() if task in done}
            asking = {worker: task for worker, task in asking.items() if task not in done}
            failed = [worker for worker, it in answers.items() if isinstance(it, BaseException)]
            if not asking and not failed:
                break
            still = await _workers(client, seconds)
            for worker in asked:
                if worker not in still:
                    answers.pop(worker, None)
                    if worker in asking:
                        asking.pop(worker).cancel()
                elif worker not in asking and isinstance(answers.get(worker), OSError):
                    asking[worker] = asyncio.create_task(ask(worker))
            await asyncio.sleep(AGAIN_SECONDS)
    finally:
        for task in asking.values():
            task.cancel()
    if silent := [worker for worker in asking if worker not in answers]:
        raise _silent(silent, seconds)
    return answers


async def _workers(client: Any, seconds: float) -> list[str]:
    try:
        known = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), seconds)
    except TimeoutError:
        raise _silent(["the scheduler"], seconds) from None
    return list(known["workers"])


def _silent(who: list[str], seconds: float) -> ClusterError:
    return ClusterError(
        f"{_names(who)} did not answer within {seconds:g} s: is the machine overloaded, or the "
        "process stopped? End it, or raise distributed.comm.timeouts.connect in Dask's "
        "configuration"
    )


def _grouped(findings: Mapping[str, str]) -> str:
    """List findings, each with those it is true of."""
    groups = defaultdict(list)
    for who, what in findings.items():
        groups[what].append(who)
    return "; ".join(f"{_names(who)}: {what}" for what, who in groups.items())


def _names(who: list[str]) -> str:
    more = f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
    return ", ".join(who[:NAMED]) + more
