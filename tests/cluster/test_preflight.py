"""Workers that would give other results, or cannot do their part, are found before a pass."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dask
import pytest
from distributed import Client
from distributed.comm import CommClosedError

import daskmlr
from daskmlr import Model, StoreError, map_tasks, open_tasks, reduce_tasks
from daskmlr.errors import ClusterError, ClusterWarning
from daskmlr.graph import preflight
from daskmlr.graph.execute import connect
from tests.cluster.daemons import address, scheduler, wait_until, worker


@pytest.fixture
def running(tmp_path):
    """A scheduler, one worker like this process, and a client."""
    with (
        scheduler(tmp_path) as file,
        worker(file, "sound"),
        Client(address(file), set_as_default=False) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        yield file, client


@pytest.fixture
def tasks(store):
    return open_tasks(store)


def name_of(client, name):
    """Wait for the worker of that name; return its address."""

    def find():
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return [address for address, worker in workers.items() if worker["name"] == name]

    return wait_until(find, what=f"worker {name}")[0]


def count(tasks, client):
    # functions of a test module, which workers cannot import, travel by value
    return reduce_tasks(tasks, lambda block: block.n_tasks, lambda a, b: a + b, client=client)


def altered_copy(folder):
    """Another state of the package: one line more."""
    copy = folder / "other"
    shutil.copytree(Path(daskmlr.__file__).parent, copy / "daskmlr")
    with (copy / "daskmlr/kernels/regression.py").open("a") as file:
        file.write("# another line\n")
    return copy


def other_version(folder, package):
    """Make a package look like another version of itself."""
    info = folder / "other" / f"{package}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    return info.parent


def test_a_sound_cluster_passes_quickly(running, tasks):
    _, client = running
    with connect(client) as runner:
        started = time.perf_counter()
        runner.check(tasks)
        took = time.perf_counter() - started
        assert count(tasks, runner) == tasks.n_tasks
    assert took < 5  # some ms on an idle machine


def test_a_worker_with_other_code_is_named(running, tasks, tmp_path):
    file, client = running
    with worker(file, "altered", path=altered_copy(tmp_path)):
        who = name_of(client, "altered")
        with pytest.raises(ClusterError, match=f"{who}: daskmlr code .* instead of") as said:
            count(tasks, client)
        assert name_of(client, "sound") not in str(said.value)


def test_a_worker_with_other_code_that_joins_later_is_refused(running, tasks, tmp_path):
    file, client = running
    with connect(client) as runner:
        assert count(tasks, runner) == tasks.n_tasks
        with worker(file, "altered", path=altered_copy(tmp_path)):
            name_of(client, "altered")
            client.retire_workers([name_of(client, "sound")])
            with pytest.raises(ClusterError, match="does not run what the client runs: daskmlr c"):
                count(tasks, runner)


def no_daskmlr(folder):
    """Make the package as if it were not installed."""
    (folder / "none").mkdir()
    (folder / "none/daskmlr.py").write_text("raise ImportError('No module named daskmlr')\n")
    return folder / "none"


def test_a_worker_without_daskmlr_is_named(running, tasks, tmp_path):
    file, client = running
    with worker(file, "bare", path=no_daskmlr(tmp_path)):
        who = name_of(client, "bare")
        with pytest.raises(ClusterError, match=f"{who}: cannot say .*No module named daskmlr"):
            count(tasks, client)


def test_a_scheduler_without_daskmlr_is_named(tasks, tmp_path):
    with (
        scheduler(tmp_path, path=no_daskmlr(tmp_path)) as file,
        Client(address(file), set_as_default=False) as client,
        pytest.raises(ClusterError, match=r"the scheduler: cannot say .*No module named daskmlr"),
    ):
        count(tasks, client)


def test_a_worker_with_another_numpy_is_named(running, tasks, tmp_path):
    file, client = running
    with worker(file, "old", path=other_version(tmp_path, "numpy")):
        who = name_of(client, "old")
        with pytest.raises(ClusterError, match=f"{who}: numpy 0.1 instead of [1-9]"):
            count(tasks, client)


def test_another_version_that_changes_no_bits_is_a_warning(running, tasks, tmp_path):
    file, client = running
    with worker(file, "old", path=other_version(tmp_path, "zarr")):
        who = name_of(client, "old")
        with pytest.warns(ClusterWarning, match=f"{who}: zarr 0.1 instead of 3"):
            assert count(tasks, client) == tasks.n_tasks


def test_a_worker_that_hangs_is_named(running, tasks):
    file, client = running
    with worker(file, "stopped") as process:
        who = name_of(client, "stopped")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with (
                dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
                pytest.raises(ClusterError, match=f"^{who} did not answer within 2 s"),
            ):
                count(tasks, client)
        finally:
            os.kill(process.pid, signal.SIGCONT)


def test_workers_that_end_while_they_are_asked_are_left_out_and_broken_connections_made_again(
    running,
):
    file, client = running

    def end_or_break(dask_worker):
        if dask_worker.name == "doomed":
            os.kill(os.getpid(), signal.SIGKILL)
        if not hasattr(dask_worker, "was_asked"):
            dask_worker.was_asked = True
            raise CommClosedError("broken")
        return dask_worker.name

    with worker(file, "doomed"):
        client.wait_for_workers(2, timeout=60)
        started = time.perf_counter()
        answers = client.sync(preflight._ask_workers, client, 30.0, end_or_break)
    assert list(answers.values()) == ["sound"]
    assert time.perf_counter() - started < 15


def mounted(command):
    """Prefix that gives a process a view of the file system of its own."""
    view = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux, to hide files from a worker")
    if subprocess.run([*view, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces, to hide files from a worker")
    return view


def test_a_worker_that_does_not_see_the_store_is_named(running, tasks):
    file, client = running
    hidden = mounted(f"mount -t tmpfs none {Path(tasks.path).parent}")
    with worker(file, "elsewhere", prefix=hidden):
        who = name_of(client, "elsewhere")
        with pytest.raises(
            ClusterError, match=f"1 of 2 workers .* {who}: cannot read the store: there is no task"
        ):
            count(tasks, client)


def test_a_worker_that_joins_later_and_does_not_see_the_store_is_named(running, tasks):
    file, client = running
    with connect(client) as runner:
        assert count(tasks, runner) == tasks.n_tasks
        hidden = mounted(f"mount -t tmpfs none {Path(tasks.path).parent}")
        with worker(file, "elsewhere", prefix=hidden) as process:
            name_of(client, "elsewhere")
            client.retire_workers([name_of(client, "sound")])
            wanted = rf"process {process.pid}. cannot read the store: there is no task store at"
            with pytest.raises(StoreError, match=wanted):
                count(tasks, runner)


def test_a_worker_that_cannot_write_is_named_and_nothing_is_left(running, tasks, alone, tmp_path):
    file, client = running
    out = tmp_path / "out"
    out.mkdir()
    read_only = mounted(f"mount --bind {out} {out} && mount -o remount,bind,ro {out}")
    with worker(file, "reader", prefix=read_only):
        who = name_of(client, "reader")
        assert count(tasks, client) == tasks.n_tasks
        model: Model = alone[0]
        with pytest.raises(
            ClusterError, match=f"{who}: cannot write the output: .*Read-only file system"
        ):
            model.assign(tasks, out=out / "labels.parquet", client=client)
        assert list(out.iterdir()) == []


def test_a_cluster_in_this_process_is_not_asked(tasks, monkeypatch):
    monkeypatch.setattr(preflight, "check_environments", lambda *_: pytest.fail("it was asked"))
    with (
        Client(
            processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False
        ) as own,
        connect(own) as runner,
    ):
        runner.check(tasks)


def test_the_output_must_be_one_folder_for_all(running, tasks, tmp_path):
    """A worker of the same path on a disk of its own."""
    file, client = running
    out = tmp_path / "out"
    out.mkdir()
    with worker(file, "own-disk", prefix=mounted(f"mount -t tmpfs none {out}")):
        who = name_of(client, "own-disk")
        with pytest.raises(ClusterError, match=f"{who}: cannot write the output: .* is not there"):
            map_tasks(tasks, lambda block: {"size": block.sizes}, out / "t.zarr", client=client)
