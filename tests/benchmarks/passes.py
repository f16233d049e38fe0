"""Throughput of every pass, beside a read-only pass and the bare BLAS calls, in one run.

    python -m tests.benchmarks.passes --features 32 128 512 --json passes.jsonl
    python -m tests.benchmarks.passes --compare before.jsonl after.jsonl

Each round times everything once, one after another, so that a slow moment of the machine meets
all alike. *Read-only* reads, checks and decodes every block and computes nothing; *BLAS* makes the
products that a pass cannot do without, on as many threads, of arrays already in memory. The serial
bound is ``1 / (1 / read-only + 1 / BLAS)``. Cold passes begin with the store's files dropped
from the page cache, and read them as those of a store larger than memory.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from dask.system import CPU_COUNT

from daskmlr import plan, simulate
from daskmlr.graph import leaf
from daskmlr.graph.execute import connect
from daskmlr.graph.leaf import one_blas_thread
from daskmlr.graph.reduce import reduce_tasks
from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Frame
from daskmlr.kernels.moments import ALL_PAIRS, SPLIT, combine_moments, moments_from_block
from daskmlr.kernels.regression import combine_sums, sums_from_block, without_negligible
from daskmlr.synthetic import load_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.storage.tasks import TaskStore

TASK_ROWS = 8
N_COMPONENTS = 8
READ_ONLY = "read-only"
# At least so much of the serial bound, and of the read-only pass where one is named.
OF_BOUND = 0.85
OF_READING = {"moments, split": 0.75, "assignment": 0.75}
OF_READING_FEATURES = (32, 128)
COLD_OF_SLOWER = 0.80


@dataclass(frozen=True)
class Measured:
    """One pass over one store: the work, and how long it took in each round."""

    name: str
    cold: bool
    n_features: int
    n_tasks: int
    n_rows: int
    bytes_read: int
    dtype: str
    codec: str
    n_components: int
    threads: int
    graph_tasks: int
    checksum: float
    seconds: list[float]
    blas_seconds: list[float]
    machine: str

    @property
    def work(self) -> tuple[Any, ...]:
        """What must be equal where two runs are compared."""
        return (
            self.name, self.cold, self.n_features, self.n_tasks, self.n_rows, self.bytes_read,
            self.dtype, self.codec, self.n_components, self.threads,
        )  # fmt: skip

    @property
    def speed(self) -> float:
        """Decoded gigabytes each second, median of the rounds."""
        return self.bytes_read / 1e9 / float(np.median(self.seconds))


def read_only(block: TaskBlock) -> float:
    return float(block.y[-1])


def moments(block: TaskBlock, frame: Frame, groups: int, onto: Any = None) -> Any:
    return moments_from_block(block, frame, groups=groups, signal_share=0.1, seed=0, onto=onto)


def assignment(block: TaskBlock, frame: Frame, mixture: Mixture) -> np.ndarray:
    shares, log_likelihood = posterior(block_log_likelihood(block, frame, mixture))
    counts = np.bincount(shares.argmax(axis=1), minlength=mixture.n_components)
    return np.append(counts, log_likelihood.sum())


def refinement(block: TaskBlock, frame: Frame, mixture: Mixture, onto: Any = None) -> Any:
    return sums_from_block(block, frame, mixture, assign="soft", onto=onto)


def add(left: Any, right: Any) -> Any:
    return left + right


@dataclass(frozen=True)
class Pass:
    """A pass: its functions, one number of its result, and the products it cannot do without."""

    from_block: Callable[..., Any]
    combine: Callable[[Any, Any], Any]
    args: tuple[Any, ...]
    checksum: Callable[[Any], float]
    products: Callable[[np.ndarray], Any]
    in_place: bool = False


def syrk(rows: np.ndarray) -> Any:
    return np.dot(rows.T, rows)


def passes(frame: Frame, mixture: Mixture, sharing: float = 1.0) -> dict[str, Pass]:
    """Return the passes; a row counts for `sharing` components on average."""
    k, p = mixture.coef.shape

    def split(rows: np.ndarray) -> None:
        syrk(rows)
        for _ in range(4):  # both halves of a task, their sum, and their sum with a random sign
            syrk(rows[: len(rows) // TASK_ROWS])

    def all_pairs(rows: np.ndarray) -> None:
        syrk(rows)
        syrk(rows)
        for _ in range(2):
            syrk(rows[: len(rows) // TASK_ROWS])

    def residuals(rows: np.ndarray) -> None:
        rows @ np.zeros((p + 1, k), dtype=rows.dtype)

    def refine(rows: np.ndarray) -> None:
        residuals(rows)
        share = round(sharing * len(rows) / k)
        for start in np.linspace(0, len(rows) - share, k).astype(int):
            syrk(rows[start : start + share])

    return {
        READ_ONLY: Pass(read_only, add, (), float, lambda _: None),
        "moments, split": Pass(
            moments, combine_moments, (frame, SPLIT), lambda m: float(np.trace(m.cross)), split,
            True,
        ),
        "moments, all pairs": Pass(
            moments, combine_moments, (frame, ALL_PAIRS), lambda m: float(np.trace(m.cross)),
            all_pairs, True,
        ),
        "assignment": Pass(
            assignment, add, (frame, mixture), lambda counts: float(counts[-1]), residuals
        ),
        "refinement": Pass(
            refinement, combine_sums, (frame, mixture), lambda s: s.log_likelihood, refine,
            True,
        ),
    }  # fmt: skip


def make_store(folder: Path, n_features: int, gigabytes: float) -> TaskStore:
    n_tasks = max(round(gigabytes * 1e9 / (4 * (n_features + 1) * TASK_ROWS)), 1000)
    return simulate(
        folder / f"{n_features}.daskmlr",
        task_groups=[(n_tasks, TASK_ROWS)],
        n_components=N_COMPONENTS,
        n_features=n_features,
        noise=0.5,
        random_state=0,
    )


def parameters(tasks: TaskStore) -> tuple[Frame, Mixture]:
    """Frame of a fit, and the true mixture in it."""
    truth, _ = load_truth(tasks.path)
    frame = Frame.near(tasks.feature_mean, tasks.feature_scale, tasks.target_mean, tasks.dtype)
    coef = frame.from_user(truth.coef, truth.intercept)
    return frame, Mixture(coef, truth.noise_variance, truth.weights)


def rows_sharing(block: TaskBlock, frame: Frame, mixture: Mixture) -> float:
    """Count the components that a row of a block has a product with, on average."""
    shares = without_negligible(posterior(block_log_likelihood(block, frame, mixture))[0])
    return float(block.sizes @ np.count_nonzero(shares, axis=1)) / block.n_rows


def drop_from_cache(tasks: TaskStore) -> None:
    """Ask the system to forget the store's files; those not yet written first."""
    os.sync()
    for path in Path(tasks.path).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_blas(tasks: TaskStore, one: Pass, blocks: list[np.ndarray]) -> float:
    """Seconds of the products of a pass over as many rows, on all threads at once."""
    repeats = tasks.n_rows / sum(len(rows) for rows in blocks)

    def on_one_thread(rows: np.ndarray) -> None:
        for _ in range(int(repeats)):
            one.products(rows)
        one.products(rows[: int(repeats % 1 * len(rows))])

    with one_blas_thread(), ThreadPoolExecutor(len(blocks)) as pool:
        start = time.perf_counter()
        list(pool.map(on_one_thread, blocks))
        return time.perf_counter() - start


def measure(tasks: TaskStore, rounds: int, *, cold: bool) -> list[Measured]:
    frame, mixture = parameters(tasks)
    sharing = rows_sharing(tasks.read_block(0), frame, mixture)
    wanted = passes(frame, mixture, sharing)
    rng = np.random.default_rng(0)
    shape = tasks.block_rows, tasks.n_features + 2
    blocks = [rng.standard_normal(shape, dtype=np.float32) for _ in range(CPU_COUNT)]
    seconds, blas, sums = defaultdict(list), defaultdict(list), {}
    with connect("threads") as runner, ExitStack() as stack:
        if cold:
            stack.enter_context(mock.patch.object(leaf, "CACHED_SHARE", 0))
            stack.enter_context(mock.patch.object(plan, "MIN_RUNS", 1))  # runs as long as there
        for _ in range(rounds + 1):
            for name, one in wanted.items():
                if cold:
                    drop_from_cache(tasks)
                start = time.perf_counter()
                result = reduce_tasks(
                    tasks,
                    one.from_block,
                    one.combine,
                    args=one.args,
                    in_place=one.in_place,
                    client=runner,
                )
                seconds[name].append(time.perf_counter() - start)
                sums[name] = one.checksum(result)
                blas[name].append(time_blas(tasks, one, blocks))
    return [
        Measured(
            name, cold, tasks.n_features, tasks.n_tasks, tasks.n_rows, tasks.nbytes,
            str(tasks.dtype), tasks.codec, N_COMPONENTS, CPU_COUNT,
            plan.plan_pass(tasks, 0).n_graph_tasks, sums[name], seconds[name][1:], blas[name][1:],
            f"{platform.machine()}, {CPU_COUNT} cores",
        )
        for name in wanted
    ]  # fmt: skip


def profile(tasks: TaskStore, lines: int = 10) -> str:
    """Where the time of every pass goes, on one thread and blocks in memory: share by function."""
    blocks = [tasks.read_block(index) for index in range(tasks.n_blocks)]
    out = ["| d | pass | function | share |", "|---|---|---|---|"]
    for name, one in passes(*parameters(tasks)).items():
        if name == READ_ONLY:
            continue
        profiler = cProfile.Profile()
        with one_blas_thread():
            profiler.runcall(lambda one=one: [one.from_block(block, *one.args) for block in blocks])
        stats: Any = pstats.Stats(profiler)
        spent = sorted(((own[2], key[2]) for key, own in stats.stats.items()), reverse=True)
        out += [
            f"| {tasks.n_features} | {name} | {function} | {seconds / stats.total_tt:.2f} |"
            for seconds, function in spent[:lines]
        ]
    return "\n".join(out)


def table(results: list[Measured]) -> str:
    """Speeds, and the ratios of the medians to the bounds; a miss is marked."""
    lines = [
        "| cache | d | pass | GB/s | BLAS GB/s | bound GB/s | of bound | of read-only |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reading = {(r.cold, r.n_features): r.speed for r in results if r.name == READ_ONLY}
    for r in results:
        read = reading[r.cold, r.n_features]
        cache = "cold" if r.cold else "warm"
        if r.name == READ_ONLY:
            lines.append(f"| {cache} | {r.n_features} | {r.name} | {r.speed:.2f} | | | | |")
            continue
        blas = r.bytes_read / 1e9 / float(np.median(r.blas_seconds))
        bound = min(read, blas) if r.cold else 1 / (1 / read + 1 / blas)
        least = COLD_OF_SLOWER if r.cold else OF_BOUND
        at = not r.cold and r.n_features in OF_READING_FEATURES
        of_reading = OF_READING.get(r.name, 0.0) if at else 0.0
        lines.append(
            f"| {cache} | {r.n_features} | {r.name} | {r.speed:.2f} | {blas:.2f} | {bound:.2f} | "
            f"{_marked(r.speed / bound, least)} | {_marked(r.speed / read, of_reading)} |"
        )
    return "\n".join(lines)


def _marked(ratio: float, least: float) -> str:
    return f"{ratio:.2f}" + (f" (wanted {least:.2f})" if ratio < least else "")


def compare(before: list[Measured], after: list[Measured]) -> str:
    """Speed-ups, of equal work only.

    Raises
    ------
    ValueError
        If the runs did other work, or reached other results.
    """
    lines = ["| cache | d | pass | before GB/s | after GB/s | times |", "|---|---|---|---|---|---|"]
    if [r.work for r in before] != [r.work for r in after]:
        raise ValueError("the two runs did not do the same work: compare runs of one command")
    for old, new in zip(before, after, strict=True):
        if not np.isclose(old.checksum, new.checksum, rtol=1e-5):
            raise ValueError(f"{old.name} gave {old.checksum} before and {new.checksum} after")
        lines.append(
            f"| {'cold' if old.cold else 'warm'} | {old.n_features} | {old.name} | "
            f"{old.speed:.2f} | {new.speed:.2f} | {new.speed / old.speed:.2f} |"
        )
    return "\n".join(lines)


def load(path: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in path.read_text().splitlines()]


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="cold passes too")
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead")
    parser.add_argument("--json", type=Path, help="append a line for each pass")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    if asked.compare:
        print(compare(*(load(path) for path in asked.compare)))
        return
    results: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        for n_features in asked.features:
            tasks = make_store(Path(folder), n_features, asked.gigabytes)
            if asked.profile:
                print(profile(tasks))
                continue
            for cold in (False, True) if asked.cold else (False,):
                results += measure(tasks, asked.rounds, cold=cold)
    if asked.profile:
        return
    if asked.json:
        with asked.json.open("a") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)
    print(table(results))


if __name__ == "__main__":
    main()
