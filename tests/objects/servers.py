"""Real S3 servers on this machine: SeaweedFS, which checks keys, and moto, which takes any."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(sysconfig.get_path("scripts"))
START_SECONDS = 60
# What a process needs to know of a server.
VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)


@dataclass(frozen=True)
class Server:
    """A server, and what opens it."""

    endpoint: str
    key: str = field(default_factory=lambda: f"key{secrets.token_hex(8)}")
    secret: str = field(default_factory=lambda: f"secret{secrets.token_hex(16)}")

    def environment(self, **changes: str | None) -> dict[str, str]:
        """Return the environment of a process that uses the server."""
        values = (self.endpoint, "true", "us-east-1", self.key, self.secret)
        own = {**os.environ, **dict(zip(VARIABLES, values, strict=True)), **changes}
        return {name: value for name, value in own.items() if value is not None}

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its URL."""
        from botocore.session import get_session

        client = get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}"


def missing() -> str | None:
    """Say what must be installed for the servers, if anything."""
    absent = [name for name in ("weed", "moto_server") if not (SCRIPTS / name).exists()]
    return f"needs {', '.join(absent)}: pip install 'daskmlr[test]'" if absent else None


@contextmanager
def seaweed() -> Iterator[Server]:
    """Run SeaweedFS."""
    port, master, volume, filer = _free_ports(4)
    server = Server(f"http://127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="seaweed-", ignore_cleanup_errors=True) as folder:
        command = [
            SCRIPTS / "weed",
            "-logtostderr=true",
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={port}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]
        with _running(command, server, Path(folder, "log")):
            yield server


@contextmanager
def moto() -> Iterator[Server]:
    """Run moto."""
    (port,) = _free_ports(1)
    server = Server(f"http://127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="moto-") as folder:
        command = [SCRIPTS / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
        with _running(command, server, Path(folder, "log")):
            yield server


@contextmanager
def _running(command: list[object], server: Server, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=server.environment(),
        )
    try:
        _wait_for(server.endpoint, process, log)
        yield
    finally:
        process.kill()  # it would take its time to put in order what is thrown away
        process.wait()


def _wait_for(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} did not start:\n{log.read_text()[-2000:]}")


def _free_ports(number: int) -> list[int]:
    # SeaweedFS adds 10,000 to some of them
    bound = []
    while len(bound) < number:
        taken = socket.socket()
        try:
            taken.bind(("127.0.0.1", secrets.randbelow(20000) + 20000))
        except OSError:
            taken.close()
        else:
            bound.append(taken)
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports
