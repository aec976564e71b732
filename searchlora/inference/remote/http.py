"""JSON over HTTP with time-outs, retries and back-off."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from threading import Event
from typing import Any

import httpx

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError

#: Seconds before the first retry and between two at most; each wait doubles, and is cut by chance to between half and
#: all of it, so that callers who were turned away together do not come back together. It is added to what a server asks
#: for, which is the same for all of them.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_CONNECT_S = 10.0
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_NEVER = Event()


class Refused(EngineError):
    """The server understood, and said no.

    Args:
        status: Of HTTP; neither a success nor one that asking again may change.
        reason: The server's own words.
    """

    def __init__(self, status: int, reason: str, where: str) -> None:
        self.status = status
        super().__init__(f"the server refuses with {status} ({reason})", where=where, fix=_fix(status))


class Server:
    """A server's endpoints. Safe for threads.

    Args:
        url: Where it answers, with or without `/v1` at the end.
        api_key: Sent as a bearer token; no error shows it.
        connections: Open at once.
        timeout_s: Seconds that one attempt may take.
        retries: Attempts after the first, where a connection fails and on the statuses 429 and 5xx but for 504.

    Raises:
        EngineError: for a URL that is not one of http or https, or that holds a password, or a key that no header can
            hold.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, connections: int = 16, timeout_s: float = 60.0, retries: int = 4
    ) -> None:
        self.url = _checked(url)
        if api_key and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
            raise EngineError(
                "the API key holds blanks at an end, or what is no printable ASCII",
                where=self.url,
                fix="Look whether a line end came with it.",
            )
        self._key = api_key
        self._timeout_s = timeout_s
        self._retries = retries
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def get(self, path: str) -> Any:
        """The JSON that stands at a path. Raises as `post`."""
        return self._json(path, self._asked("GET", path, None))

    def post(
        self, path: str, body: Mapping[str, Any], *, given_up: Event | None = None, request: int | None = None
    ) -> Any:
        """The JSON that is answered.

        Args:
            given_up: Once set, no attempt is made any more.
            request: Its place among the requests of a call, from 0; errors tell it.

        Raises:
            Refused: on a status that asking again would not change.
            EngineBusy: where the server stays at 429 or 503.
            DeadlineExceeded: where an answer takes longer than `timeout_s`, or than the server gives it (504); it is
                not asked for again, since the work would be done again, and again in vain.
            EngineError: for a body that is no JSON; where the server cannot be reached, fails at each attempt, or does
                not answer with JSON.
        """
        return self._json(path, self._asked("POST", path, body, given_up, request))

    def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """Post where only success counts. Raises as `post`."""
        self._asked("POST", path, body)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _asked(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        given_up: Event | None = None,
        request: int | None = None,
    ) -> bytes:
        where = f"{self.url}{path}" if request is None else f"{self.url}{path}, request {request + 1}"
        sent = None if body is None else _written(body, where)
        given_up = given_up or _NEVER
        for attempt in range(self._retries + 1):
            if given_up.is_set():
                raise EngineError("given up before it was asked", where=where)
            try:
                status, headers, content = self._attempt(method, f"{self.url}{path}", sent)
            except httpx.HTTPError as error:
                failure, asked_for = self._broken(error, where), 0.0
            else:
                if 200 <= status < 300:
                    return content
                reason = self._reason(status, headers, content)
                if status not in _BUSY and status < 500:
                    raise Refused(status, reason, where)
                failure, asked_for = self._failing(status, reason, where), _retry_after(headers)
            # What took too long would do so again. A server that wants to be left alone for longer than an answer may
            # take is not waited for.
            in_vain = isinstance(failure, DeadlineExceeded) or asked_for > max(self._timeout_s, _LONGEST_WAIT)
            if in_vain or attempt == self._retries:
                raise failure
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
            if given_up.wait(asked_for + wait):
                raise failure
        raise AssertionError("unreachable")

    def _attempt(self, method: str, url: str, body: bytes | None) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and content. The clock runs over all of it: httpx's own runs anew with each piece."""
        end = time.monotonic() + self._timeout_s
        content = bytearray()
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            with self._client.stream(method, url, content=body, headers=headers) as response:
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("the answer came too slowly")
        except RuntimeError:
            if not self._client.is_closed:
                raise
            raise EngineError("the engine is closed", where=url) from None
        return response.status_code, response.headers, bytes(content)

    def _broken(self, error: httpx.HTTPError, where: str) -> EngineError:
        """What is told where no whole answer came."""
        what = f"({str(error) or type(error).__name__}; {self._attempts})"
        if isinstance(error, httpx.DecodingError):
            return EngineError(f"the server's answer cannot be unpacked {what}", where=where, fix="Its log says more.")
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return DeadlineExceeded(
                f"the server did not answer within {self._timeout_s:g} seconds",
                where=where,
                fix="Set a longer timeout_s, or fewer requests at once.",
            )
        return EngineError(
            f"the server cannot be reached {what}", where=where, fix="Check the address, and that the server runs."
        )

    def _failing(self, status: int, reason: str, where: str) -> EngineError:
        what = f"({status}: {reason}; {self._attempts})"
        if status in _BUSY:
            return EngineBusy(f"the server is too busy {what}", where=where, fix="Ask later, or fewer at once.")
        if status == HTTPStatus.GATEWAY_TIMEOUT:
            told = f"the server was not done in time ({status}: {reason})"
            return DeadlineExceeded(told, where=where, fix="Ask fewer at once.")
        return EngineError(f"the server fails {what}", where=where, fix="Its log says more.")

    @property
    def _attempts(self) -> str:
        return f"asked up to {self._retries + 1} times" if self._retries else "asked once"

    def _json(self, path: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise EngineError(
                f"the server does not answer with JSON ({self._shown(content)!r})",
                where=f"{self.url}{path}",
                fix="Give the address of an OpenAI-compatible server.",
            ) from None

    def _reason(self, status: int, headers: httpx.Headers, content: bytes) -> str:
        """The server's own words: OpenAI's `error.message`, FastAPI's `detail`, or the text as it is."""
        if 300 <= status < 400:
            return f"it sends on to {headers.get('location', 'another address')}, where a key is not sent after it"
        try:
            told = json.loads(content)
            told = told.get("error", told)
            told = told if isinstance(told, str) else told.get("message") or told["detail"]
        except (ValueError, AttributeError, KeyError, TypeError):
            told = self._shown(content) or httpx.codes.get_reason_phrase(status) or "no reason given"
        return self._shown(told if isinstance(told, str) else json.dumps(told))

    def _shown(self, text: str | bytes) -> str:
        """As one line of bounded length; some servers repeat the key that they refuse."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        text = text.replace(self._key, "***") if self._key else text  # before it is cut: a part of a key is one too
        return " ".join(text.split())[:500]


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise EngineError(f"{url!r} is not a URL ({error})", fix="Write it as in http://localhost:8000.") from None
    if parsed.userinfo:
        raise EngineError("the URL of a server holds a password", fix="Give a key in an environment variable.")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise EngineError(f"{url!r} is not the address of a server", fix="Write it as in http://localhost:8000.")
    return url.rstrip("/").removesuffix("/v1")


def _written(body: Mapping[str, Any], where: str) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # a number without end, half a character
        raise EngineError(
            f"the request cannot be written as JSON ({error})", where=where, fix="Check its texts and numbers."
        ) from None


def _fix(status: int) -> str | None:
    if status == HTTPStatus.UNAUTHORIZED:
        return "Check the API key."
    if status == HTTPStatus.FORBIDDEN:
        return "Check the API key, and by which name the server is reached."
    if 300 <= status < 400:
        return "Give the address that it sends on to."
    return None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks for, as a number or until a date; 0 where it asks for none."""
    asked = headers.get("retry-after", "")
    try:
        return max(float(asked), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(asked)
        return max((date - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
