"""A dask-gateway server of its own, whose clusters are processes of this machine."""

import sys

import pytest
import yaml

from daskmlr.cluster import start_cluster
from daskmlr.errors import ClusterError
from tests.cluster.daemons import SOURCE, daemon, free_port, wait_until

CONFIG = """
import sys

c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.address = "127.0.0.1:{private}"
c.Proxy.address = "127.0.0.1:{public}"
c.Proxy.tcp_address = "127.0.0.1:{tcp}"
c.LocalClusterConfig.scheduler_cmd = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
c.LocalClusterConfig.worker_cmd = [sys.executable, "-m", "distributed.cli.dask_worker"]
c.LocalClusterConfig.worker_cores = 1
c.LocalClusterConfig.environment = {{"PYTHONPATH": "{source}"}}
c.UnsafeLocalBackend.clusters_directory = "{folder}"
c.UnsafeLocalBackend.check_timeouts_period = 1
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Start a server; return the file of options that finds it."""
    folder = tmp_path_factory.mktemp("gateway")
    ports = {name: free_port() for name in ("private", "public", "tcp")}
    (folder / "config.py").write_text(CONFIG.format(folder=folder, source=SOURCE, **ports))
    command = (sys.executable, "-m", "dask_gateway_server", "-f", folder / "config.py")
    path = folder / "gateway.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "address": f"http://127.0.0.1:{ports['public']}",
                "proxy_address": f"gateway://127.0.0.1:{ports['tcp']}",
                "auth": "basic",
            }
        )
    )
    log = folder / "server.log"
    with daemon(command, log):
        wait_until(lambda: "Dask-Gateway server started" in log.read_text(), what="a gateway")
        yield path


@pytest.mark.timeout(300)  # starts a Dask cluster twice
def test_the_same_bits(options, same_bits):
    same_bits("--cluster", "gateway", "--workers", 2, "--cluster-options", options)


def test_a_gateway_that_is_not_there(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text(f"address: http://127.0.0.1:{free_port()}\n")
    with (
        pytest.raises(ClusterError, match=r"GatewayCluster did not start: .*[Cc]onnect"),
        start_cluster("gateway", n_workers=1, options=path, wait=10),
    ):
        pass
