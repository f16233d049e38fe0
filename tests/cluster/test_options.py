"""What a user may get wrong when naming or starting a Dask cluster."""

import json
import sys

import dask
import pytest
from click.testing import CliRunner

from daskmlr import InputError
from daskmlr.cli import main
from daskmlr.cluster import KINDS, read_address, start_cluster
from daskmlr.cluster.options import read_options
from daskmlr.errors import ClusterError
from tests.cluster.daemons import run_cli


def refuse(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheduler", "sync", "--cluster", "local"), "--scheduler and --cluster exclude each"),
        (("--scheduler-file", "f", "--cluster", "local"), "--scheduler-file and --cluster exclude"),
        (("--scheduler", "sync", "--workers", 2), "--workers needs --cluster"),
        (("--cluster-options", "f.yaml"), "--cluster-options needs --cluster"),
        (("--cluster", "pbs"), "'pbs' is not one of 'local', 'slurm'"),
        (("--wait", "soon"), "'soon' is no time: write a number and a unit, such as 90s"),
        (("--cluster", "slurm"), "--cluster slurm needs --workers N"),
        (("--cluster", "gateway"), "--cluster gateway needs --workers N"),
        (("--cluster", "ssh", "--workers", 2), "`hosts` in --cluster-options names"),
        (("--cluster", "ssh"), "SSHCluster did not start: ValueError: `hosts` must be a non empty"),
        (("--cluster", "local", "--cluster-options", "/no.yaml"), "/no.yaml is no YAML file"),
    ],
)
def test_options_that_cannot_be(store, tmp_path, options, message):
    said = refuse("fit", store, tmp_path / "model", "--n-components", 3, *options)
    assert message in said
    assert not (tmp_path / "model").exists()


def test_every_kind_can_be_asked_for():
    option = next(p for p in main.commands["fit"].params if p.name == "cluster")
    assert sorted(option.type.choices) == sorted(KINDS)


@pytest.mark.parametrize("command", ["fit", "assign", "update", "intervals", "demo"])
def test_what_computes_takes_the_options(command):
    names = {p.name for p in main.commands[command].params}
    assert {"scheduler", "scheduler_file", "cluster", "workers", "cluster_options"} <= names


@pytest.mark.parametrize("kind", ["slurm", "kubernetes", "gateway"])
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, KINDS[kind].module, None)
    with (
        pytest.raises(
            ClusterError, match=rf"--cluster {kind} needs .*pip install 'daskmlr\[{kind}"
        ),
        start_cluster(kind, n_workers=1, options=None, wait=1),
    ):
        pass


def test_local_without_cryptography_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with (
        pytest.raises(ClusterError, match=r"pip install 'daskmlr\[tls\]'"),
        start_cluster("local", n_workers=1, options=None, wait=1),
    ):
        pass


def test_options_that_the_class_does_not_know(tmp_path):
    options = tmp_path / "options.yaml"
    options.write_text("colour: red\nprotocol: tcp://\n")
    with (
        pytest.raises(ClusterError, match=r"distributed.LocalCluster did not start: .*colour"),
        start_cluster("local", n_workers=1, options=options, wait=30),
    ):
        pass


def test_a_kubernetes_that_is_not_there(store, tmp_path):
    done = run_cli(
        "fit", store, tmp_path / "model", "--n-components", 3, "--cluster", "kubernetes",
        cwd=tmp_path, KUBECONFIG=str(tmp_path / "none"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Error: dask_kubernetes.operator.KubeCluster did not start: " in done.stderr


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [", "\x00"])
def test_yaml_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"options\.yaml (must hold|is no YAML)"):
        read_options(path)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "does not exist"), ("{}", "names no"), ("[]", "names no")]
)
def test_a_scheduler_file_that_is_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=f"is no file of a Dask scheduler: it {message}"):
        read_address(tmp_path / "s.json", wait=0.1)


def test_a_scheduler_file_is_waited_for(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"address": "tcp://host:8786"}))
    assert read_address(path, wait=1) == "tcp://host:8786"


def test_a_cluster_without_workers_is_an_error(tmp_path):
    options = tmp_path / "options.yaml"
    options.write_text("n_workers: 0\nprotocol: tcp://\n")
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        pytest.raises(ClusterError, match=r"no worker of LocalCluster came \(waited 1 s; --wait"),
        start_cluster("local", n_workers=None, options=options, wait=1),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "scaled"), [({}, []), ({"custom_cluster_spec": "cluster.yaml"}, [3])]
)
def test_workers_go_before_the_number_in_a_specification(options, scaled):
    """KubeCluster takes no notice of `n_workers` beside a specification of its own."""
    asked = []

    class Cluster:
        def __init__(self, **arguments):
            assert arguments == {"quiet": True, "n_workers": 3, **options}

        def scale(self, number):
            asked.append(number)

    KINDS["kubernetes"].start(Cluster, options, 3, None)
    assert asked == scaled
