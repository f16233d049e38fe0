"""What becomes of a fit when something fails at a random moment.

    python -m tests.benchmarks.faults --runs 10 --faults killed,cut

`daskmlr fit` runs on a Dask cluster of a scheduler and three workers, each a process, over a store
for which it takes some seconds. Once in each run one thing fails, at a random moment; where the
command ends with an error that ``--resume`` is an answer to, it is resumed. A result is right if
every array of the model has the bits of the undisturbed run; an error is clear if it is one message
of ours. Anything else is lost, or wrong. The time to recover is what the run took beyond the
undisturbed ones, resumption and all.

Linux, as root: one worker lives in a network namespace of its own (``ip``, of iproute2), and one
has a small disk of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Client

from daskmlr import MixedLinearRegression, Model
from tests.benchmarks.bitwise import MIXTURE, different, make_store
from tests.benchmarks.resume import PATIENCE, fit_command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from daskmlr.storage.tasks import TaskStore

WORKERS = ("worker-0", "worker-1", "worker-2")
# The worker that things happen to, on a host and a disk of its own.
VICTIM = WORKERS[2]
MEMORY_LIMIT = "700MB"
# Tasks enough for a fit of some seconds.
TASK_GROUPS = [(20_000, (1, 20)), (500, 40)]
BLOCK_BYTES = 1 << 18
SHORT = ["--max-iter", "10", "--n-restarts", "4"]
# Of an undisturbed run; before, the client imports.
MOMENTS = (0.25, 0.8)
# Sooner than Dask's own 5 minutes and 30 s, so that a cut does not take that long in each run.
PATIENT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
}
# Everything that is computed goes to the disk of the worker at once, and fails when it is full.
SPILLING = {"DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.0001"}
SMALL_DISK = "8m"
# In a worker: once the folder of tokens is there, one block fails to be read twice.
FLAKY = """
import os
from daskmlr.storage.tasks import TaskStore
tokens, failing = os.environ["FAULTS_TOKENS"], {}

def read_block(self, index, buffers=None):
    try:
        os.rmdir(tokens)
        failing[index] = 2
    except OSError:
        pass
    if failing.get(index, 0):
        failing[index] -= 1
        raise OSError(5, "Input/output error")
    return self.whole_read_block(index, buffers)

if not hasattr(TaskStore, "whole_read_block"):
    TaskStore.whole_read_block, TaskStore.read_block = TaskStore.read_block, read_block
"""


def run(command: str, *, check: bool = True) -> None:
    subprocess.run(command.split(), check=check, capture_output=True)


@contextmanager
def host() -> Iterator[tuple[str, str, str, list[str]]]:
    """A network namespace joined to this machine by a bridge.

    Yields this machine's address, the namespace's, the link to cut, and how to run a command there.
    """
    tag = f"f{os.getpid() % 10000}"
    net, bridge, link = f"10.{os.getpid() % 200 + 20}.77", f"b{tag}", f"v{tag}"
    try:
        run(f"ip link add {bridge} type bridge")
        run(f"ip addr add {net}.1/24 dev {bridge}")
        run(f"ip link set {bridge} up")
        run(f"ip netns add {tag}")
        run(f"ip link add {link} type veth peer name eth0 netns {tag}")
        run(f"ip link set {link} master {bridge} up")
        run(f"ip -n {tag} addr add {net}.2/24 dev eth0")
        run(f"ip -n {tag} link set eth0 up")
        run(f"ip -n {tag} link set lo up")
        yield f"{net}.1", f"{net}.2", link, f"ip netns exec {tag}".split()
    finally:
        run(f"ip netns del {tag}", check=False)
        run(f"ip link del {bridge}", check=False)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "small"
    disk.mkdir()
    run(f"mount -t tmpfs -o size={SMALL_DISK} tmpfs {disk}")
    try:
        yield disk
    finally:
        run(f"umount --lazy {disk}")


@dataclass
class Cluster:
    """A scheduler and workers under nannies; what has ended is started again by `repair`."""

    folder: Path
    disk: Path
    here: str
    there: str
    link: str
    inside: list[str]
    settings: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.create_server((self.here, 0)) as free:
            self.address = f"tcp://{self.here}:{free.getsockname()[1]}"
        self.tokens = self.folder / "tokens"
        self.preload = self.folder / "flaky.py"
        self.preload.write_text(FLAKY)

    def start(self, name: str) -> None:
        victim = name == VICTIM
        if name == "scheduler":
            port = self.address.rpartition(":")[2]
            what = ["scheduler", "--host", self.here, "--port", port, "--no-dashboard"]
        else:
            local = self.disk if victim else self.folder / name
            what = ["worker", self.address, "--name", name, "--nthreads", "1", "--no-dashboard"]
            what += ["--host", self.there if victim else self.here, "--memory-limit", MEMORY_LIMIT]
            what += ["--local-directory", str(local), "--preload", str(self.preload)]
        log = (self.folder / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [*(self.inside if victim else []), sys.executable, "-m", "dask", *what],
            stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **PATIENT, **self.settings, "FAULTS_TOKENS": str(self.tokens)},
        )  # fmt: skip
        log.close()

    def end(self, name: str) -> None:
        """Kill a process, its nanny and all."""
        with suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running[name].wait()

    def repair(self) -> int:
        """Begin a run with all workers, each of which answers; return the victim's process."""
        if "scheduler" not in self.running or self.running["scheduler"].poll() is not None:
            self.close()
            self.start("scheduler")
        until = time.perf_counter() + PATIENCE
        with self.client() as client:
            while time.perf_counter() < until:
                for name in WORKERS:  # one whose name is still taken ends at once
                    if name not in self.running or self.running[name].poll() is not None:
                        self.start(name)
                known = client.scheduler_info(n_workers=-1)["workers"]
                pids = client.run(os.getpid, on_error="return")
                living = {
                    known[at]["name"]: pid
                    for at, pid in pids.items()
                    if at in known and isinstance(pid, int)
                }
                if set(living) == set(WORKERS) and len(pids) == len(WORKERS):
                    client.run(import_module, "daskmlr.stages")  # else the first pass waits for it
                    return living[VICTIM]
                time.sleep(0.5)
        raise TimeoutError(f"the workers did not come within {PATIENCE:g} s")

    def client(self) -> Client:
        return Client(self.address, timeout=PATIENCE, set_as_default=False)

    def close(self) -> None:
        for name in self.running:
            self.end(name)
        self.running.clear()


@dataclass
class Run:
    """What a fault may act on."""

    cluster: Cluster
    client: subprocess.Popen[bytes]
    pid: int
    tasks: TaskStore
    rng: np.random.Generator
    over: threading.Event = field(default_factory=threading.Event)


def undisturbed(run: Run) -> Generator[None]:
    """Nothing."""
    yield


def killed(run: Run) -> Generator[None]:
    """A worker and its nanny are killed (SIGKILL)."""
    yield run.cluster.end(VICTIM)


def restarted(run: Run) -> Generator[None]:
    """A worker is killed, and its nanny starts another."""
    yield os.kill(run.pid, signal.SIGKILL)


def preempted(run: Run) -> Generator[None]:
    """A worker is told to go (SIGTERM), as by a batch system."""
    yield run.cluster.running[VICTIM].terminate()


def memory(run: Run) -> Generator[None]:
    """Something in a worker takes all its memory, and the nanny kills it."""
    with run.cluster.client() as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].items()
        (address,) = (at for at, worker in workers if worker["name"] == VICTIM)
        client.run(_hog, workers=[address])
    yield


def _hog() -> None:
    import threading

    held = []

    def take() -> None:
        while True:
            held.append(np.ones(1 << 22))
            time.sleep(0.02)

    threading.Thread(target=take, daemon=True).start()


def cut(run: Run) -> Generator[None]:
    """A worker's network is cut off, for good."""
    yield subprocess.run(["ip", "link", "set", run.cluster.link, "down"], check=True) and None
    run.cluster.end(VICTIM)
    subprocess.run(["ip", "link", "set", run.cluster.link, "up"], check=True)


def slow(run: Run) -> Generator[None]:
    """A worker becomes 10 times slower."""

    def hold() -> None:
        with suppress(ProcessLookupError):
            while not run.over.is_set():
                os.kill(run.pid, signal.SIGSTOP)
                time.sleep(0.18)
                os.kill(run.pid, signal.SIGCONT)
                time.sleep(0.02)

    thread = threading.Thread(target=hold)
    yield thread.start()
    thread.join()


def scheduler(run: Run) -> Generator[None]:
    """The scheduler is killed (SIGKILL)."""
    yield run.cluster.end("scheduler")


def client(run: Run) -> Generator[None]:
    """The client is killed (SIGKILL)."""
    yield run.client.kill()


def disk(run: Run) -> Generator[None]:
    """A worker's disk fills up, where it spills what it computes."""
    filler = run.cluster.disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 12))
            file.flush()
    yield
    filler.unlink()


def flaky(run: Run) -> Generator[None]:
    """A block fails to be read twice, then works."""
    yield run.cluster.tokens.mkdir()
    with suppress(OSError):
        run.cluster.tokens.rmdir()


def damaged(run: Run) -> Generator[None]:
    """A bit of a chunk flips on the disk."""
    block = int(run.rng.integers(run.tasks.n_blocks))
    chunk = Path(run.tasks.path, run.tasks._chunk_key("x", block))
    sound = chunk.read_bytes()
    data = bytearray(sound)
    data[int(run.rng.integers(len(data)))] ^= 1
    chunk.write_bytes(data)
    yield
    chunk.write_bytes(sound)


FAULTS: dict[str, Callable[[Run], Generator[None]]] = {
    fault.__name__: fault
    for fault in (
        killed, restarted, preempted, memory, cut, slow, scheduler, client, disk, flaky, damaged,
    )
}  # fmt: skip


@dataclass
class Ending:
    """How a run ended."""

    kind: str
    seconds: float
    said: str


def one_run(
    cluster: Cluster, tasks: TaskStore, reference: Model | None, model: Path, name: str,
    moment: float, rng: np.random.Generator,
) -> Ending | None:  # fmt: skip
    """Fit, disturb, resume if that is an answer, and judge."""
    pid = cluster.repair()
    command = [*fit_command(Path(tasks.path), model, cluster.address), *SHORT]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    run = Run(cluster, process, pid, tasks, rng)
    fault = FAULTS[name](run) if name in FAULTS else undisturbed(run)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
            if name in FAULTS:
                fault.close()
                return None  # it was over before: that says nothing
        next(fault)
        try:
            said = process.communicate(timeout=PATIENCE)[1].decode()
        except subprocess.TimeoutExpired:
            process.kill()
            return Ending("lost", PATIENCE, "it hangs: " + process.communicate()[1].decode())
    finally:
        run.over.set()
        for _ in fault:
            pass
    done = model.exists()  # published before it struck: there is nothing to resume
    status, resumed = 0 if done else process.returncode, False
    if status and name in ("scheduler", "client"):
        if name == "scheduler" and not is_clear(said):
            return Ending("lost", time.perf_counter() - start, said)
        cluster.repair()
        again = subprocess.run([*command, "--resume"], capture_output=True, timeout=PATIENCE)
        status, resumed, said = again.returncode, True, said + again.stderr.decode()
    seconds = time.perf_counter() - start
    if status:
        return Ending("clear error" if is_clear(said) else "lost", seconds, said)
    if reference is not None and different(reference, Model.load(model)):
        return Ending("wrong", seconds, said)
    return Ending("resumed" if resumed else "right", seconds, said)


def is_clear(said: str) -> bool:
    """Whether a command ended with one message of ours."""
    return (
        "Traceback" not in said
        and sum(line.startswith("Error: ") for line in said.splitlines()) == 1
    )


def row(name: str, endings: list[Ending], calm: float) -> str:
    counts = [
        sum(ending.kind == kind for ending in endings)
        for kind in ("right", "resumed", "clear error", "lost", "wrong")
    ]
    median = np.median([ending.seconds for ending in endings]) - calm
    what = (FAULTS[name].__doc__ or "").strip().rstrip(".")
    return f"| `{name}` | {what} | {' | '.join(map(str, counts))} | {median:.1f} |"


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print what each run said")
    options = parser.parse_args(None if arguments is None else list(arguments))
    names = options.faults.split(",")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    header = "| fault | | right | right by `--resume` | clear error | lost | wrong | s to recover |"
    print(f"{header}\n|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch, host() as place:
        folder = Path(scratch)
        tasks = make_store(
            folder / "tasks", dtype="float32", block_bytes=BLOCK_BYTES, task_groups=TASK_GROUPS
        )
        estimator = MixedLinearRegression(
            MIXTURE["n_components"], max_iter=10, n_restarts=4, random_state=0
        )
        reference = estimator.fit(tasks, client="threads").model_
        calm: list[float] = []
        for name in names:
            endings = runs_of(name, folder, place, tasks, reference, calm, options)
            print(row(name, endings, float(np.median(calm))), flush=True)
    print(f"\nUndisturbed: {np.median(calm):.1f} s, {min(calm):.1f} to {max(calm):.1f}.")


def runs_of(
    name: str,
    folder: Path,
    place: Any,
    tasks: TaskStore,
    reference: Model,
    calm: list[float],
    options: Any,
) -> list[Ending]:
    """All runs of one fault, after one that nothing disturbs, whose seconds are added to `calm`."""
    rng = np.random.default_rng([options.seed, list(FAULTS).index(name)])
    home = folder / name
    home.mkdir()
    endings: list[Ending] = []
    with small_disk(home) as disk:
        cluster = Cluster(home, disk, *place, SPILLING if name == "disk" else {})
        try:
            quiet = one_run(cluster, tasks, reference, home / "calm", "none", 0.0, rng)
            if quiet is None or quiet.kind != "right":
                raise AssertionError(f"an undisturbed run ended so: {quiet}")
            calm.append(quiet.seconds)
            for i in count():
                if len(endings) == options.runs:
                    break
                moment = rng.uniform(*MOMENTS) * min(calm)
                ending = one_run(cluster, tasks, reference, home / f"{i}", name, moment, rng)
                if ending is not None:
                    endings.append(ending)
                if options.verbose:
                    print(f"{name} at {moment:.1f} s: {ending}", file=sys.stderr, flush=True)
        finally:
            cluster.close()
    return endings


if __name__ == "__main__":
    main()
