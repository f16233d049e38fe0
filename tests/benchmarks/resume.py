"""Whether a fit that was killed and resumed is the fit that was not.

    python -m tests.benchmarks.resume --moments 20

`daskmlr fit` runs on a Dask cluster of a scheduler and two workers, each a process. At a random
moment the client, the scheduler or a worker is killed (SIGKILL). What was killed is started again,
and if the command has failed, the same command with ``--resume``. Every array of the model must be
the same, to the last bit, as that of a fit on this machine that nobody disturbed.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from distributed import Client

from daskmlr import MixedLinearRegression, Model
from tests.benchmarks.bitwise import MIXTURE, different, make_store

if TYPE_CHECKING:
    from collections.abc import Iterable

VICTIMS = ("client", "scheduler", "worker")
N_WORKERS = 2
# Tasks enough for a fit of some seconds.
TASK_GROUPS = [(200_000, (1, 20)), (500, 40)]
PATIENCE = 120.0


class Processes:
    """A scheduler and its workers, each killed and started again at will."""

    def __init__(self, folder: Path):
        self._log = (folder / "cluster.log").open("wb")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("scheduler", *self.workers):
            self.start(name)

    @property
    def workers(self) -> list[str]:
        return [f"worker-{i}" for i in range(N_WORKERS)]

    def start(self, name: str) -> None:
        if name == "scheduler":
            port = self.address.rpartition(":")[2]
            what = ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        else:
            what = ["worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny"]
            what += ["--host", "127.0.0.1", "--no-dashboard"]
        command = [sys.executable, "-m", "dask", *what]
        self._running[name] = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait()

    def whole_again(self) -> None:
        """Start what has ended, and wait until all workers are there."""
        if self._running["scheduler"].poll() is not None:
            self.start("scheduler")
        until = time.perf_counter() + PATIENCE
        with Client(self.address, timeout=PATIENCE, set_as_default=False) as client:
            while client.scheduler_info(n_workers=0)["n_workers"] < N_WORKERS:
                for name in self.workers:  # they may end a while after their scheduler
                    if self._running[name].poll() is not None:
                        self.start(name)
                if time.perf_counter() > until:
                    raise TimeoutError(f"no {N_WORKERS} workers within {PATIENCE:g} s")
                time.sleep(0.1)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._log.close()


def fit_command(store: Path, model: Path, address: str) -> list[str]:
    command = [sys.executable, "-m", "daskmlr", "fit", str(store), str(model), "--json"]
    return [*command, "--n-components", str(MIXTURE["n_components"]), "--scheduler", address]


def disturbed(
    processes: Processes, command: list[str], model: Path, victim: str, moment: float
) -> dict[str, object]:
    """Run the command, kill the victim after so many seconds, resume if need be."""
    start = time.perf_counter()
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        client.wait(moment)
        ended = "before the kill"
    except subprocess.TimeoutExpired:
        ended = ""
    kept = model.with_name(f"{model.name}.checkpoint")
    results = len(list(kept.glob("*.npz")))
    if victim == "client":
        client.kill()
    else:
        processes.kill(victim)
    error = client.communicate(timeout=PATIENCE)[1].decode()
    processes.whole_again()
    resumed = not model.exists()
    if resumed:
        subprocess.run([*command, "--resume"], check=True, capture_output=True, timeout=PATIENCE)
    ended = ended or ("resumed" if resumed else "went on")
    last = error.strip().splitlines()[-1:] if client.returncode > 0 else []
    return {"seconds": time.perf_counter() - start, "results": results, "ended": ended,
            "error": "".join(last)}  # fmt: skip


def main(arguments: Iterable[str] | None = None) -> None:
    """Print a line for each kill, and the count of equal models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    rng = np.random.default_rng(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = make_store(
            folder / "tasks.daskmlr", dtype="float32", block_bytes=1 << 19, task_groups=TASK_GROUPS
        )
        k = MIXTURE["n_components"]
        expected = MixedLinearRegression(k, random_state=0).fit(store, client="sync").model_
        processes = Processes(folder)
        try:
            processes.whole_again()
            whole = folder / "undisturbed.model"
            start = time.perf_counter()
            subprocess.run(fit_command(store.path, whole, processes.address), check=True,
                           capture_output=True)  # fmt: skip
            seconds = time.perf_counter() - start
            equal = [not different(Model.load(whole), expected)]
            print(f"undisturbed: {seconds:.1f} s, {'equal' if equal[0] else 'DIFFERENT'}\n")
            print("| killed | after s | results kept | then | seconds in all | model | error |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for i in range(asked.moments):
                victim = VICTIMS[i % len(VICTIMS)]
                name = f"worker-{rng.integers(N_WORKERS)}" if victim == "worker" else victim
                moment = float(rng.uniform(0.3, 1.0) * seconds)  # before, it imports
                model = folder / f"{i}.model"
                command = fit_command(store.path, model, processes.address)
                facts = disturbed(processes, command, model, name, moment)
                equal.append(not different(Model.load(model), expected))
                print(
                    f"| {victim} | {moment:.1f} | {facts['results']} | {facts['ended']} "
                    f"| {facts['seconds']:.1f} | {'equal' if equal[-1] else 'DIFFERENT'} "
                    f"| {facts['error']} |",
                    flush=True,
                )
        finally:
            processes.close()
    print(f"\n{sum(equal[1:])} of {len(equal) - 1} are equal to the last bit")
    if not all(equal):
        sys.exit(1)


if __name__ == "__main__":
    main()
