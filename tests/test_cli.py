"""The command line, as a process runs it: output, exit codes, nothing half-written."""

import json
import os
import re
import shutil
import subprocess
import sys

import dask
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskmlr import create_tasks, load_truth, open_tasks
from daskmlr.cli import main
from daskmlr.kernels.metrics import match_components
from daskmlr.storage.rows import read_column

COMMANDS = (
    "demo", "simulate", "ingest", "info", "plan", "fit", "assign", "predict", "intervals", "update",
    "report", "append",
)  # fmt: skip


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def succeed(*args):
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result


def refuse(*args):
    """Run a command that must fail; return what it said."""
    result = run(*args)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store and a model, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    succeed(
        "simulate", folder / "tasks", "--tasks", 2000, "--size", "1:9", "--n-components", 2,
        "--n-features", 3, "--noise", 0.2, "--seed", 3, "--heavy-tasks", 50,
        "--block-bytes", 20_000,
    )  # fmt: skip
    succeed("fit", folder / "tasks", folder / "model", "--n-components", 2, "--scheduler", "sync")
    return folder


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command):
    result = succeed(*([command] if command else []), "--help")
    assert "Usage:" in result.output


def test_version():
    assert "0.1.0" in succeed("--version").output


def test_the_installed_command_is_quiet_in_a_pipe(folder, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "daskmlr", "fit", folder / "tasks", tmp_path / "model",
         "--n-components", "2", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    assert facts["converged"]
    assert len(facts["components"]) == 2


def test_demo():
    facts = json.loads(succeed("demo", "--json", "--scheduler", "threads").output)
    assert facts["tasks"] == 101_000
    assert facts["accuracy"] > facts["oracle_accuracy"] - 0.005
    assert facts["largest_coefficient_error"] < 0.03


def test_info_counts(folder):
    facts = json.loads(succeed("info", folder / "tasks", "--json", "--validate").output)
    sizes = open_tasks(folder / "tasks").task_sizes()
    assert facts["tasks"] == 2050
    assert facts["tasks_with_one_example"] == np.count_nonzero(sizes == 1) > 0
    assert facts["task_size"]["max"] == 32
    assert facts["tasks_at_least"]["4"] == np.count_nonzero(sizes >= 4)
    text = succeed("info", folder / "tasks").output
    assert "2,050" in text
    assert "met by tasks of" in text


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
def test_assign(folder, tmp_path, suffix):
    out = tmp_path / f"labels{suffix}"
    result = succeed("assign", folder / "model", folder / "tasks", out, "--json")
    said = json.loads(result.output)
    assert said["tasks"] == 2050
    assert said["odd_tasks"] == 0  # every task follows the model
    assert said["odd_p_value"] is None
    assert out.is_dir()
    text = succeed("assign", folder / "model", folder / "tasks", tmp_path / f"2{suffix}").output
    assert "No task is odd: each is explained by a component (false discovery rate 0.01)." in text


def test_intervals(folder):
    truth, _ = load_truth(folder / "tasks")
    command = ("intervals", folder / "model", folder / "tasks", "--scheduler", "sync")
    facts = json.loads(succeed(*command, "--level", 0.999, "--json").output)
    assert (facts["level"], facts["kind"], facts["tasks"]) == (0.999, "sandwich", 2050)
    found = [[c["coef"][f"x{j}"]["value"] for j in range(3)] for c in facts["components"]]
    for planted, i in enumerate(match_components(found, truth.coef)):
        for j, entry in enumerate(facts["components"][i]["coef"].values()):
            assert entry["low"] < truth.coef[planted, j] < entry["high"]
    shown = succeed(*command, "--kind", "observed").output
    assert "95 % confidence intervals (observed)" in shown
    assert f"{found[1][2]:.4g}" in shown
    assert "share of tasks" in shown
    assert "weight" not in shown  # as a feature may be called


def test_a_level_that_is_no_probability(folder):
    said = refuse("intervals", folder / "model", folder / "tasks", "--level", 95)
    assert "between 0 and 1, such as 0.95, got 95" in said


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
def test_assign_counts_the_odd_tasks(folder, tmp_path, suffix):
    tasks = open_tasks(folder / "tasks")
    with create_tasks(tmp_path / "odd", feature_names=tasks.feature_names) as writer:
        for block in map(tasks.read_block, range(tasks.n_blocks)):
            places = block.first_task + np.arange(block.n_tasks)
            y = block.y + np.repeat(np.where(places % 50 == 0, 30, 0), block.sizes)
            writer.write(block.X, y, block.sizes, places)
    out = tmp_path / f"labels{suffix}"
    arguments = ("assign", folder / "model", tmp_path / "odd", out, "--odd-rate", 0.001)
    text = succeed(*arguments).output
    assert "41 tasks are odd, explained by no component" in text
    assert "false discovery rate 0.001" in text
    listed = np.concatenate(list(read_column(out, "p_value"))) <= 1e-6
    assert np.flatnonzero(listed).tolist() == list(range(0, 2050, 50))


def test_a_robust_fit_says_how_many_tasks_it_left_out(folder, tmp_path):
    arguments = ("--n-components", 2, "--robust", 0.05, "--scheduler", "sync", "--json")
    said = json.loads(succeed("fit", folder / "tasks", tmp_path / "m", *arguments).output)
    assert [s["left_out"] for s in said["stages"] if s["stage"] == "odd"][-1] == 0
    text = refuse("fit", folder / "tasks", tmp_path / "n", "--n-components", 2, "--robust", 0.7)
    assert "robust bounds the corrupted share and must be between 0 and 0.5, got 0.7" in text


def test_a_log_has_a_json_line_for_each_stage_and_pass(folder, tmp_path):
    log = tmp_path / "run.jsonl"
    k = ("--n-components", 2, "--scheduler", "sync")
    fitted = succeed("--log-json", log, "fit", folder / "tasks", tmp_path / "m", *k, "--json")
    refuse("--log-json", log, "fit", folder / "tasks", tmp_path / "m", *k)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first = [line for line in lines if line["run"] == lines[0]["run"]]
    done = [line for line in first if line["event"] == "pass"]
    passes = [line["pass"] for line in done]
    assert passes[:2] == ["moments", "project"]
    assert passes[-1] == "diagnose"
    assert all(line["bytes"] > 0 and line["seconds"] > 0 for line in done)
    best = [line["log_likelihood"] for line in first if line.get("stage") == "refine"][-1]
    assert best == json.loads(fitted.stdout)["log_likelihood"]
    assert lines[-1]["event"] == "error"
    assert lines[-1]["kind"] == "PathExistsError"
    assert lines[-1]["run"] != lines[0]["run"]


def test_a_terminal_sees_progress(folder, tmp_path):
    """Under a pseudo-terminal there are bars, and the address of the page."""
    command = (
        f"{sys.executable} -m daskmlr fit {folder / 'tasks'} {tmp_path / 'm'} --n-components 2"
    )
    shown = subprocess.run(
        [shutil.which("script") or "script", "-qec", command, "/dev/null"],
        capture_output=True, text=True, check=True, env={"TERM": "xterm", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\]8;.*?\x1b\\", "", shown.stdout)
    assert re.search(r"Live page: http://127\.0\.0\.1:\d+/daskmlr\b", plain)
    assert re.search(r"moments \(k = 2\) +━+ (\d+)/\1 \d[\d.]* \w*B/s", plain)
    assert re.search(r"refine \d+ \(k = 2\) +━+ (\d+)/\1 \d[\d.]* \w*B/s", plain)
    assert re.search(r"cluster \(k = 2\) +━+ 1/1", plain)


def write(path, X, sizes, names=None, **options):
    rng = np.random.default_rng(0)
    names = names or [f"x{j}" for j in range(X.shape[1])]
    with create_tasks(path, feature_names=names, **options) as writer:
        writer.write(X, rng.normal(size=len(X)), sizes)
    return path


class TestBadInput:
    """What a user may get wrong: a message that names it, status not zero, nothing left."""

    @pytest.fixture
    def X(self):  # noqa: N802 - the covariates, as everywhere
        return np.random.default_rng(1).normal(size=(60, 3))

    def refused_fit(self, store, tmp_path, *options):
        said = refuse("fit", store, tmp_path / "model", *(options or ("--n-components", 2)))
        assert not (tmp_path / "model").exists()
        assert "Traceback" not in said
        return said

    def test_no_task_with_two_examples(self, X, tmp_path):
        store = write(tmp_path / "t", X, np.ones(60, int))
        assert "no task has two examples or more (60 tasks" in self.refused_fit(store, tmp_path)

    def test_a_constant_feature(self, X, tmp_path):
        X[:, 1] = 7.5
        store = write(tmp_path / "t", X, np.full(20, 3), ["age", "height", "size"])
        assert "1 of 3 features never vary: 'height'" in self.refused_fit(store, tmp_path)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_collinear_features(self, X, tmp_path, dtype):
        X[:, 2] = 3 * X[:, 0] + 100
        store = write(tmp_path / "t", X, np.full(20, 3), ["a", "b", "c"], dtype=dtype)
        assert "features 'a', 'c' are collinear" in self.refused_fit(store, tmp_path)

    def test_a_constant_target(self, X, tmp_path):
        with create_tasks(tmp_path / "t", feature_names=["a", "b", "c"]) as writer:
            writer.write(X, np.full(60, 2.5), np.full(20, 3))
        assert "target 'y' is 2.5 in every example" in self.refused_fit(tmp_path / "t", tmp_path)

    def test_fewer_examples_than_features(self, X, tmp_path):
        store = write(tmp_path / "t", X[:3], [3])
        said = self.refused_fit(store, tmp_path, "--n-components", 1)
        assert "3 features need more than 3 examples" in said

    @pytest.mark.parametrize(
        ("k", "message"), [(0, "at least 1, got 0"), (21, "more than the 20 tasks")]
    )
    def test_a_number_of_components_that_cannot_be(self, X, tmp_path, k, message):
        store = write(tmp_path / "t", X, np.full(20, 3))
        assert message in self.refused_fit(store, tmp_path, "--n-components", k)

    def test_a_number_of_components_in_words(self, tmp_path):
        said = self.refused_fit(tmp_path, tmp_path, "--n-components", "three")
        assert "wanted a number of components or auto, got 'three'" in said

    def test_tasks_of_one_example_are_kept_for_assignment_only(self, tmp_path):
        X = np.random.default_rng(1).normal(size=(400, 3))
        store = write(tmp_path / "t", X, [1] * 100 + [3] * 100)
        facts = json.loads(succeed("info", store, "--json").output)
        assert facts["tasks_with_one_example"] == 100
        succeed("fit", store, tmp_path / "m", "--n-components", 1)
        succeed("assign", tmp_path / "m", store, tmp_path / "labels.parquet")
        assert len(pd.read_parquet(tmp_path / "labels.parquet")) == 200

    def test_a_model_of_other_features(self, folder, X, tmp_path):
        store = write(tmp_path / "t", X, np.full(20, 3), ["a", "b", "c"])
        said = refuse("assign", folder / "model", store, tmp_path / "labels.parquet")
        assert "lacks ['x0', 'x1', 'x2'] and has ['a', 'b', 'c']" in said.replace("\n", " ")
        assert not (tmp_path / "labels.parquet").exists()

    def test_output_that_exists(self, folder):
        for command in (
            ("simulate", folder / "tasks"),
            ("fit", folder / "tasks", folder / "model", "--n-components", 2),
            ("assign", folder / "model", folder / "tasks", folder / "tasks"),
        ):
            assert "exists" in refuse(*command)
        open_tasks(folder / "tasks").validate(deep=True)

    def test_nothing_there(self, folder, tmp_path):
        assert "no task store at" in refuse("info", tmp_path / "nothing")
        assert "no model at" in refuse(
            "assign", tmp_path / "nothing", folder / "tasks", tmp_path / "out.parquet"
        )

    @pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
    def test_a_damaged_chunk(self, folder, tmp_path, harm):
        store = tmp_path / "t"
        shutil.copytree(folder / "tasks", store)
        chunk = store / "x" / "c" / "2" / "0"
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        if harm == "remove":
            chunk.unlink()
        else:
            chunk.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
        said = self.refused_fit(store, tmp_path)
        assert "block 2" in said or "chunk 2" in said
        assert refuse("info", store, "--validate")

    def test_a_store_whose_writer_was_killed(self, tmp_path):
        import zarr

        zarr.create_group(tmp_path / "t", zarr_format=3)
        assert "its writer" in refuse("info", tmp_path / "t")
        assert "its writer" in self.refused_fit(tmp_path / "t", tmp_path)

    def test_a_size_that_is_none(self, tmp_path):
        assert "got 'many'" in refuse("simulate", tmp_path / "t", "--size", "many")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fit model tasks --n-components 2",
         "model is a model, a task store is wanted: write one with daskmlr ingest. tasks is a task "
         "store: the order is STORE MODEL"),
        ("report tasks new.html", "tasks is a task store, a model is wanted: fit one with"),
        ("report shops.csv new.html", "shops.csv is a file, a model is wanted: fit one with"),
        ("fit new tasks --n-components 2", "tasks is a task store: the order is STORE MODEL"),
        ("fit tasks tasks --n-components 2",
         "tasks exists and is a task store: choose another path for the output, and check"),
        ("assign tasks model out.parquet", "model is a model: the order is MODEL STORE OUT"),
        ("update tasks model out", "model is a model: the order is MODEL STORE OUT"),
        ("intervals tasks model", "model is a model: the order is MODEL STORE"),
        ("predict out.csv model --support a.csv --query b.csv",
         "model is a model: the order is MODEL OUT"),
        ("ingest out shops.csv --task a --target b",
         "shops.csv exists and is a file: choose another path for the output, and check"),
    ],
)  # fmt: skip
def test_swapped_arguments_are_said(folder, tmp_path, monkeypatch, command, said):
    for name in ("tasks", "model"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "shops.csv").write_text("a,b,c\n1,2,3\n")
    monkeypatch.chdir(tmp_path)
    output = refuse(*command.split())
    assert said in output.replace("\n", " ").replace(f"{tmp_path}/", "")
    assert "delete" not in output


def test_a_scheduler_that_is_not_there(folder, tmp_path):
    arguments = ("--n-components", 2, "--scheduler", "tcp://127.0.0.1:9")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        said = refuse("fit", folder / "tasks", tmp_path / "model", *arguments)
    assert "no Dask scheduler answers at tcp://127.0.0.1:9 (tried for 1 s): check that it" in said
    said = refuse("fit", folder / "tasks", tmp_path / "model", *arguments[:-1], "tcp:/host:8786")
    assert "no Dask scheduler answers at tcp:/host:8786" in said
    assert not (tmp_path / "model").exists()


def test_a_reader_that_has_enough_is_no_error(folder):
    """`daskmlr ... | head`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "daskmlr", "info", folder / "tasks", "--json"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert result.stderr == ""


def test_ingest_prints_the_first_facts_and_the_reference_levels(tmp_path):
    rng = np.random.default_rng(0)
    heat, sky = rng.normal(size=300), np.tile(["blue", "grey", "red"], 100)
    table = pd.DataFrame({"shop": np.repeat(np.arange(60), 5), "sky": sky, "heat": heat})
    table.assign(sold=2 * heat + rng.normal(size=300)).to_csv(tmp_path / "shops.csv")
    columns = ("--task", "shop", "--target", "sold", "--features", "sky,heat")
    said = succeed("ingest", tmp_path / "shops.csv", tmp_path / "t", *columns).output
    assert "sky=blue" in said
    assert "at least t examples" not in said
    full = " ".join(succeed("info", tmp_path / "t").output.split())
    assert "Tasks with at least t examples" in full
    assert "fit --n-components auto answers it" in full
    fitted = succeed("fit", tmp_path / "t", tmp_path / "m", "--n-components", 1)
    assert "The intercept is that of sky=blue" in fitted.output


def test_an_automatic_number_of_components_shows_its_trials(folder, tmp_path):
    arguments = ("--n-components", "auto", "--scheduler", "sync")
    shown = succeed("fit", folder / "tasks", tmp_path / "auto", *arguments).output
    assert "Number of components" in shown
    assert "smallest BIC" in shown
    assert "Spectrum" in shown


def test_an_update_counts_only_the_new_tasks(folder, tmp_path):
    tasks = open_tasks(folder / "tasks")
    with create_tasks(tmp_path / "new", feature_names=tasks.feature_names) as writer:
        block = tasks.read_block(0)
        writer.write(block.X, block.y, block.sizes)
    arguments = ("update", folder / "model", tmp_path / "new", tmp_path / "after")
    shown = succeed(*arguments, "--scheduler", "sync").output
    assert f"{block.n_tasks:,} new tasks, {tasks.n_tasks + block.n_tasks:,} in all" in shown
    assert "has no new tasks" in refuse(
        "update", folder / "model", folder / "tasks", tmp_path / "again"
    )
