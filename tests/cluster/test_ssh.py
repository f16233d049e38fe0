"""Scheduler and workers on a host that SSH reaches: a real sshd, with keys of its own."""

import json
import shutil
from pathlib import Path

import asyncssh
import pytest
import yaml

from daskmlr.cluster import start_cluster
from daskmlr.errors import ClusterError
from tests.cluster.daemons import SOURCE, daemon, free_port, wait_until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(SSHD is None, reason="needs sshd: apt install openssh-server")

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
SetEnv PYTHONPATH={source}
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Start an sshd; return the options of a cluster on it: a scheduler and two workers."""
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    Path("/run/sshd").mkdir(exist_ok=True)  # of an sshd that is root's, else unused
    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
        key.write_public_key(folder / f"{name}.pub")
    known = f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}"
    (folder / "known_hosts").write_text(known)
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder, source=SOURCE))
    with daemon((SSHD, "-D", "-e", "-f", folder / "sshd_config"), folder / "sshd.log"):
        wait_until(lambda: "listening" in (folder / "sshd.log").read_text(), what="an sshd")
        yield {
            "hosts": ["127.0.0.1"] * 3,
            "connect_options": {
                "port": port,
                "client_keys": str(folder / "user"),
                "known_hosts": str(folder / "known_hosts"),
            },
            "scheduler_options": {"host": "127.0.0.1", "port": 0},
            "worker_options": {"host": "127.0.0.1", "nthreads": 1},
        }


def written(options, folder):
    path = folder / "ssh.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


@pytest.mark.timeout(300)  # starts a Dask cluster twice
def test_the_same_bits(options, same_bits, tmp_path):
    same_bits("--cluster", "ssh", "--cluster-options", written(options, tmp_path))


def test_it_is_encrypted_by_a_key_of_its_own_that_goes_with_it(options, tmp_path):
    with start_cluster(
        "ssh", n_workers=None, options=written(options, tmp_path), wait=60
    ) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        client.wait_for_workers(2, timeout=60)
        assert all(worker.startswith("tls://127.0.0.1:") for worker in client.nthreads())
        used = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.security.tls_ca_file)
        file = Path(used)
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        command_lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not any(b"PRIVATE KEY" in line for line in command_lines)
        assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert not file.parent.exists()


def test_a_key_that_is_not_let_in(options, tmp_path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    wrong = json.loads(json.dumps(options))
    wrong["connect_options"]["client_keys"] = str(tmp_path / "other")
    with (
        pytest.raises(ClusterError, match=r"SSH to 127.0.0.1 failed: Permission denied"),
        start_cluster("ssh", n_workers=None, options=written(wrong, tmp_path), wait=20),
    ):
        pass
