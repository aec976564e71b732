"""Addresses of servers: parsed in one place, so that a malformed one is the same error wherever it is given.

The libraries that send requests (httpx, urllib3, grpc, libpq) each read an address in a way of their own, and raise
errors of their own at different times for one that is none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from searchlora.errors import EngineError

#: Characters of a URL that are read.
_MAX_LENGTH = 4096

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_MAX_HOST = 253

#: Keys of a connection that an address may set; files and commands among the others could be anybody's.
_POSTGRES_KEYS = frozenset({"host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert"})


def server_url(
    url: str, *, schemes: Sequence[str] = ("http", "https"), example: str = "http://localhost:8000"
) -> SplitResult:
    """The parts of the address of a server. It may have a path and a query, but neither user nor password.

    Args:
        url: The address.
        schemes: Schemes that it may have.
        example: An address, for the error.

    Raises:
        EngineError: for an address that is malformed, has another scheme, or holds a password.

    Examples:
        >>> server_url("http://localhost:8000/v1").port
        8000
        >>> server_url("http://[")
        Traceback (most recent call last):
            ...
        searchlora.errors.EngineError: 'http://[' is not the address of a server (Invalid IPv6 URL). Write it as in \
http://localhost:8000.
    """
    try:
        check_text(url)
        if "@" in re.split("[/?#]", url.partition("//")[2])[0]:  # before anything that shows the address
            raise EngineError("the address holds a password", fix="Give a key in an environment variable.")
        parts = urlsplit(url)
        if parts.scheme not in schemes:
            raise ValueError(f"its scheme is none of {', '.join(schemes)}")
        _check_port(parts)
        _check_bracketed(parts) if "[" in parts.netloc else check_host(parts.hostname or "")
    except ValueError as error:
        shown = url if len(url) <= 200 else f"{url[:200]}..."
        raise EngineError(
            f"{shown!r} is not the address of a server ({error})", fix=f"Write it as in {example}."
        ) from None
    return parts


def postgres_parameters(url: str) -> dict[str, Any]:
    """The parameters of a connection to PostgreSQL, as `psycopg.connect` takes them.

    Args:
        url: `postgresql://user@host:5432/database`, or `postgresql:///database?host=/var/run/socket` for a Unix socket.

    Raises:
        EngineError: for an address that is none, or with a password or other keys than those of a connection.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if not re.match(r"postgres(ql)?://", url):
        raise EngineError(
            f"{url!r} is not the address of a database", fix="Write it as in postgresql://user@host:5432/database."
        )
    try:
        check_text(url)
        parameters = dict(conninfo_to_dict(url))
        for host in str(parameters.get("host", "")).split(","):
            if host and not host.startswith(("/", "@")) and ":" not in host:  # no folder of a socket, no IPv6 address
                check_host(host)
    except (psycopg.ProgrammingError, ValueError) as error:
        raise EngineError(f"{url!r} is not the address of a database ({' '.join(str(error).split())})") from None
    if "password" in parameters:
        raise EngineError("the address holds a password", fix="Give it in an environment variable.")
    if unknown := sorted(parameters.keys() - _POSTGRES_KEYS):
        known = ", ".join(sorted(_POSTGRES_KEYS))
        raise EngineError(f"the address sets '{unknown[0]}'", where=url, fix=f"It may set {known}.")
    return parameters


def check_text(text: str) -> None:
    """Raise `ValueError` for an address with blanks, control characters or half characters."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"it has more than {_MAX_LENGTH:,} characters")
    if not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError("it holds a blank, a control character or half a character")


def check_host(host: str) -> None:
    """Raise `ValueError` for a text that cannot be a host name or an IPv4 address.

    Examples:
        >>> check_host("search.example.org")
        >>> check_host("a..b")
        Traceback (most recent call last):
            ...
        ValueError: 'a..b' is not a host
    """
    import idna

    if not host:
        raise ValueError("it names no host")
    ascii_host = host
    try:
        if not host.isascii():
            ascii_host = idna.encode(host.lower()).decode("ascii")
        for label in ascii_host.split("."):
            if label.lower().startswith("xn--"):
                idna.decode(label)
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"{host[:_MAX_HOST]!r} is not a host: {error}") from None
    if re.fullmatch(r"\d+(\.\d+){3}", ascii_host):
        ipaddress.IPv4Address(ascii_host)
    labels = ascii_host.removesuffix(".").split(".")
    if len(ascii_host) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{host[:_MAX_HOST]!r} is not a host")


def _check_port(parts: SplitResult) -> None:
    if parts.port == 0:
        raise ValueError("0 is not a port")
    digits = parts.netloc.rpartition(":")[2]
    if parts.port is not None and not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{digits!r} is not a port")


def _check_bracketed(parts: SplitResult) -> None:
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?", parts.netloc):
        raise ValueError("an IPv6 address is written as in http://[::1]:8000")
    ipaddress.IPv6Address(parts.hostname or "")
