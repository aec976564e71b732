"""A small HTTP server on the loopback interface with scripted responses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class ReceivedRequest:
    """What came in: JSON, a list of the objects of an NDJSON body, or None without a body."""

    path: str
    body: Any
    headers: Mapping[str, str]
    method: str = "GET"


@dataclass(frozen=True)
class Reply:
    """A scripted response: JSON, or raw bytes. Status 0 closes the connection without a response."""

    content: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # hundreds of connections may be opened at once
    daemon_threads = True


Answer = Callable[[ReceivedRequest], Reply]


@dataclass(frozen=True)
class Answering:
    url: str
    asked: list[ReceivedRequest]


@contextmanager
def answering(answer: Answer, port: int = 0) -> Iterator[Answering]:
    """The server, at any port unless one is given, and everything it was asked, in order."""
    asked: list[ReceivedRequest] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(_parsed(self.rfile.read(int(self.headers.get("Content-Length") or 0))))

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

        def _reply(self, body: Any) -> None:
            asked.append(ReceivedRequest(self.path, body, dict(self.headers), self.command))
            reply = answer(asked[-1])
            if not reply.status:
                self.close_connection = True
                return
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            del arguments

    server = _Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Answering(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _parsed(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return [json.loads(line) for line in content.splitlines()]
