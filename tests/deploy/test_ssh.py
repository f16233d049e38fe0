"""`deploy/ssh/hosts.yaml` names options that the classes behind it have."""

import inspect
from pathlib import Path

import asyncssh
import yaml
from distributed import Nanny, Scheduler, SSHCluster, Worker
from distributed.core import Server

HOSTS = Path(__file__).parents[2] / "deploy" / "ssh" / "hosts.yaml"


def parameters(*callables):
    return {name for each in callables for name in inspect.signature(each).parameters}


def test_every_option_is_one():
    options = yaml.safe_load(HOSTS.read_text())
    assert len(options["hosts"]) >= 2
    assert set(options) <= parameters(SSHCluster)
    assert set(options["scheduler_options"]) <= parameters(Scheduler, Server)
    assert set(options["worker_options"]) <= parameters(Nanny, Worker)
    assert asyncssh.SSHClientConnectionOptions(**options["connect_options"]).username == "me"


def test_dashboards_listen_on_the_loopback():
    options = yaml.safe_load(HOSTS.read_text())
    for role in ("scheduler_options", "worker_options"):
        assert options[role]["dashboard_address"].startswith("127.0.0.1:")
