"""HTTP basics of both servers: listening sockets, host name checks, and private settings of FastAPI and uvicorn."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from searchlora.errors import UsageError

#: Keyword arguments of every FastAPI application: nothing is loaded from other sites, nothing is reported to anyone.
PRIVATE_APP: dict[str, Any] = {
    # No interactive documentation: its page loads scripts from another site.
    "openapi_url": None,
    "docs_url": None,
    "redoc_url": None,
    # Recent FastAPI versions report requests and their paths to any OpenTelemetry collector that the process or its
    # environment configures. Older versions ignore the argument.
    "telemetry": {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
}

#: Headers of the files of a page: it loads nothing from other origins and is not cached or framed.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 selects a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (ValueError, OverflowError, TypeError):  # a name that cannot be looked up, a number beyond 65535
        raise UsageError(
            f"{host!r} with port {port} is not an address", fix="Give a --host such as 127.0.0.1 and a --port to 65535."
        ) from None
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror})", where=f"host {host}", fix="Give another --port or --host."
        ) from None
    # Accepted connections inherit it. asyncio sets it only on sockets created with an explicit protocol number. Without
    # it the second packet of a response waits about 40 ms for the acknowledgement of the first (Nagle's algorithm).
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(listening: socket.socket) -> str:
    """The URL of a listening socket, to open in a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_own_host(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header names this server: localhost, this machine, one of `names`, or a numeric address.

    The check stops DNS rebinding: a page of another site can let its own name resolve to this machine, and its requests
    then carry that name. A numeric address cannot be rebound.

    Examples:
        >>> is_own_host("localhost:8000", ()), is_own_host("box.example", {"box.example"}), is_own_host("evil.test", ())
        (True, True, False)
    """
    if re.search(r"[\s/\\?#@]", host):  # more than a name and a port
        return False
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    if name in {"localhost", socket.gethostname().lower(), *(host.lower() for host in names)}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


#: Bytes of a request line with its headers, or of a chunk header.
_MAX_HEAD_BYTES = 65_536

#: Seconds after which an idle connection is closed: later than clients and proxies close theirs (httpx after 5, HAProxy
#: and nginx after at most 60). Whoever closes later never sends a request into a connection that is being closed.
_KEEP_ALIVE_S = 75


def uvicorn_config(app: ASGIApp, max_connections: int, **more: Any) -> uvicorn.Config:
    """Settings of uvicorn: bounded heads and connections, no log of requests, no name of the server."""
    return uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        limit_concurrency=max_connections + 1,  # uvicorn refuses at that number
        # uvicorn's own settings close every log handler of the process, and the handler of absl, which `rouge_score`
        # loads, closes its stream: a stderr that was redirected.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        **more,
    )
