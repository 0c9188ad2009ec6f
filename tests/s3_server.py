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
from contextlib import contextmanager
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
