"""Binding and running the grading page."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from searchlora.errors import UsageError
from searchlora.server.grading.app import create_app
from searchlora.server.grading.session import Session


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        UsageError: when it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror})", where=f"host {host}", fix="Give another --port or --host."
        ) from None


def address(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(session: Session, listening: socket.socket, host: str) -> None:
    """Serve the page until interrupted."""
    import uvicorn

    config = uvicorn.Config(
        create_app(session, names=[host]), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    # uvicorn answers what it has begun, then raises the interruption again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
