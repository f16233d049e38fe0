"""A location: the same operations on a folder and on object stores, and the errors of servers."""

import pickle
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from daskmlr.errors import AccessError, InputError
from daskmlr.storage import clients
from daskmlr.storage.location import locate


@pytest.fixture(params=["folder", "file url", "seaweed", "moto"])
def place(request, tmp_path, use):
    if request.param == "folder":
        return locate(tmp_path / "here")
    if request.param == "file url":
        return locate((tmp_path / "here").as_uri())
    server = request.getfixturevalue(request.param)
    use(server)
    return locate(server.make_bucket(f"place-{secrets.token_hex(4)}")).join("deep", "here")


def test_what_is_written_is_read_listed_and_removed(place):
    assert place.names() == []
    assert place.is_empty()
    assert not place.exists("a")
    with pytest.raises(FileNotFoundError):
        place.read("a")
    with pytest.raises(FileNotFoundError):
        place.version("a")
    place.write("a", b"one")
    place.write("b/c", b"two")
    place.join("b").write("d", b"three")
    assert (place.read("a"), place.read("b/d"), place.join("b").read("c")) == (
        b"one",
        b"three",
        b"two",
    )
    assert place.names() == ["a", "b"]
    assert not place.is_empty()
    assert place.join("b").names() == ["c", "d"]
    assert place.join("b") == locate(str(place)).join("b") == place.join("b", "c").parent
    before = place.version("a")
    assert place.version("a") == before
    place.write("a", b"other")
    assert place.read("a") == b"other"
    assert place.version("a") != before
    place.remove("a")
    place.remove("a")
    assert place.names() == ["b"]
    place.join("b").remove()
    place.join("b").remove()
    assert place.names() == []
    assert place.join("b").is_empty()


def test_a_name_that_begins_like_another_is_not_below_it(place):
    place.parent.join("here2").write("a", b"1")
    place.write("a", b"2")
    place.remove()
    assert place.parent.join("here2").names() == ["a"]


def test_large_bytes_come_back(place):
    data = bytes(range(256)) * (100 << 10)
    place.write("large", data)
    assert place.view("large") == data


def test_a_file_is_uploaded(place, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * (7 << 20))  # in parts
    place.upload("a/file", file)
    assert place.read("a/file") == b"x" * (7 << 20)


def test_of_many_writers_of_a_new_name_one_wins(place):
    def write(number):
        try:
            place.write_new("new", b"%d" % number)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [n for n in pool.map(write, range(8)) if n is not None]
    assert place.read("new") == b"%d" % winner
    assert place.names() == ["new"]


def test_pickles_by_its_place_alone(place):
    place.write("a", b"1")
    assert pickle.loads(pickle.dumps(place)) == place
    assert len(pickle.dumps(place)) < 150 + len(str(place))


def test_an_object_is_replaced_only_if_it_is_still_the_same(bucket):
    place = locate(bucket).join("p")
    place.write("a", b"1")
    version = place.version("a")
    place.replace("a", b"2", version)
    place.replace("a", b"2", version)  # as if the first answer had been lost
    with pytest.raises(FileExistsError):
        place.replace("a", b"3", version)
    assert place.read("a") == b"2"


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("s3://me:open-sesame@bucket/x", "holds a password"),
        ("s3://AKIA:open/sesame@bucket/x", "holds a password"),
        ("s3://bucket/x?X-Amz-Signature=open-sesame", "holds a password or a signature"),
        ("ftp://me:open-sesame@host/x", "of no kind that is known"),
        ("https://bucket.s3.amazonaws.com/x?sig=open-sesame", "of no kind that is known"),
        ("file://host/x", "names another machine"),
        ("s3://", "must name a bucket"),
        ("s3://bucket/a//b", "must name a bucket and a path"),
        ("s3://bucket/../b", "must name a bucket and a path"),
    ],
)
def test_urls_that_are_refused(url, match):
    with pytest.raises(InputError, match=match) as caught:
        locate(url)
    assert "sesame" not in str(caught.value)


def test_azure_names_an_account_before_its_container():
    assert str(locate("abfss://container@account.dfs.core.windows.net/a/")).endswith(".net/a")


def refused(action, match, *secrets):
    with pytest.raises(AccessError, match=match) as caught:
        action()
    error = caught.value
    said = f"{error}{error!r}{error.__cause__}"
    assert not any(secret in said for secret in secrets)
    assert error.__suppress_context__
    assert pickle.loads(pickle.dumps(error)).args == error.args


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key(seaweed, use, wrong):
    use(seaweed)
    place = locate(seaweed.make_bucket(f"b-{wrong.lower().replace('_', '-')}")).join("x")
    place.write("a", b"1")
    use(seaweed, **{wrong: "wrong-one"})
    hidden = (seaweed.key, seaweed.secret, "wrong-one")
    code = "InvalidAccessKeyId" if "ID" in wrong else "SignatureDoesNotMatch"
    said = rf"access to {place}.* was refused \(403 {code}\): check AWS_ACCESS_KEY_ID"
    refused(lambda: place.read("a"), said, *hidden)
    refused(lambda: place.write("a", b""), said, *hidden)
    refused(lambda: place.write_new("b", b""), said, *hidden)
    refused(place.names, said, *hidden)
    refused(lambda: place.exists("a"), r"was refused \(403\)", *hidden)
    use(seaweed)  # set right, the same process goes on
    assert place.read("a") == b"1"


def test_a_missing_bucket(moto, use):
    use(moto)
    place = locate("s3://no-such-bucket/x")
    said = "s3://no-such-bucket/x.* cannot be used: there is no bucket 'no-such-bucket': create it"
    refused(lambda: place.read("a"), said)
    refused(lambda: place.write("a", b""), said)
    refused(place.names, said)


def test_no_credentials(seaweed, use, monkeypatch):
    monkeypatch.setattr(clients, "RETRIES", 0)
    use(seaweed, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.169.254:1")
    refused(
        lambda: locate("s3://b/x").read("a"),
        "no credentials for s3://b/x/a were found: set AWS_ACCESS_KEY_ID",
    )


def test_no_account_of_azure(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    refused(lambda: locate("az://c/x").names(), "set AZURE_STORAGE_ACCOUNT_NAME")


def test_an_endpoint_without_tls_must_be_meant(seaweed, use):
    use(seaweed, AWS_ALLOW_HTTP=None)
    refused(lambda: locate("s3://b/x").read("a"), "plain http: set AWS_ALLOW_HTTP")


@pytest.mark.parametrize("option", ["AWS_TIMEOUT", "AWS_READ_TIMEOUT"])
def test_time_outs_of_the_environment_go_before_ours(seaweed, use, monkeypatch, option):
    monkeypatch.setattr(clients, "RETRIES", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(seaweed, AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv(option, "50ms")
        refused(lambda: locate("s3://b/x").read("a"), r"gives no answer \(timed out")


def test_nobody_listens(seaweed, use, monkeypatch):
    monkeypatch.setattr(clients, "RETRIES", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        use(seaweed, AWS_ENDPOINT_URL=f"http://user:password@127.0.0.1:{port}")
        said = r"s3://b/x/a gives no answer \(no connection; asked up to 2 times\)"
        refused(lambda: locate("s3://b/x").read("a"), said, "password", seaweed.secret)


def test_without_obstore_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(InputError, match=r"s3://b/y/a needs obstore.*daskmlr\[objects\]"):
        locate("s3://b/y").read("a")
