"""`deploy/gateway`: read by the real server, which knows every option of it."""

import base64
import inspect
from pathlib import Path

import yaml
from dask_gateway import GatewayCluster
from dask_gateway_server.app import DaskGateway
from dask_gateway_server.auth import JupyterHubAuthenticator
from dask_gateway_server.backends.jobqueue.slurm import SlurmBackend, SlurmClusterConfig
from dask_gateway_server.proxy.core import Proxy

FOLDER = Path(__file__).parents[2] / "deploy" / "gateway"


def test_the_server_takes_the_configuration(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "token")
    key = base64.b64encode(bytes(32)).decode()
    monkeypatch.setenv("DASK_GATEWAY_ENCRYPT_KEYS", key)
    server = DaskGateway()
    server.initialize(["-f", str(FOLDER / "dask_gateway_config.py")])
    assert isinstance(server.authenticator, JupyterHubAuthenticator)
    assert isinstance(server.backend, SlurmBackend)
    assert len(server.backend.db_encrypt_keys) == 1  # which it needs for its file

    classes = (DaskGateway, JupyterHubAuthenticator, Proxy, SlurmBackend, *SlurmClusterConfig.mro())
    known = {each.__name__: each for each in classes}
    for section, options in server.config.items():
        assert set(options) <= set(known[section].class_trait_names(config=True)), section

    limits = SlurmClusterConfig(parent=server.backend)
    assert limits.scheduler_cmd == ["dask", "scheduler"]
    assert limits.worker_cmd == ["dask", "worker"]
    assert limits.worker_memory == 32 * 2**30
    assert limits.cluster_max_workers > 0
    assert limits.idle_timeout > 0
    proxy = Proxy(parent=server)
    assert proxy.tls_cert
    assert proxy.tls_key


def test_options_are_of_the_class():
    options = yaml.safe_load((FOLDER / "options.yaml").read_text())
    assert set(options) <= set(inspect.signature(GatewayCluster).parameters)
    assert options["address"].startswith("https://")
