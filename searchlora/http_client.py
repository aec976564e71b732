"""HTTP client for JSON with time-outs, retries and exponential back-off."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from threading import Event, Thread
from typing import Any, Literal
from weakref import finalize

import httpx

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError, PipelineError, printable
from searchlora.server_url import server_url

#: Seconds before the first retry, and at most between two. Each wait doubles; a random factor between a half and one
#: spreads clients that were refused together. It is added to what the server asks for with `Retry-After`.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_CONNECT_SECONDS = 10.0

#: Bytes of a response, unpacked; far more than any that is asked for.
MAX_RESPONSE_BYTES = 2**26

#: Environment variable that lists, separated by commas, the variables that a file may name as `api_key_env`.
KEY_VARIABLES = "SEARCHLORA_API_KEY_VARIABLES"

#: Requests that are sent at once to a server whose speed is not known yet.
_FIRST_IN_FLIGHT = 16

#: A proxy of the environment is not asked for servers on this machine: it would look for them on its own.
_DIRECT: Mapping[str, None] = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_NEVER = Event()

#: The escape of half a character in JSON.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


#: HTTP statuses by which a server refuses one request, and may take another: it is malformed, too large or too long.
OF_ONE_REQUEST = (400, 413, 414, 422)


class Refused(EngineError):
    """The server understood the request and refused it, with a status that a retry would not change."""

    def __init__(self, status: int, reason: str, where: str) -> None:
        self.status = status
        super().__init__(f"the server refuses with {status} ({reason})", where=where, fix=_fix(status))


class HttpClient:
    """The endpoints of one server. Thread-safe.

    Args:
        url: Base URL, with or without `/v1` at the end.
        api_key: Sent in the `Authorization` header; never shown in an error.
        auth: How the key is sent: `bearer`, `apikey` (Elasticsearch), or `basic`, where the key is `user:password`.
        connections: Maximum number of open connections; further requests wait for one. The first 16 are used at once,
            and more while the server answers in a fraction of the time limit, see `_Window`.
        timeout_s: Time limit of one attempt in seconds, from the connection to the last byte of the response, whatever
            the server sends in between.
        retries: Attempts after the first, on failed connections and on status 429 and 5xx except 504.

    Raises:
        EngineError: for a URL that is not http or https or contains a password, or a key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        auth: Literal["bearer", "apikey", "basic"] = "bearer",
        connections: int = 16,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        self.url = _checked_url(url)
        if api_key and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
            raise EngineError(
                "the API key begins or ends with blanks, or is not printable ASCII",
                where=self.url,
                fix="Check for a line break at its end.",
            )
        self._key = api_key
        self._timeout_s = timeout_s
        self._retries = retries
        self._client = httpx.AsyncClient(
            headers={"Authorization": authorization(api_key, auth)} if api_key else None,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            mounts=_DIRECT,
        )
        self._window = _Window(connections, timeout_s)
        self._loop = _event_loop()
        finalize(self, _close_later, self._client, self._loop)

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises as `post`."""
        return self._parse(path, self._send("GET", path, None))

    def post(
        self, path: str, body: Mapping[str, Any], *, cancelled: Event | None = None, request: int | None = None
    ) -> Any:
        """Send JSON and return the JSON of the response.

        Args:
            path: Path after the base URL.
            cancelled: Once set, no further attempt is made.
            request: Position of the request in the engine's call, from 0, for error messages.

        Raises:
            Refused: for a status that a retry would not change.
            EngineBusy: if the server keeps answering 429 or 503.
            DeadlineExceeded: if a response takes longer than `timeout_s`, or the server answers 504. There is no retry:
                the server would repeat the work in vain.
            EngineError: for a body that is not JSON; if the server cannot be reached, fails at each attempt, or does
                not answer with JSON, or with an error.
        """
        content = self._send("POST", path, body, cancelled, request)
        answer = self._parse(path, content)
        if isinstance(answer, dict) and answer.get("error"):  # gateways answer 200 for what failed behind them
            reason = self._reason(200, httpx.Headers(), content)
            raise EngineError(f"the server answered with an error: {reason}", where=f"{self.url}{path}")
        return answer

    def post_only(self, path: str, body: Mapping[str, Any]) -> None:
        """Send JSON and ignore the content of the response. Raises as `post`."""
        self._send("POST", path, body)

    def close(self) -> None:
        """Close all connections."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        cancelled: Event | None = None,
        request: int | None = None,
    ) -> bytes:
        where = f"{self.url}{path}" if request is None else f"{self.url}{path}, request {request + 1}"
        encoded = None if body is None else _encoded(body, where)
        cancelled = cancelled or _NEVER
        for attempt in range(self._retries + 1):
            if cancelled.is_set():
                raise EngineError("given up before it was asked", where=where)
            try:
                status, headers, content = self._attempt(method, f"{self.url}{path}", encoded)
            except httpx.HTTPError as error:
                failure, retry_after = self._connection_error(error, where), 0.0
            else:
                if 200 <= status < 300:
                    return content
                reason = self._reason(status, headers, content)
                if status not in _BUSY and status < 500:
                    raise Refused(status, reason, where)
                failure, retry_after = self._server_error(status, reason, where), _retry_after(headers)
            # A time-out would repeat. A server that wants to be left alone longer than a response may take is not
            # waited for.
            in_vain = isinstance(failure, DeadlineExceeded) or retry_after > max(self._timeout_s, _LONGEST_WAIT)
            if in_vain or attempt == self._retries:
                raise failure
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
            if cancelled.wait(retry_after + wait):
                raise failure
        raise AssertionError("unreachable")

    def _attempt(self, method: str, url: str, body: bytes | None) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and content.

        Cancelling a coroutine is the only time limit that covers the whole attempt: httpx's restart with each byte that
        arrives, for example of interim responses (100 Continue), which may come without end.
        """
        attempt = asyncio.run_coroutine_threadsafe(self._exchange(method, url, body), self._loop)
        try:
            return attempt.result()
        except RuntimeError:
            if not self._client.is_closed:
                raise
            raise EngineError("the engine is closed", where=url) from None
        finally:
            attempt.cancel()  # after Ctrl+C

    async def _exchange(self, method: str, url: str, body: bytes | None) -> tuple[int, httpx.Headers, bytes]:
        headers = None if body is None else {"Content-Type": "application/json"}
        content = bytearray()
        async with self._window.request() as request:  # the time limit begins when a connection is free
            try:
                async with (
                    asyncio.timeout(self._timeout_s),
                    self._client.stream(method, url, content=body, headers=headers) as response,
                ):
                    request.is_refused = response.status_code in _BUSY
                    async for part in response.aiter_bytes():
                        content += part
                        if len(content) > MAX_RESPONSE_BYTES:
                            raise EngineError(
                                f"the server's answer has more than {MAX_RESPONSE_BYTES:,} bytes",
                                where=url,
                                fix="Check the address.",
                            )
            except TimeoutError:
                raise httpx.ReadTimeout("the answer came too slowly") from None
        return response.status_code, response.headers, bytes(content)

    def _connection_error(self, error: httpx.HTTPError, where: str) -> EngineError:
        """The error for a missing or incomplete response."""
        detail = f"({str(error) or type(error).__name__}; {self._attempts})"
        if isinstance(error, httpx.DecodingError):
            return EngineError(
                f"the server's answer cannot be unpacked {detail}", where=where, fix="Its log says more."
            )
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return DeadlineExceeded(
                f"the server did not answer within {self._timeout_s:g} seconds",
                where=where,
                fix="Set a longer timeout_s, or fewer requests at once.",
            )
        return EngineError(
            f"the server cannot be reached {detail}", where=where, fix="Check the address, and that the server runs."
        )

    def _server_error(self, status: int, reason: str, where: str) -> EngineError:
        detail = f"({status}: {reason}; {self._attempts})"
        if status in _BUSY:
            return EngineBusy(f"the server is too busy {detail}", where=where, fix="Ask later, or fewer at once.")
        if status == HTTPStatus.GATEWAY_TIMEOUT:
            message = f"the server was not done in time ({status}: {reason})"
            return DeadlineExceeded(message, where=where, fix="Ask fewer at once.")
        return EngineError(f"the server fails {detail}", where=where, fix="Its log says more.")

    @property
    def _attempts(self) -> str:
        return f"asked up to {self._retries + 1} times" if self._retries else "asked once"

    def _parse(self, path: str, content: bytes) -> Any:
        try:
            value = json.loads(content.decode(json.detect_encoding(content)))
            if _SURROGATE_ESCAPE.search(content):
                json.dumps(value, ensure_ascii=False).encode()
            return value
        except UnicodeEncodeError:  # no file could hold such an id, and no tokenizer reads such a text
            raise EngineError(
                "the answer is not understood (it holds half a character, a lone surrogate)", where=f"{self.url}{path}"
            ) from None
        except (ValueError, RecursionError):
            raise EngineError(
                f"the server does not answer with JSON ({self._shortened(content)!r})",
                where=f"{self.url}{path}",
                fix="Check the address.",
            ) from None

    def _reason(self, status: int, headers: httpx.Headers, content: bytes) -> str:
        """The server's message: OpenAI's `error.message`, FastAPI's `detail`, or the plain text."""
        if 300 <= status < 400:
            return f"it sends on to {headers.get('location', 'another address')}, where a key is not sent after it"
        try:
            message = json.loads(content)
            message = message.get("error", message)
            message = message if isinstance(message, str) else message.get("message") or message["detail"]
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            message = self._shortened(content) or httpx.codes.get_reason_phrase(status) or "no reason given"
        return self._shortened(message if isinstance(message, str) else json.dumps(message))

    def _shortened(self, text: str | bytes) -> str:
        """One line of at most 500 characters, without the key: some servers repeat the key that they refuse."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        text = text.replace(self._key, "***") if self._key else text  # before cutting: part of a key is secret too
        return " ".join(printable(text).split())[:500]


@dataclass
class _InFlight:
    """A request that was sent."""

    is_refused: bool = False


class _Window:
    """How many requests are in flight to one server: more while it answers quickly, fewer where it is slow or refuses.

    A server with a queue answers the last of 256 requests when it has computed them all. A small one would then exceed
    the time limit, so the number grows from 16 and stays where answers take between an eighth and a quarter of it. This
    is additive increase and multiplicative decrease (Chiu and Jain 1989, doi:10.1016/0169-7552(89)90019-6), with a
    decrease by one for slow answers. Used by the thread of the event loop only.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most, self._least = most, min(most, _FIRST_IN_FLIGHT)
        self._fast, self._slow = timeout_s / 8, timeout_s / 4
        self._owed = 0  # places to give back; negative where the window shrank by more than were given back
        self.size = self._least
        self._free = asyncio.Semaphore(self.size)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[_InFlight]:
        """A place in the window, for one request."""
        await self._free.acquire()
        request, started = _InFlight(), time.monotonic()
        try:
            yield request
        finally:
            self._done(time.monotonic() - started, request.is_refused)

    def _done(self, seconds: float, is_refused: bool) -> None:
        size = self.size
        if is_refused:
            size //= 2
        elif seconds > self._slow:
            size -= 1
        elif seconds <= self._fast:
            size += 1
        size = min(max(size, self._least), self._most)
        self._owed += 1 + size - self.size
        self.size = size
        while self._owed > 0:
            self._owed -= 1
            self._free.release()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all clients of this process, in a thread of its own."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="searchlora-http-client", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):  # a child process has no such thread
    os.register_at_fork(after_in_child=_event_loop.cache_clear)


def _close_later(client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    """Close the connections of a client that is no longer referenced."""
    if not client.is_closed:
        asyncio.run_coroutine_threadsafe(client.aclose(), loop)


def authorization(key: str, auth: str) -> str:
    """The `Authorization` header of a key: `bearer`, `apikey`, or `basic`, where the key is `user:password`.

    Examples:
        >>> authorization("user:password", "basic")
        'Basic dXNlcjpwYXNzd29yZA=='
    """
    if auth == "basic":
        return f"Basic {b64encode(key.encode()).decode()}"
    return f"{'Bearer' if auth == 'bearer' else 'ApiKey'} {key}"


def _checked_url(url: str) -> str:
    parts = server_url(url)
    if parts.query or parts.fragment:
        raise EngineError(f"{url!r} is not the address of a server", fix="Write it as in http://localhost:8000.")
    return url.rstrip("/").removesuffix("/v1")


def _encoded(body: Mapping[str, Any], where: str) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # an infinite number, a lone surrogate
        raise EngineError(
            f"the request cannot be written as JSON ({error})", where=where, fix="Check its texts and numbers."
        ) from None


def _fix(status: int) -> str | None:
    if status == HTTPStatus.UNAUTHORIZED:
        return "Check the API key."
    if status == HTTPStatus.FORBIDDEN:
        return "Check the API key and the host name of the server."
    if 300 <= status < 400:
        return "Give the address that it sends on to."
    return None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds of the `Retry-After` header, a number or a date; 0 without one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return 0.0 if math.isnan(seconds) else max(seconds, 0.0)


# Keys


def api_key(variable: str | None, server: str) -> str | None:
    """The value of the environment variable with a server's key. Raises `PipelineError` if it is not set."""
    key = os.environ.get(variable) if variable else None
    if variable and not key:
        raise PipelineError(
            f"the environment variable {variable} with the server's key is not set",
            where=server,
            fix="Set it, or choose another variable.",
        )
    return key


def check_key_variable(variable: str | None, where: str) -> None:
    """Refuse an environment variable that a file may not name: the file's server would receive its value.

    Raises:
        PipelineError: for a variable that `SEARCHLORA_API_KEY_VARIABLES` does not list.
    """
    allowed = re.split(r"[,\s]+", os.environ.get(KEY_VARIABLES, ""))
    if variable is not None and variable not in allowed:
        raise PipelineError(
            f"a file may not send the environment variable {variable} to a server",
            where=where,
            fix=f"Give --api-key-env on the command line, or allow it: {KEY_VARIABLES}={variable}.",
        )
