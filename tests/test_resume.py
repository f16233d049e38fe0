"""A fit that was interrupted goes on, and ends as one that was not, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from daskmlr import InputError, MixedLinearRegression, Model, simulate
from daskmlr.cli import main
from daskmlr.errors import CheckpointError
from daskmlr.graph import execute, reduce
from daskmlr.graph.environment import DECISIVE
from daskmlr.graph.reduce import reduce_tasks


class InterruptionError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("resume") / "tasks.daskmlr",
        n_components=3,
        n_features=3,
        noise=1.0,
        task_groups=[(1500, 5), (50, 12)],
        random_state=0,
        block_bytes=1 << 13,
    )


def assert_same_model(found, expected):
    for field in fields(Model):
        if field.name == "history":  # holds seconds
            stages = [[(e["stage"], e.get("log_likelihood")) for e in m.history]
                      for m in (found, expected)]  # fmt: skip
            assert stages[0] == stages[1]
            continue
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.tobytes() == b.tobytes(), field.name
        elif field.name != "frame":
            assert a == b, field.name


def fit_interrupted(options, tasks, path, after):
    """Fit again and again, each time stopped after so many passes; the model and the attempts."""
    compute = execute.Runner.compute_each
    left = 0

    def some(self, *args):
        nonlocal left
        if left == 0:
            raise InterruptionError
        left -= 1
        yield from compute(self, *args)

    for attempt in range(200):
        left = after
        with mock.patch.object(execute.Runner, "compute_each", some):
            try:
                estimator = MixedLinearRegression(random_state=0, **options)
                estimator.fit(tasks, client="sync", checkpoint=path, resume=True)
            except InterruptionError:
                continue
            return estimator.model_, attempt
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 3},
        {"n_components": 3, "assignment": "hard", "clustering": "linkage", "sample_split": True},
        {"n_components": 3, "robust": 0.02},
        {"n_components": "auto"},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_fit_stopped_after_every_pass_is_the_same_fit(overlapping, options, tmp_path):
    expected = MixedLinearRegression(random_state=0, **options).fit(overlapping, client="sync")
    found, attempts = fit_interrupted(options, overlapping, tmp_path / "c", 1)
    assert attempts > 4
    assert_same_model(found, expected.model_)
    assert list(tmp_path.iterdir()) == []


def test_a_wide_fit_too(tmp_path):
    tasks = simulate(
        tmp_path / "tasks.daskmlr",
        n_components=2,
        n_features=40,
        task_groups=[(2000, 4)],
        noise=0.5,
        random_state=0,
    )
    with mock.patch("daskmlr.plan.WIDE_FEATURES", 20):
        expected = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_
        found, attempts = fit_interrupted({"n_components": 2}, tasks, tmp_path / "c", 2)
    assert attempts > 4
    assert_same_model(found, expected)


@pytest.mark.parametrize("client", ["sync", None])
def test_a_long_pass_keeps_its_parts(easy_tasks, client):
    """The same bits whether it was summed at once, in parts, or in parts by two runs."""

    def total(block):
        return float(np.exp(block.y).sum())

    def add(left, right):
        return left + right

    whole = reduce_tasks(easy_tasks, total, add, client=client)
    kept, computed = {}, []
    compute = execute.Runner.compute_each

    def counted(self, build, *rest):
        computed.append(len(build()))
        return compute(self, build, *rest)

    with (
        mock.patch.object(reduce, "LONG_PASS", 4),
        mock.patch.object(execute.Runner, "compute_each", counted),
    ):
        assert reduce_tasks(easy_tasks, total, add, client=client, parts=kept) == whole
        assert sorted(kept) == list(range(computed[0]))
        for missing in (1, 3):
            del kept[missing]
        assert reduce_tasks(easy_tasks, total, add, client=client, parts=kept) == whole
    assert computed == [computed[0], 2]
    assert computed[0] > 4


@pytest.mark.parametrize("n_parts", range(2, 17))
def test_parts_are_combined_as_the_tree_would(easy_tasks, n_parts):
    def join(left, right):
        return f"({left} {right})"

    level = [str(i) for i in range(n_parts)]
    shared = reduce.leaf.pack(easy_tasks, None, join, (), False)
    found = reduce._from_parts(shared, dict(enumerate(level)), range(n_parts))
    while len(level) > 1:
        level = [
            reduce.leaf.combine_sums(shared, level[i : i + 4]) for i in range(0, len(level), 4)
        ]
    assert found == level[0]


def test_a_checkpoint_of_other_data_or_parameters_is_refused(overlapping, easy_tasks, tmp_path):
    path = tmp_path / "c"

    def stopped(k, tasks, seed=0):
        with (
            mock.patch.object(
                execute.Runner, "compute_each", mock.Mock(side_effect=InterruptionError)
            ),
            pytest.raises(InterruptionError),
        ):
            fit(k, tasks, seed)

    def fit(k, tasks, seed=0, resume=True):
        MixedLinearRegression(k, random_state=seed).fit(
            tasks, client="sync", checkpoint=path, resume=resume
        )

    stopped(3, overlapping)
    assert not path.exists()  # there was nothing to keep yet
    with (
        pytest.raises(InterruptionError),
        mock.patch("daskmlr.stages.refine", side_effect=InterruptionError),
    ):
        fit(3, overlapping)
    with pytest.raises(CheckpointError, match="parameter n_components was 3 and is 2"):
        fit(2, overlapping)
    with pytest.raises(CheckpointError, match="parameter random_state was 0 and is 1"):
        fit(3, overlapping, seed=1)
    with pytest.raises(CheckpointError, match="store n_tasks was 1550 and is 3100"):
        fit(3, easy_tasks)
    with (
        mock.patch("daskmlr.record.environment", return_value=dict.fromkeys(DECISIVE, "9.9")),
        pytest.raises(CheckpointError, match=r"code daskmlr was '.*' and is '9\.9'"),
    ):
        fit(3, overlapping)
    with pytest.raises(CheckpointError, match=r"resume it \(--resume, resume=True\), or remove it"):
        fit(3, overlapping, resume=False)
    with pytest.raises(InputError, match="needs an int as random_state"):
        MixedLinearRegression(3).fit(overlapping, client="sync", checkpoint=path)


def test_an_interrupted_command_says_how_to_go_on(overlapping, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MixedLinearRegression, "fit", interrupted)
    command = ["fit", overlapping.path, str(tmp_path / "m.model"), "--n-components", "3"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "The same command with --resume goes on from here." in result.output


KILLED_FIT = [sys.executable, "-m", "daskmlr", "fit", "--n-components", "3", "--json"]


@pytest.mark.parametrize("files", [1, 3, 5])
def test_killed_and_resumed_at_the_command_line(overlapping, tmp_path, files):
    """Killed for good once so many results lie in the checkpoint."""
    expected = MixedLinearRegression(3, random_state=0).fit(overlapping).model_
    model = tmp_path / "m.model"
    command = [*KILLED_FIT, str(overlapping.path), str(model)]
    kept = tmp_path / "m.model.checkpoint"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(list(kept.glob("*.npz"))) < files:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    if not model.exists():  # else it was done before the signal came
        assert (
            "resume it (--resume, resume=True), or remove it"
            in subprocess.run(command, capture_output=True, text=True, check=False).stderr
        )
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)
    assert_same_model(Model.load(model), expected)
    assert not kept.exists()
