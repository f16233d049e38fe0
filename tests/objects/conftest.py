"""Servers that the tests of object stores share."""

import secrets

import pytest

from tests.objects import servers


@pytest.fixture(scope="session")
def seaweed():
    """SeaweedFS."""
    if reason := servers.missing():
        pytest.skip(reason)
    with servers.seaweed() as server:
        yield server


@pytest.fixture(scope="session")
def moto():
    """A server that takes any key."""
    if reason := servers.missing():
        pytest.skip(reason)
    with servers.moto() as server:
        yield server


@pytest.fixture(params=["seaweed", "moto"])
def server(request):
    """Each server in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def use(monkeypatch):
    """Give this process the environment of a server."""

    def give(server, **changes):
        environment = server.environment(**changes)
        for name in servers.VARIABLES:
            monkeypatch.delenv(name, raising=False)
            if name in environment:
                monkeypatch.setenv(name, environment[name])

    return give


@pytest.fixture
def bucket(server, use):
    """URL of a new bucket; this process has the keys."""
    use(server)
    return server.make_bucket(f"test-{secrets.token_hex(4)}")
