"""What a pass takes beside what the plan says, and a fit in a third of the memory of its data."""

import json
import subprocess
import sys

import pytest

from daskmlr import Model, simulate
from daskmlr.graph import memory
from daskmlr.kernels.metrics import coefficient_error
from daskmlr.synthetic import load_truth
from tests.benchmarks.limited import run_limited

MIB = 1 << 20

# Peak resident memory of the whole process through one pass, and what the plan says of it.
CHILD = """
import json, sys
from daskmlr import MixedLinearRegression, open_tasks, plan  # all that a fit imports
from daskmlr.graph import leaf
from daskmlr.graph.execute import connect
from daskmlr.graph.reduce import reduce_tasks
from tests.benchmarks.passes import parameters, passes

path, name, client, reading = sys.argv[1:]
if reading == "past the cache":
    leaf.CACHED_SHARE = 0
tasks = open_tasks(path)
frame, mixture = parameters(tasks)
one = passes(frame, mixture)[name]
stages = plan.sum_bytes_of_fit(tasks.n_features, mixture.n_components, 0, 0)
stage = "moments" if name.startswith("moments") else "refine"
with connect(client) as runner:
    n_threads = runner.worker_resources()[0]
    reduce_tasks(
        tasks, one.from_block, one.combine, args=one.args, in_place=one.in_place, client=runner
    )
planned = plan.plan_pass(tasks, stages[stage]).peak_bytes(n_threads)
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps([peak, planned]))
"""


@pytest.fixture(scope="module", params=[16, 700])
def store(request, tmp_path_factory):
    """About 400 MB in some 25 blocks; in the second the sums are larger than the blocks."""
    d = request.param
    return simulate(
        tmp_path_factory.mktemp("memory") / "tasks.daskmlr",
        n_components=8,
        n_features=d,
        task_groups=[(400_000_000 // (32 * (d + 1)), 8)],
        random_state=0,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
@pytest.mark.parametrize("client", ["sync", "threads"])
@pytest.mark.parametrize("name", ["moments, all pairs", "refinement"])
@pytest.mark.parametrize("reading", ["cached", "past the cache"])
def test_a_pass_takes_between_half_and_all_of_its_plan(store, name, client, reading):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, store.path, name, client, reading],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, planned = json.loads(done.stdout)
    assert 0.5 <= peak / planned <= 1.0, f"{peak / 2**20:.0f} of {planned / 2**20:.0f} MiB"


@pytest.mark.parametrize(
    ("membership", "file", "limit"),
    [
        ("0::/user/job\n", "user/job/memory.max", 500),
        ("0::/user/job\n", "user/memory.max", 500),
        ("5:cpuset:/a\n4:cpu,memory:/slurm/job\n", "memory/slurm/job/memory.limit_in_bytes", 500),
        ("0::/user/job\n", "elsewhere/memory.max", None),
        ("", "memory.max", None),
    ],
)
def test_memory_is_what_the_cgroup_allows(tmp_path, membership, file, limit):
    (tmp_path / "membership").write_text(membership)
    for place, text in (("user/job/memory.max", "max\n"), (file, "500\n")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    found = list(memory._limits(tmp_path / "membership", tmp_path))
    assert found == ([] if limit is None else [limit])


def test_memory_of_a_process_in_a_cgroup():
    ask = "from daskmlr.graph.memory import memory_limit; print(memory_limit())"
    usage = run_limited([sys.executable, "-c", ask], limit=400 * MIB, timeout=60)
    assert usage.returncode == 0, usage.stderr
    allowed = 400 * MIB if usage.enforced.startswith("cgroup") else memory.memory_limit()
    assert int(usage.stdout) == allowed


@pytest.mark.skipif(sys.platform != "linux", reason="needs cgroups, or /proc to sample")
def test_a_fit_needs_a_third_of_the_memory_of_its_store(tmp_path):
    """1.2 GiB under a limit of 400 MiB, that of an interpreter with its libraries and a little."""
    tasks = simulate(
        tmp_path / "tasks.daskmlr",
        n_components=4,
        n_features=63,
        noise=0.5,
        task_groups=[(600_000, 8)],
        random_state=0,
        block_bytes=4 * MIB,
    )
    assert tasks.nbytes > 3 * 400 * MIB - 50 * MIB
    usage = run_limited(
        [sys.executable, "-m", "daskmlr", "fit", tasks.path, str(tmp_path / "model"),
         "--n-components", "4", "--json"],
        limit=400 * MIB, timeout=600,
    )  # fmt: skip
    assert usage.returncode == 0, usage.stderr
    assert usage.oom_kills == 0
    assert usage.peak_rss < 400 * MIB
    truth, _ = load_truth(tasks.path)
    assert coefficient_error(Model.load(tmp_path / "model").coef, truth.coef).max() < 0.01
