"""Object stores: clients by URL, the limits of their retries, what their errors mean.

Credentials are never given here: each process finds its own, in its environment or in the role of
its machine, by the rules of obstore. Nor do errors repeat what a server said: that may quote keys
and signatures.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.storage import ObjectStore

from daskmlr.errors import AccessError, InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

T = TypeVar("T")

# Requests that end in 5xx, a time-out or a broken connection are sent again: so many times, ...
RETRIES = 10
# ... after waits that double from the first of these to the second (and vary by chance), ...
FIRST_WAIT, LONGEST_WAIT = timedelta(milliseconds=100), timedelta(seconds=15)
# ... as long as the first attempt was no longer ago than this.
RETRY_UNTIL = timedelta(minutes=3)
# A request is lost if it does not connect, brings no byte (also while it sends), or does not end
# for so long; variables of the environment such as AWS_READ_TIMEOUT go before.
TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "10m"}
# What else obstore would take from the environment of itself, had it been given no time-outs.
_CLIENT_OPTIONS = (
    *TIMEOUTS,
    "allow_http",
    "allow_invalid_certificates",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
)

# Where Zarr keeps the metadata and attributes of a group.
GROUP = "zarr.json"
# Where obstore looks for credentials, by the scheme of a URL; and what to tell the user.
_AWS = ("AWS_", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_REGION, AWS_ENDPOINT_URL)")
_GOOGLE = ("GOOGLE_", "GOOGLE_APPLICATION_CREDENTIALS")
_AZURE = ("AZURE_", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY")
VARIABLES = {
    **dict.fromkeys(("s3", "s3a"), _AWS),
    "gs": _GOOGLE,
    **dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), _AZURE),
}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where a machine asks for its own role, when the environment names no credentials.
_ROLE_SERVERS = ("169.254.", "metadata.google.internal", "MissingAccount")
_WRONG_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "301 Moved Permanently")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
# A connection that broke, and a request that obstore itself has sent again.
_BROKE = re.compile(r"HttpError \{\s*kind: (Interrupted|Timeout)")
_REPEATED = re.compile(r"\bretries: [1-9]")
_KINDS = {"Timeout": "timed out", "Connect": "no connection"}


def client(url: str) -> Any:
    """Return obstore's client of a checked URL: one in a process, until its environment changes.

    Raises
    ------
    InputError
        If obstore is not installed.
    AccessError
        If the environment lacks what the URL needs.
    """
    prefix = VARIABLES[url.partition("://")[0]][0]
    settings = {k: v for k, v in os.environ.items() if k.startswith(prefix)}
    options = {
        option: settings[variable]
        for option in _CLIENT_OPTIONS
        if (variable := f"{prefix}{option.upper()}") in settings
    }
    return _client(url, hash(frozenset(settings.items())), tuple(options.items()))


def _library(url: str) -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise InputError(
            f"{url} needs obstore, which reads and writes object stores: pip install "
            "'daskmlr[objects]'"
        ) from error
    return obstore


@lru_cache(maxsize=64)
def _client(
    url: str,
    settings: int,  # noqa: ARG001 - keys the cache
    options: tuple[tuple[str, str], ...],
) -> Any:
    library = _library(url)
    backoff = {"init_backoff": FIRST_WAIT, "max_backoff": LONGEST_WAIT, "base": 2}
    with _named(url, library):
        return library.store.from_url(
            url,
            client_options=TIMEOUTS | dict(options),
            retry_config={
                "max_retries": RETRIES,
                "backoff": backoff,
                "retry_timeout": RETRY_UNTIL,
            },
        )


def request(url: str, send: Callable[[Any], T]) -> T:
    """Return ``send(obstore)``; again if the connection broke and obstore let it rest.

    It does so for what is not the same when done twice: writes on conditions, deletions; and for
    an answer that breaks off. With us all are the same, see `ObjectPrefix`.

    Raises
    ------
    InputError
        If obstore is not installed.
    FileNotFoundError
        If there is no such object, in a bucket that exists as far as is known.
    FileExistsError
        Of a write on conditions that do not hold.
    AccessError
        For a bucket that does not exist, credentials that are missing or refused, and a server
        that did not answer. It says what that means for the user, and nothing that may be secret.
    """
    library = _library(url)
    wait = FIRST_WAIT
    for left in range(RETRIES, -1, -1):
        with _named(url, library):
            try:
                return send(library)
            except library.exceptions.BaseError as error:
                if not left or not _BROKE.search(str(error)) or _REPEATED.search(str(error)):
                    raise
        time.sleep(wait.total_seconds())
        wait = min(2 * wait, LONGEST_WAIT)
    raise AssertionError  # the last attempt returned or raised


@contextmanager
def _named(url: str, library: Any) -> Iterator[None]:
    errors = library.exceptions
    try:
        yield
    except (errors.AlreadyExistsError, errors.PreconditionError):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url) from None
    except FileNotFoundError as error:
        if any(words in str(error) for words in _NO_BUCKET):
            raise AccessError(_meaning(url, str(error))) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
    except errors.BaseError as error:
        raise AccessError(_meaning(url, str(error))) from None


def _meaning(url: str, said: str) -> str:
    scheme, _, rest = url.partition("://")
    variables, host = VARIABLES[scheme][1], socket.gethostname()
    status, code = _STATUS.search(said), _CODE.search(said)
    answer = " ".join(match.group(1) for match in (status, code) if match)
    if any(words in said for words in _NO_BUCKET):
        return f"{url} cannot be used: there is no bucket {rest.partition('/')[0]!r}: create it"
    if any(words in said for words in _ROLE_SERVERS):
        return (
            f"no credentials for {url} were found: set {variables} for the process on {host}, and "
            "for all workers, or give the machines a role that may use it"
        )
    if any(words in said for words in _WRONG_REGION):
        return f"{url} lies in another region ({answer}): set AWS_REGION"
    if status and status.group(1) in ("401", "403"):
        return (
            f"access to {url} was refused ({answer}): check {variables} of the process on {host}, "
            "and that they may read and write there"
        )
    if "BadScheme" in said:
        allow = f"{VARIABLES[scheme][0]}ALLOW_HTTP=true"
        return f"the endpoint of {url} is plain http: set {allow} if that is meant"
    kind = _KIND.search(said)
    broken = _KINDS.get(kind.group(1) if kind else "", "request failed")
    return (
        f"{url} gives no answer ({answer or broken}; asked up to {RETRIES + 1} times): check the "
        "network and the endpoint, and try again"
    )


class ZarrObjects(ObjectStore):  # type: ignore[misc]
    """Zarr's view of a URL: every object is written by one PUT, and errors are ours."""

    def __init__(self, store: Any, url: str, *, read_only: bool = False):
        super().__init__(store, read_only=read_only)
        self.url = url
        self._library = _library(url)

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> ZarrObjects:
        """Return the same, to read only or to write."""
        return type(self)(self.store, self.url, read_only=read_only)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read an object; None if there is none."""
        if byte_range is not None:
            with _named(self.url, self._library):
                return await super().get(key, prototype, byte_range)
        try:
            data = await self._request(lambda library: library.get(self.store, key).bytes())
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def set(self, key: str, value: Any) -> None:
        """Write an object."""
        self._check_writable()
        with _named(self.url, self._library):
            await self._library.put_async(
                self.store, key, value.as_buffer_like(), use_multipart=False
            )

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object, unless it is there."""
        if not await self.exists(key):
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with _named(self.url, self._library):
            return bool(await super().exists(key))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._request(lambda library: library.delete(self.store, key))

    async def getsize(self, key: str) -> int:
        """Bytes of an object."""
        with _named(self.url, self._library):
            return int(await super().getsize(key))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        for page in await self._request(lambda library: list(library.list(self.store, prefix))):
            for each in page:
                yield each["path"]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names below a prefix."""
        with _named(self.url, self._library):
            async for name in super().list_dir(prefix):
                yield name

    async def _request(self, send: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(request, self.url, send)


class UnpublishedZarr(ZarrObjects):
    """A Zarr group to write, whose own metadata is held back: without it there is no group.

    Parameters
    ----------
    held : dict
        Takes what is held back, by key.
    """

    def __init__(self, store: Any, url: str, held: dict[str, bytes]):
        super().__init__(store, url)
        self._held = held

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read an object, or what is held back."""
        if key in self._held:
            return prototype.buffer.from_bytes(self._held[key])
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Any) -> None:
        """Write an object, unless it is to be held back."""
        if key == GROUP:
            self._held[key] = value.to_bytes()
        else:
            await super().set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object, or it is held back."""
        return key in self._held or await super().exists(key)
