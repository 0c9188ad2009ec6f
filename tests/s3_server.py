"""A moto server that answers one request at a time, as a process of its own, and how to lead a process there.

S3 decides a conditional put in one piece; moto's threads look first and write then, so two could both be first.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def serving() -> Iterator[str]:
    """Run the server; its address. Requests are signed, sent and answered as with S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server)
        yield address
    finally:
        server.kill()
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{address}/moto-api/", timeout=5):
                return
        except OSError:
            assert server.poll() is None, "the moto server ended"
            assert time.monotonic() < until, "the moto server does not answer"
            time.sleep(0.1)


def settings(address: str, cache: str) -> dict[str, str]:
    """The environment of a process whose buckets are there."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-in-any-file-please",
        "XDG_CACHE_HOME": cache,
    }


def make_bucket(address: str) -> str:
    """A store's root in a new bucket."""
    bucket = f"lab-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{address}/{bucket}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    return f"s3://{bucket}/mto/results"


class Gate:
    """A door before a server: TCP passes while it is open. When it shuts, what is under way breaks off, and whoever
    knocks is refused, as by a machine whose server was stopped."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self._kept = self._bound(0)  # never listens: nobody else is given the port while the door is shut
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.address = f"http://127.0.0.1:{self._kept.getsockname()[1]}"

    @staticmethod
    def _bound(port: int) -> socket.socket:
        found = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            found.setsockopt(socket.SOL_SOCKET, option, 1)
        found.bind(("127.0.0.1", port))
        return found

    def open(self) -> None:
        self._listener = self._bound(self._kept.getsockname()[1])
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            for end in (*([listener] if listener else []), *self._ends):
                _hang_up(end)
        if listener:
            listener.close()

    def close(self) -> None:
        self.shut()
        self._kept.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the door was shut
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self._upstream)
                with self._lock:
                    if listener is not self._listener:
                        _hang_up(here)
                    self._ends |= {here, there}
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        _hang_up(target)  # the other way ends, too, and closes that end
        with self._lock:
            self._ends.discard(source)
        source.close()


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class OneAtATime:
    """A WSGI application whose calls wait for each other."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.app = DomainDispatcherApplication(create_backend_app)
        self.turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self.turn:
            return list(self.app(environ, start_response))


if __name__ == "__main__":
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", int(sys.argv[1]), OneAtATime(), threaded=True)
