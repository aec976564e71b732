"""HTTP/1.1 protocol of uvicorn with a bounded request head and a time-out for it."""

from __future__ import annotations

import asyncio
import json
import sys

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from searchlora.server.api.errors import ApiError

#: Bytes of a request line with its headers, or of a chunk header, that may be incomplete.
MAX_HEAD_BYTES = 65_536

#: Seconds from the first byte of a request, or from the connection, to the end of its headers.
HEAD_SECONDS = 30.0


class HttpProtocol(H11Protocol):  # type: ignore[misc]  # uvicorn is untyped here
    """One connection. Errors of the protocol are answered as JSON, once, and close the connection.

    uvicorn itself has no time-out for a request head that arrives slowly or never ends (a "slow loris").
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time-out of the first request."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time-out."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; the time-out runs while no request is in progress."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_head_timer()

    def on_response_complete(self) -> None:
        """Hand over to the keep-alive time-out of uvicorn, until the next byte arrives."""
        self._stop_head_timer()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request and close the connection."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._fail(
                ApiError(431, "header_too_long", f"Request line and headers have at most {MAX_HEAD_BYTES} bytes.")
            )
        else:
            self._fail(ApiError(status, "invalid_http", msg))

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        self._fail(ApiError(408, "header_too_slow", f"No request arrived within {HEAD_SECONDS:.0f} seconds."))

    def _fail(self, error: ApiError) -> None:
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()
