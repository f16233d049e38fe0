"""`deploy/compose`: valid, closed, and its commands do what they should."""

import subprocess
import sys
from pathlib import Path

import yaml

from daskmlr import MixedLinearRegression, Model, simulate
from tests.benchmarks.bitwise import different
from tests.deploy.containers import containers
from tests.deploy.slurm import free_port

FILE = Path(__file__).parents[2] / "deploy" / "compose" / "docker-compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]


def test_it_keeps_to_the_specification():
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_services_name_is_there():
    folder = FILE.parent
    for service in SERVICES.values():
        assert (folder / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert all("healthcheck" in SERVICES[name] for name in service.get("depends_on", {}))


def test_nobody_else_gets_in():
    assert COMPOSE["networks"]["dask"]["internal"]
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["deploy"]["resources"]["limits"]["memory"]


def test_the_commands_fit(tmp_path):
    tasks = simulate(
        tmp_path / "trips.daskmlr", n_components=2, n_features=3, task_groups=[(3000, 6)],
        random_state=0, block_bytes=40 * 1500,
    )  # fmt: skip
    here = {
        "/data/": f"{tmp_path}/",
        "tcp://scheduler:": "tcp://127.0.0.1:",
        **{port: free_port() for port in ("8786", "8787", "8788")},
        "address=:": "address=127.0.0.1:",
        "/tmp$": tmp_path,
        "=auto": "=2",
    }
    with containers(here, tmp_path) as on_this_machine:
        for name in ("scheduler", "worker"):
            on_this_machine.start(name, SERVICES[name]["command"])
            on_this_machine.wait_until_healthy(name, SERVICES[name]["healthcheck"]["test"][1:])
        done = on_this_machine.run(SERVICES["fit"]["command"])
        assert done.returncode == 0, done.stderr
    alone = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_
    assert not different(alone, Model.load(tmp_path / "trips.model"))
