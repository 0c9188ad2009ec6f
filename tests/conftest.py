"""Settings for the whole suite, and a real S3 server for the tests that ask for one."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

import s3_server as s3

# Before torch is imported: workers share the cores, and threads that wait for each other spin (thrice the CPU).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared machine is slow at times: no example fails for the time it took.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Launches first: a worker is busy with them for as long as the others are with everything else."""
    items.sort(key=lambda item: not item.path.name.startswith("test_launch"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a moto server."""
    with s3.serving() as address:
        yield address


@pytest.fixture
def s3_root(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """``s3://bucket/prefix`` with a bucket of its own, and the AWS_* variables that lead there."""
    for name, value in s3.settings(s3_server, str(tmp_path_factory.mktemp("cache"))).items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket(s3_server)


class Unreliable(ThreadingHTTPServer):
    """Stands before the S3 server and misbehaves on request: throttles, or loses answers after the work was done."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.asked = 0
        self.throttled = 0  # so many of the next requests are answered 503
        self.lost = 0  # so many of the next PUTs are carried out, and their answers lost
        self.cut = 0  # so many of the next requests are carried out, and their answers break off
        self.careless = False  # forgets `If-None-Match`
        self.up_for = -1  # after so many more requests everything is answered 503; -1: never
        super().__init__(("127.0.0.1", 0), _Relay)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no news."""


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unreliable

    def _relay(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.asked += 1
        if server.up_for > 0:
            server.up_for -= 1
        if server.throttled or server.up_for == 0:
            server.throttled = max(0, server.throttled - 1)
            self._answer(503, [], b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>")
            return
        connection = http.client.HTTPConnection(server.upstream, timeout=60)
        dropped = {"connection", "if-none-match"} if server.careless else {"connection"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body, headers)
        found = connection.getresponse()
        content = found.read()
        connection.close()
        if server.lost and self.command == "PUT":
            server.lost -= 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if server.cut:
            server.cut -= 1
            self._break_off(found, content)
            return
        kept = [(n, v) for n, v in found.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
        self._answer(found.status, kept, content)

    def _break_off(self, found: http.client.HTTPResponse, content: bytes) -> None:
        """Half of the content; where there is none, half of the head."""
        lines = [f"HTTP/1.1 {found.status} {found.reason}", *(f"{n}: {v}" for n, v in found.getheaders()), "", ""]
        head = "\r\n".join(lines).encode()
        self.wfile.write(head + content[: len(content) // 2] if content else head[: len(head) // 2])
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def unreliable(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unreliable]:
    """The S3 server behind a relay that misbehaves; AWS_ENDPOINT_URL leads to it, retries last a second."""
    with Unreliable(s3_server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("MTLFLEET_OBJECT_RETRY_S", "1")
        yield server
        server.shutdown()
