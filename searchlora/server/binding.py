"""Sockets to listen on, and the names by which a server may be reached."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from searchlora.errors import UsageError


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
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror})", where=f"host {host}", fix="Give another --port or --host."
        ) from None
    # Connections inherit it. asyncio sets it only on sockets that were made with the protocol's number, and without it
    # the second packet of an answer waits some 40 ms for the first one to be confirmed.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header names this server: localhost, this machine, one of `names`, or an address in digits.

    A page of another site can make its own name mean this machine (DNS rebinding); its requests then carry that name.
    An address in digits cannot be rebound.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    if name in {"localhost", socket.gethostname().lower(), *(each.lower() for each in names)}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
