"""Encrypted clusters: the right certificate gets the same bits, all others get nothing."""

import datetime as dt
import socket
import ssl

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask.system import CPU_COUNT
from distributed import Client, Security

from daskmlr import InputError
from daskmlr.cluster import start_cluster
from daskmlr.graph.execute import connect
from tests.cluster.daemons import address, run_cli, scheduler, worker

DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority that writes its own certificate and those it signs as PEM files."""

    def __init__(self, folder, name):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._folder = folder
        self.file = self._write(f"{name}.pem", self._signed(self._name, self._key, True))

    def sign(self, name, *, days=1):
        """Write a key and its certificate to one file; with days below 0, it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(f"{name}.pem", self._signed(subject, key, False, days), key)

    def _signed(self, subject, key, is_authority, days=1):
        until = dt.datetime.now(dt.UTC) + days * DAY
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 10 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name, certificate, key=None):
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        if key is not None:
            pem += key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        path = self._folder / name
        path.write_bytes(pem)
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def encrypted(authority, tmp_path_factory):
    """A scheduler and two workers that speak TLS alone; its scheduler file."""
    daemons = ("--protocol", "tls", "--tls-ca-file", authority.file, "--tls-cert")
    folder = tmp_path_factory.mktemp("encrypted")
    for_workers = (*daemons, authority.sign("worker"))
    with (
        scheduler(folder, *daemons, authority.sign("scheduler")) as file,
        worker(file, "one", *for_workers),
        worker(file, "two", *for_workers),
    ):
        yield file


def configured(authority_file, certificate):
    """Return certificates as Dask's configuration takes them from the environment."""
    names = {"CA_FILE": authority_file, "CLIENT__CERT": certificate}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in names.items()}


@pytest.mark.timeout(300)  # starts a Dask cluster twice
def test_certificates_of_the_configuration_give_the_same_bits(encrypted, authority, same_bits):
    ours = configured(authority.file, authority.sign("client"))
    same_bits("--scheduler-file", encrypted, **ours)


@pytest.mark.parametrize("kind", ["plain", "none", "foreign", "expired"])
def test_four_kinds_of_clients_are_refused(encrypted, authority, store, tmp_path, kind):
    where, log = address(encrypted), encrypted.with_name("scheduler.log")
    certificates = {
        "plain": {},
        "none": {},
        "foreign": configured(authority.file, Authority(tmp_path, "theirs").sign("intruder")),
        "expired": configured(authority.file, authority.sign("late", days=-1)),
    }
    seen = len(log.read_text())
    done = run_cli(
        "fit", store, tmp_path / "model", "--n-components", 3, "--scheduler",
        where.replace("tls:", "tcp:") if kind == "plain" else where,
        cwd=tmp_path, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="4s", **certificates[kind],
    )  # fmt: skip
    assert done.returncode == 1
    assert f"no Dask scheduler answers at t{'cp' if kind == 'plain' else 'ls'}://" in done.stderr
    assert "distributed.comm.tls" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
    if kind != "none":  # Dask's own client does not even ask without one
        assert "TLS handshake failed" in log.read_text()[seen:]


def test_the_scheduler_itself_asks_for_a_certificate(encrypted):
    """No client's good manners: a bare TLS connection that trusts whatever it meets."""
    host, port = address(encrypted).removeprefix("tls://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.recv(1)


class TestLocal:
    """Processes of this machine."""

    @pytest.mark.timeout(300)  # starts a Dask cluster twice
    def test_the_same_bits(self, same_bits):
        same_bits("--cluster", "local", "--workers", 2)

    def test_it_is_encrypted_and_on_the_loopback(self):
        with start_cluster("local", n_workers=1, options=None, wait=60) as client:
            where = client.scheduler.address
            assert where.startswith("tls://127.0.0.1:")
            assert client.dashboard_link.startswith("http://127.0.0.1:")
            assert all(w.startswith("tls://127.0.0.1:") for w in client.nthreads())
            with (
                dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
                pytest.raises(InputError, match="no Dask scheduler answers"),
                connect(where.replace("tls:", "tcp:")),
            ):
                pass
            with pytest.raises(OSError, match="certificate"):  # of another run
                Client(where, security=Security.temporary(), timeout=2, set_as_default=False)

    def test_unless_the_options_say_otherwise(self, tmp_path):
        options = tmp_path / "options.yaml"
        options.write_text("protocol: tcp://\nthreads_per_worker: 3\n")
        with start_cluster("local", n_workers=1, options=options, wait=60) as client:
            assert client.scheduler.address.startswith("tcp://127.0.0.1:")
            assert list(client.nthreads().values()) == [3]

    def test_workers_share_the_memory_of_the_job(self, tmp_path, monkeypatch):
        monkeypatch.setattr("daskmlr.cluster.memory_limit", lambda: 3 << 30)
        options = tmp_path / "options.yaml"
        for text, n_workers, limits in (
            ("{}", 3, [1 << 30] * 3),
            ("n_workers: 2", None, [3 << 29] * 2),
            (f"threads_per_worker: {CPU_COUNT}", None, [3 << 30]),
            ("memory_limit: 1GiB", 2, [1 << 30] * 2),
        ):
            options.write_text(text)
            with start_cluster("local", n_workers=n_workers, options=options, wait=60) as client:
                client.wait_for_workers(len(limits))
                workers = client.scheduler_info(n_workers=-1)["workers"].values()
                assert [worker["memory_limit"] for worker in workers] == limits

    def test_security_can_be_asked_for_in_words(self, tmp_path):
        options = tmp_path / "options.yaml"
        for text, protocol in (("security: true", "tls"), ("security: false", "tcp")):
            options.write_text(text)
            with start_cluster("local", n_workers=1, options=options, wait=60) as client:
                assert client.scheduler.address.startswith(f"{protocol}://127.0.0.1:")

    def test_files_of_the_configuration_come_first(self, authority):
        files = {"ca-file": authority.file}
        for role in ("client", "scheduler", "worker"):
            files |= {f"{role}.cert": authority.sign(role)}
        with (
            dask.config.set({f"distributed.comm.tls.{name}": at for name, at in files.items()}),
            start_cluster("local", n_workers=1, options=None, wait=60) as client,
            Client(client.scheduler.address, timeout=10, set_as_default=False) as second,
        ):
            assert second.submit(int, 3).result() == 3
