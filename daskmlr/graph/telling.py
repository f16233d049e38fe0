"""What a run tells of itself: to whoever shows its progress, and to the page on the scheduler."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from daskmlr.graph.board import NAME, receive
from daskmlr.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from daskmlr.progress import Show

# Between stages a scheduler is told at most so often: a fit of small passes has hundreds a second.
TELL_SECONDS = 1.0

# A dashboard that listens there alone is seen from its own host alone.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

logger = logging.getLogger(__name__)


class Telling:
    """Tells of one run.

    What is for the scheduler waits for the next look at it (see `Watch`), or until `TELL_SECONDS`
    have passed: long passes send no message of their own for it, and short ones few.

    Parameters
    ----------
    show : callable or False
        Called with a `Progress`; see `shown`.
    """

    def __init__(self, show: bool | Show = False):
        self._show = show
        self._run = uuid.uuid4().hex
        self._began = self._sent = self._stage_began = time.monotonic()
        self._numbers: Counter[str] = Counter()
        self._at = Progress("", 0, 0)
        self._n_bytes = 0
        self._client: Client | None = None
        self._listens = False
        self._waiting: list[dict[str, Any]] = []

    def listen(self, client: Client) -> None:
        """Tell a scheduler of the run from now on; put the page up if it is not there."""
        if self._listens:
            return
        self._client, self._listens = client, True
        who = {"client": client.id, "host": socket.gethostname(), "process": os.getpid()}
        self._waiting.insert(0, {"event": "run", **who})
        served = self._send()
        if served is not None:
            with suppress(KeyError, ValueError):  # of a link that Dask was told to make otherwise
                self._at = replace(self._at, page=page_address(client.dashboard_link, *served))

    def fit(self, n_components: int) -> None:
        """Tell that a fit of so many components begins."""
        self._numbers.clear()
        self._at = replace(self._at, n_components=n_components)
        self._tell("fit", n_components=n_components)

    def begin(self, stage: str, total: int = 1, *, n_bytes: int = 0, store: str = "") -> None:
        """Tell that a stage begins, or a pass of it, over so many bytes of a store."""
        self._numbers[stage] += 1
        self._stage_began, self._n_bytes = time.monotonic(), n_bytes
        number = self._numbers[stage]
        self._at = Progress(
            stage, 0, total, number, n_components=self._at.n_components, page=self._at.page
        )
        facts = {"total": total, "n_bytes": n_bytes, "store": store}
        self._tell("begin", stage=stage, number=number, **facts)
        if not n_bytes:
            self._send()  # there is no look at what is no pass
        self.done(0)

    def done(self, done: int) -> None:
        """Show how far the stage is."""
        total = max(self._at.total, 1)
        self._at = replace(
            self._at,
            done=done,
            n_bytes=self._n_bytes * done // total,
            seconds=time.monotonic() - self._stage_began,
        )
        if callable(self._show):
            self._show(self._at)

    def over(self) -> None:
        """Tell that the stage, or the pass of it, is done."""
        self.done(self._at.total)
        self._tell("over", seconds=self._at.seconds)

    def found(self, entry: Mapping[str, Any], *, kept: bool = False) -> None:
        """Tell what a stage has found: an entry of the run's record; `kept` by an earlier run."""
        self._tell("found", entry=dict(entry), kept=kept)

    def end(self, error: BaseException | None) -> None:
        """Tell that the run is over, and what ended it."""
        said = "" if error is None else str(error) or type(error).__name__
        self._tell("end", error=said)
        self._send()

    def waiting(self) -> dict[str, Any] | None:
        """Take what waits to be sent, if there is a scheduler that listens."""
        if self._client is None:
            return None
        events, self._waiting = self._waiting, []
        self._sent = time.monotonic()
        return {"run": self._run, "now": self._sent - self._began, "events": events}

    def _tell(self, event: str, **facts: Any) -> None:
        now = time.monotonic()
        self._waiting.append({"event": event, "at": now - self._began, **facts})
        if now - self._sent > TELL_SECONDS:
            self._send()

    def _send(self) -> tuple[str, str, int] | None:
        """Send what waits; return where the page is served, if it is. A run needs neither."""
        client = self._client
        if client is None or client.status != "running":
            return None
        told = self.waiting()
        try:
            served: tuple[str, str, int] | None = client.run_on_scheduler(receive, told=told)
        except Exception:  # whatever it is: the run does not hang on it
            logger.debug("the scheduler cannot be told of the run", exc_info=True)
            self._client = None
            return None
        return served


def page_address(link: str | None, host: str, listens: str, port: int) -> str:
    """Say where the page is, and the way to it where it is on a loopback elsewhere.

    Parameters
    ----------
    link : str or None
        Where Dask says that its dashboard is. Its configuration has a say in it
        (``distributed.dashboard.link``), as behind a JupyterHub.
    host, listens, port
        Name of the scheduler's host; the address and port there that the dashboard listens at.

    Examples
    --------
    >>> page_address("/user/me/proxy/8787/status", "hub", "127.0.0.1", 8787)
    '/user/me/proxy/8787/daskmlr'
    >>> page_address("http://10.0.0.7:8787/status", "head", "127.0.0.1", 8787)
    'http://127.0.0.1:8787/daskmlr after ssh -L 8787:127.0.0.1:8787 head'
    """
    if not link:
        return ""
    asked = urlsplit(link)
    if listens not in LOOPBACK or asked.port != port:
        return f"{link.removesuffix('/status').rstrip('/')}/{NAME}"
    page = f"{asked.scheme}://127.0.0.1:{port}/{NAME}"
    if host == socket.gethostname() and "SSH_CONNECTION" not in os.environ:
        return page
    return f"{page} after ssh -L {port}:127.0.0.1:{port} {host}"
