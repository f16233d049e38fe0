"""A writer that is stopped, however, leaves nothing under the final name, or the old store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from daskmlr.errors import InputError, NoSpaceError, PathExistsError, StoreError
from daskmlr.storage import layout
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import TaskWriter, append_tasks, create_tasks

# Writes blocks of 4 MB and says when the tenth is on disk; goes on to the fortieth and waits there.
# Ctrl-C is heard though whoever started the tests in the background may have it ignored.
WRITER = """
import signal, sys
import numpy as np
from daskmlr.storage.writing import append_tasks, create_tasks

signal.signal(signal.SIGINT, signal.default_int_handler)
verb, path = sys.argv[1:]
new = dict(feature_names=[f"x{j}" for j in range(7)], block_bytes=64 * 65536)
with append_tasks(path) if verb == "append" else create_tasks(path, **new) as writer:
    X, y, sizes = np.random.default_rng(0).normal(size=(65536, 7)), np.ones(65536), [8] * 8192
    for count in range(40):
        writer.write(X, y, sizes)
        if count == 10:
            print("ten blocks", flush=True)
    sys.stdin.read()
"""


def stop_writer(verb, path, how):
    """Start the writer, send it a signal while it writes, and return how it ended."""
    pipes = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", WRITER, verb, str(path)], text=True, **pipes)
    try:
        assert process.stdout.readline() == "ten blocks\n"
        process.send_signal(how)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, complaint


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("blocks", [0, 5])
def test_an_exception_leaves_nothing(tasks, tmp_path, error, blocks):
    names = ["a", "b", "c"]
    with (  # noqa: PT012 - it is leaving the writer that is tested
        pytest.raises(error, match="stop"),
        create_tasks(tmp_path / "t", feature_names=names, block_bytes=4 * 8) as writer,
    ):
        if blocks:
            tasks.feed(writer, tasks.table([1] * (blocks + 1)))
        raise error("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_write_may_be_caught_and_the_rest_is_stored(tasks, tmp_path):
    table = tasks.table([2, 3, 1])
    with create_tasks(tmp_path / "t", feature_names=["a", "b", "c"]) as writer:
        tasks.feed(writer, table.part(0, 2))
        with pytest.raises(InputError, match="nan"):
            writer.write(np.full((1, 3), np.nan), [0.0], [1], [7])
        tasks.feed(writer, table.part(2, 3))
    tasks.assert_holds(open_tasks(tmp_path / "t"), table)


@pytest.mark.parametrize("when", ["writing", "finishing"])
def test_an_exception_puts_an_append_back(tasks, tmp_path, monkeypatch, when):
    path = tasks.write(tmp_path / "t", tasks.table([2, 3]), block_rows=4)
    before = tasks.files(path)
    if when == "finishing":
        # the last thing that a writer does before it publishes
        monkeypatch.setattr(
            layout.Facts, "to_attrs", lambda self: (_ for _ in ()).throw(RuntimeError("stop"))
        )
    with pytest.raises(RuntimeError, match="stop"), append_tasks(path) as writer:  # noqa: PT012
        tasks.feed(writer, tasks.table([4] * 20, ids=range(2, 22)))
        if when == "writing":
            raise RuntimeError("stop")
    monkeypatch.undo()
    after = tasks.files(path)
    # chunks that the append wrote again hold the old entries, and more that nobody counts
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {f"{n}/c/0" for n in ("task_size", "task_id", "block_tasks")}
    open_tasks(path).validate(deep=True)
    tasks.assert_holds(open_tasks(path), tasks.table([2, 3]))
    more = tasks.table([1], ids=[2])
    tasks.append(path, more)
    assert open_tasks(path).task_sizes().tolist() == [2, 3, 1]
    open_tasks(path).validate(deep=True)


def test_a_block_that_failed_is_not_published_though_the_error_was_caught(
    tasks, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError("the disk coughs")

    table = tasks.table([4] * 5)
    with (  # noqa: PT012 - leaving the writer raises
        pytest.raises(StoreError, match="could not be written: nothing is kept"),
        create_tasks(tmp_path / "t", feature_names=["a", "b", "c"], block_bytes=4 * 32) as writer,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(layout, "choose_codec", fail)
            with pytest.raises(OSError, match="coughs"):
                tasks.feed(writer, table)
        with suppress(StoreError):
            tasks.feed(writer, table)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_after_publishing_leaves_the_new_tasks(tasks, tmp_path, monkeypatch):
    path = tasks.write(tmp_path / "t", tasks.table([2, 3]), block_rows=4)
    real = TaskWriter._finish

    def publish_and_stop(self):
        real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(TaskWriter, "_finish", publish_and_stop)
    with pytest.raises(KeyboardInterrupt):
        tasks.append(path, tasks.table([4, 4], ids=[2, 3]))
    assert open_tasks(path).task_sizes().tolist() == [2, 3, 4, 4]
    open_tasks(path).validate(deep=True)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_an_interrupt_waits_for_the_block_that_is_being_written(tasks, tmp_path, monkeypatch):
    real, finished = TaskWriter._write_block, []

    def interrupted(self, buffer):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        real(self, buffer)
        finished.append(list(tmp_path.glob(".t.staging-*/x/c/0/0")))

    monkeypatch.setattr(TaskWriter, "_write_block", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tasks.write(tmp_path / "t", tasks.table([1] * 10), block_rows=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(finished) == 1
    assert len(finished[0]) == 1  # the folder was not removed under its hands
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent as POSIX has it")
def test_ctrl_c_while_blocks_are_written_leaves_nothing(tmp_path):
    code, complaint = stop_writer("create", tmp_path / "t", signal.SIGINT)
    assert code != 0
    assert "KeyboardInterrupt" in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_only_a_hidden_folder(tasks, tmp_path):
    code, _ = stop_writer("create", tmp_path / "t", signal.SIGKILL)
    assert code == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".t.staging-")
    assert list((left / "x").rglob("c/*"))  # it was killed while there were blocks
    with pytest.raises(StoreError, match="does not exist"):
        open_tasks(tmp_path / "t")
    with pytest.raises(StoreError, match="writer was stopped before it published"):
        open_tasks(left)
    tasks.write(tmp_path / "t", tasks.table([1]))  # the name is free


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_append_leaves_the_old_store(tasks, tmp_path, how):
    table = tasks.table([8] * 20_000, d=7)
    path = tasks.write(tmp_path / "t", table, block_rows=65536)
    before = sum(map(len, tasks.files(path).values()))
    stop_writer("append", path, how)
    store = open_tasks(path)
    tasks.assert_holds(store, table)
    store.validate(deep=True)
    left = sum(map(len, tasks.files(path).values())) - before
    assert left > 10 * 64 * 65536 if how == signal.SIGKILL else left == 0
    more = tasks.table([5] * 7, d=7, ids=range(20_000, 20_007), seed=1)
    tasks.append(path, more)
    store = open_tasks(path)
    store.validate(deep=True)
    assert (store.n_tasks, store.n_blocks) == (20_007, 4)
    np.testing.assert_array_equal(store.read_block(3).X, more.X)
    once = tasks.write(tmp_path / "once", table, block_rows=65536)
    tasks.append(once, more)
    # nothing of the stopped append is left, not even unseen
    assert tasks.files(path) == tasks.files(once)


def test_a_second_append_at_the_same_time_is_refused(tasks, tmp_path):
    path = tasks.write(tmp_path / "t", tasks.table([2]), block_rows=4)
    with append_tasks(path) as writer:
        with pytest.raises(StoreError, match="another process is appending"):
            tasks.append(path, tasks.table([1], ids=[5]))
        tasks.feed(writer, tasks.table([3], ids=[6]))
    assert open_tasks(path).task_ids().tolist() == [0, 6]


@pytest.mark.skipif(os.name == "nt", reason="the lock is of POSIX")
def test_a_file_system_without_locks_can_be_appended_to(tasks, tmp_path, monkeypatch):
    path = tasks.write(tmp_path / "t", tasks.table([2]), block_rows=4)

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("daskmlr.storage.publish.fcntl.flock", unsupported)
    tasks.append(path, tasks.table([1], ids=[5]))
    assert open_tasks(path).n_tasks == 2


def test_the_remains_of_a_killed_write_are_removed_by_the_next_append(tasks, tmp_path):
    path = tasks.write(tmp_path / "t", tasks.table([2]), block_rows=4)
    stray = path / "x" / "c" / "1" / "0.5d41402abc4b2a76b9719d911017c592.partial"
    stray.parent.mkdir()
    stray.write_bytes(b"half a chunk")
    open_tasks(path).validate(deep=True)
    tasks.append(path, tasks.table([1], ids=[5]))
    assert not stray.exists()
    open_tasks(path).validate(deep=True)


def test_an_append_that_was_begun_before_another_ended_is_refused(tasks, tmp_path):
    path = tasks.write(tmp_path / "t", tasks.table([2]), block_rows=4)
    late = append_tasks(path)
    tasks.append(path, tasks.table([1], ids=[5]))
    with pytest.raises(StoreError, match="appended to in the meantime"), late:
        pass
    open_tasks(path).validate(deep=True)
    tasks.append(path, tasks.table([1], ids=[6]))
    assert open_tasks(path).task_ids().tolist() == [0, 5, 6]


def test_somebody_else_took_the_name_meanwhile(tasks, tmp_path):
    with (  # noqa: PT012 - leaving the writer raises
        pytest.raises(PathExistsError, match="exists and is a file: choose another path for"),
        create_tasks(tmp_path / "t", feature_names=["a"]) as writer,
    ):
        writer.write([[1.0]], [1.0], [1])
        (tmp_path / "t").write_text("mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_text() == "mine"


def test_a_full_disk_while_writing(tasks, small_disk):
    free = shutil.disk_usage(small_disk).free
    table = tasks.table([1024] * 300, d=7)
    with pytest.raises(NoSpaceError, match=f"no space left on the disk while writing {small_disk}"):
        tasks.write(small_disk / "t", table, block_rows=2048, cuts=range(1, 300))
    assert list(small_disk.iterdir()) == []
    assert shutil.disk_usage(small_disk).free == free
    tasks.write(small_disk / "t", table.part(0, 50), block_rows=2048)
    open_tasks(small_disk / "t").validate(deep=True)


def test_a_full_disk_while_the_only_block_is_written_at_the_end(tasks, small_disk):
    with pytest.raises(NoSpaceError, match="no space left"):
        tasks.write(small_disk / "t", tasks.table([1] * 150_000, d=7))
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_appending(tasks, small_disk):
    table = tasks.table([1024] * 40, d=7)
    path = tasks.write(small_disk / "t", table, block_rows=2048)
    free = shutil.disk_usage(small_disk).free
    more = tasks.table([1024] * 300, d=7, ids=range(40, 340), seed=1)
    with pytest.raises(NoSpaceError, match="no space left"):
        tasks.append(path, more)
    tasks.assert_holds(open_tasks(path), table)
    open_tasks(path).validate(deep=True)
    assert shutil.disk_usage(small_disk).free == free
    tasks.append(path, more.part(0, 10))
    open_tasks(path).validate(deep=True)
    assert open_tasks(path).n_tasks == 50


def test_a_disk_that_is_full_to_the_last_byte_still_gives_the_append_back(tasks, small_disk):
    table = tasks.table([1024] * 40, d=7)
    path = tasks.write(small_disk / "t", table, block_rows=2048)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(small_disk).free == 0
    with pytest.raises(NoSpaceError, match="no space left"):
        tasks.append(path, tasks.table([1024] * 4, d=7, ids=range(40, 44)))
    tasks.assert_holds(open_tasks(path), table)
    open_tasks(path).validate(deep=True)
    filler.unlink()
    tasks.append(path, tasks.table([1024] * 4, d=7, ids=range(40, 44)))
    assert open_tasks(path).n_tasks == 44


HOLDER = """
import sys
from daskmlr.storage.writing import append_tasks

with append_tasks(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_processes_exclude_each_other_and_a_dead_one_holds_nothing(tasks, tmp_path):
    path = tasks.write(tmp_path / "t", tasks.table([1], d=1))
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another process is appending"):
            tasks.append(path, tasks.table([1], d=1, ids=[5]))
        other.kill()
    tasks.append(path, tasks.table([1], d=1, ids=[5]))
    assert open_tasks(path).task_ids().tolist() == [0, 5]
    document = json.loads((path / "zarr.json").read_text())
    assert document["attributes"]["daskmlr"]["n_tasks"] == 2
