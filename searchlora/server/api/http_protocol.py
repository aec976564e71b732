"""HTTP/1.1 protocol of uvicorn with a bounded request head, a time-out for it, and a limit of connections."""

from __future__ import annotations

import asyncio
import json
import sys
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from searchlora.server.api.errors import ApiError

#: Bytes of a request line with its headers, or of a chunk header, that may be incomplete.
MAX_HEAD_BYTES = 65_536

#: Seconds from the first byte of a request, or from the connection, to the end of its headers.
HEAD_SECONDS = 30.0


class WaitingConnections:
    """Connections that wait for their client: for a request or the rest of one, or until a response is read."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[HttpProtocol, None]] = {}  # the one that has waited longest first

    def add(self, connection: HttpProtocol) -> None:
        """Add a connection; one that waits already keeps its place."""
        self._by_address.setdefault(connection.address, {}).setdefault(connection)

    def discard(self, connection: HttpProtocol) -> None:
        """Remove a connection."""
        of_address = self._by_address.get(connection.address, {})
        of_address.pop(connection, None)
        if not of_address:
            self._by_address.pop(connection.address, None)

    def close_longest(self, but: HttpProtocol) -> bool:
        """Close one other than `but`: of the address with most of them, the one that has waited longest.

        Returns:
            Whether there was one.
        """
        for of_address in sorted(self._by_address.values(), key=len, reverse=True):
            for connection in of_address:
                if connection is not but:
                    connection.give_way()
                    return True
        return False


#: The waiting connections of each server.
_WAITING: WeakKeyDictionary[ServerState, WaitingConnections] = WeakKeyDictionary()


class HttpProtocol(H11Protocol):  # type: ignore[misc]  # uvicorn is untyped here
    """One connection. Errors of the protocol are answered as JSON, once, and close the connection.

    uvicorn itself has no time-out for a request head that arrives slowly or never ends (a "slow loris"), and refuses
    requests beyond its `limit_concurrency`, however many of the connections are idle. Here a connection beyond half of
    the limit closes others that wait for their client: of the address with most of them, those that have waited
    longest. So half requests cannot keep others out, and an address that sends them closes its own first. (Half: what
    was closed is counted until its task has ended.)
    """

    _head_timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """The address of the peer: the client, or a proxy."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time-out of the first request; beyond half of the limit, close waiting connections."""
        super().connection_made(transport)
        self._start_head_timer()
        self._make_room()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time-out."""
        self._stop_head_timer()
        self._waiting.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; the time-out runs while no request is in progress."""
        self._make_room()  # when the connection was made, others may have computed that wait now
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_head_timer()
        self._update()

    def on_response_complete(self) -> None:
        """Hand over to the keep-alive time-out of uvicorn, until the next byte arrives."""
        self._stop_head_timer()
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """The client does not read the response."""
        super().pause_writing()
        self._update()

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        self._update()

    def give_way(self) -> None:
        """Close the connection for another one."""
        self._waiting.discard(self)
        self.connections.discard(self)  # it is lost only later
        if self._head_timer is not None:  # an idle connection would take an answer for that to its next request
            self._fail(ApiError(408, "gave_way", "No request arrived, and others need the connection."))
        self.transport.abort()

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

    def _make_room(self) -> None:
        if self.limit_concurrency is not None:
            excess = len(self.connections) - self.limit_concurrency // 2
            while excess > 0 and self._waiting.close_longest(but=self):
                excess -= 1

    @property
    def _waiting(self) -> WaitingConnections:
        return _WAITING.setdefault(self.server_state, WaitingConnections())

    def _update(self) -> None:
        """Note whether the connection waits for its client now."""
        cycle = self.cycle
        computes = cycle is not None and not cycle.response_complete and not cycle.more_body
        if self.transport.is_closing() or (computes and not self.flow.write_paused):
            self._waiting.discard(self)
        else:
            self._waiting.add(self)

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
