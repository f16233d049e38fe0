"""What a scheduler knows of the runs it is told of: decisions without a Dask cluster."""

import json
from types import SimpleNamespace

import pytest

from daskmlr.graph import board as boards
from daskmlr.graph.board import Board, named, plain, read_rate


def told(run, *events, now=0.0):
    return {"run": run, "now": now, "events": events}


def began(client="client-1"):
    return {"event": "run", "client": client, "host": "here", "process": 1}


def a_pass(stage, number, n_bytes=100, seconds=2.0, at=0.0):
    return (
        {"event": "begin", "at": at, "stage": stage, "number": number, "total": 4,
         "n_bytes": n_bytes, "store": "s3://b/trips"},
        {"event": "over", "at": at + seconds, "seconds": seconds},
    )  # fmt: skip


def found(stage, kept=False, **facts):
    entry = {"stage": stage, "seconds": 2.0, **facts}
    return {"event": "found", "at": 0.0, "entry": entry, "kept": kept}


def test_a_pass_and_what_it_found_are_one_stage():
    board = Board()
    refine = {"log_likelihood": -5.0, "weights": [0.75, 0.25]}
    run = board.take(
        told(
            "a", began(), {"event": "fit", "at": 0.0, "n_components": 2}, *a_pass("moments", 1),
            found("moments"), *a_pass("refine", 1), found("refine", **refine),
            found("cluster", log_likelihoods=[float("-inf"), -4.0]),
        )
    )  # fmt: skip
    assert [stage["stage"] for stage in run.stages] == ["moments", "refine", "cluster"]
    assert run.stages[1]["found"] == refine
    assert run.stages[2]["found"] == {"log_likelihoods": [None, -4.0]}
    facts = json.loads(json.dumps(run.told(), allow_nan=False))
    assert facts["log_likelihoods"] == [-5.0]
    assert facts["weights"] == [[0.75, 0.25]]
    assert facts["best_pass_bytes_per_second"] == 50
    assert facts["device"] == "network"
    assert run.bytes_read() == 200
    # another number of components is another curve
    board.take(told("a", {"event": "fit", "at": 9.0, "n_components": 3}, found("refine", **refine)))
    assert run.told()["log_likelihoods"] == [-5.0]
    assert [stage["n_components"] for stage in run.stages] == [2, 2, 2, 3]


def test_what_an_earlier_run_kept_is_told_apart():
    run = Board().take(told("a", found("refine", kept=True, log_likelihood=-1.0, weights=[1.0])))
    assert run.stages[0]["kept"] is True


def test_progress_of_a_pass_never_falls():
    begin, _ = a_pass("refine", 1)
    run = Board().take(told("a", begin))
    for seen, kept in ((1, 1), (3, 3), (2, 3), (9, 4)):
        run.look(seen)
        assert run.done == kept
    assert run.bytes_read() == 100


def test_a_run_ends_once_and_says_how():
    board = Board()
    for name, error, state in (("a", "", "done"), ("b", "no space", "failed")):
        run = board.take(told(name, began(), {"event": "end", "at": 3.0, "error": error}, now=3.0))
        assert (run.state, run.error, run.now()) == (state, error, 3.0)
        board.remove_client(None, "client-1")
        assert run.state == state


def test_two_at_once_and_a_client_that_goes():
    board = Board()
    first, second = (board.take(told(name, began(name))) for name in ("a", "b"))
    board.remove_client(None, "a")
    assert (first.state, second.state) == ("lost", "running")
    assert "went without a word" in first.error


def test_workers_that_come_and_go_count_for_runs_under_way():
    ws = SimpleNamespace(name=1, address="tcp://w:1")
    scheduler = SimpleNamespace(workers={"tcp://w:1": ws})
    board = Board()
    before = board.take(told("a", began(), {"event": "end", "at": 1.0, "error": ""}))
    run = board.take(told("b", began()))
    board.add_worker(scheduler, "tcp://w:1")
    board.remove_worker(scheduler, "tcp://w:1", stimulus_id="")
    assert (run.n_joined, run.n_lost, before.n_lost) == (1, 1, 0)
    changes = ["worker 1 (tcp://w:1) joined", "worker 1 (tcp://w:1) was lost"]
    assert [said for _, said in run.changes] == changes
    assert board.told()["workers"] == 0
    assert named(SimpleNamespace(name="tcp://w:1", address="tcp://w:1")) == "worker tcp://w:1"


def test_old_runs_are_forgotten_and_those_under_way_are_not():
    board = Board()
    board.take(told("first", began()))
    for i in range(boards.REMEMBERED + 5):
        board.take(told(f"run-{i}", began(), {"event": "end", "at": 1.0, "error": ""}))
    assert len(board.runs) == boards.REMEMBERED
    assert "first" in board.runs
    assert "run-5" not in board.runs
    assert f"run-{boards.REMEMBERED + 4}" in board.runs


def test_samples_of_a_long_run_get_sparse(monkeypatch):
    run = Board().take(told("a"))
    clock = iter(range(100_000))
    monkeypatch.setattr(run, "now", lambda: float(next(clock)))
    for _ in range(10 * boards.MOST_SAMPLES):
        run.sample(lambda: 1.0)
    times = [sample[0] for sample in run.samples]
    assert boards.MOST_SAMPLES // 2 <= len(times) <= boards.MOST_SAMPLES
    assert times == sorted(times)
    assert times[0] < boards.MOST_SAMPLES


@pytest.mark.parametrize(("store", "rate"), [("/data/trips", 30.0), ("s3://b/trips", 7.0)])
def test_hosts_read_at_the_rate_of_one_of_their_workers(store, rate):
    def worker(host, disk, net):
        metrics = {"host_disk_io": {"read_bps": disk}, "host_net_io": {"read_bps": net}}
        return SimpleNamespace(host=host, metrics=metrics)

    workers = [worker("one", 10.0, 3.0), worker("one", 11.0, 3.0), worker("two", 19.0, 4.0)]
    bare = SimpleNamespace(host="three", metrics={})
    scheduler = SimpleNamespace(workers=dict(enumerate([*workers, bare])))
    assert read_rate(scheduler, store) == rate


def test_plain_values_are_json():
    import numpy as np

    values = plain((np.float64(1.5), np.int64(2), [float("nan"), "x"], True))
    assert json.dumps(values, allow_nan=False) == '[1.5, 2, [null, "x"], true]'
