"""An HTTP proxy before a server, which loses requests and answers as it is told."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What may happen to the n-th attempt at one request: a status to answer instead of the server's,
# "reset" before it gets there, "lost" on the way back, "cut" in the middle of the answer; or None.
Fault = int | str | None


class Proxy:
    """A proxy that is running.

    Attributes
    ----------
    endpoint : str
    fault : callable
        ``fault(method, path, attempt)``, attempts counted from 0.
    done : Counter
        How often each fault came about.
    """

    def __init__(self, upstream: str, fault: Callable[[str, str, int], Fault]):
        self.upstream = urlsplit(upstream)
        self.fault = fault
        self.done: Counter[Fault] = Counter()
        self.lock = threading.Lock()
        self._attempts: Counter[tuple[str, str]] = Counter()
        self.endpoint = ""

    def next_fault(self, method: str, path: str) -> Fault:
        with self.lock:
            attempt = self._attempts[method, path]
            self._attempts[method, path] += 1
        fault = self.fault(method, path, attempt)
        with self.lock:
            self.done[fault] += 1
        return fault


class _Handler(BaseHTTPRequestHandler):
    """One request, one connection."""

    proxy: Proxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Say nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command, self.path)
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.reset()
            return
        status, headers, answer = self.forward(body)
        if fault == "lost":
            self.reset()
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), str(len(answer)))
        self.send_header("Content-Length", length)  # that of HEAD is not of its body
        self.end_headers()
        if fault == "cut":
            self.wfile.write(answer[: len(answer) // 2])
            self.reset()
        else:
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - as it looks for them

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream.netloc, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host too: it is signed
                upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):  # it was reset
            super().shutdown_request(request)


@contextmanager
def proxy(upstream: str, fault: Callable[[str, str, int], Fault]) -> Iterator[Proxy]:
    """Run a proxy before the server at `upstream`."""
    running = Proxy(upstream, fault)
    handler = type("Handler", (_Handler,), {"proxy": running})
    with _Server(("127.0.0.1", 0), handler) as server:
        running.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
