"""uvicorn's HTTP/1.1 protocol with a bounded request head and errors as JSON, and the settings of both servers.

Memory is bounded: by the number of connections, the bytes of a head, and (in the guard) those of a body. Connections
that send their requests slowly are left to the reverse proxy.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from searchlora.server.api.errors import ApiError

#: Bytes of a request line with its headers, or of a chunk header.
MAX_HEAD_BYTES = 65_536


class HttpProtocol(H11Protocol):  # type: ignore[misc]  # uvicorn is untyped here
    """One connection. An error of the protocol is answered as JSON, once, and closes the connection."""

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request and close the connection."""
        invalid = sys.exc_info()[1]
        status = invalid.error_status_hint if isinstance(invalid, h11.RemoteProtocolError) else 400
        error = ApiError(status, "invalid_http", msg)
        if status == 431:
            error = ApiError(431, "header_too_long", f"Request line and headers have at most {MAX_HEAD_BYTES} bytes.")
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


#: Seconds after which an idle connection is closed: later than clients and proxies close theirs (httpx after 5, HAProxy
#: and nginx after at most 60). Whoever closes later never sends a request into a connection that is being closed.
KEEP_ALIVE_S = 75


def uvicorn_config(app: ASGIApp, max_connections: int, **more: Any) -> uvicorn.Config:
    """Settings of uvicorn: bounded heads and connections, no log of requests, no name of the server."""
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=max_connections + 1,  # uvicorn refuses at that number
        # uvicorn's own settings close every log handler of the process, and the handler of absl, which `rouge_score`
        # loads, closes its stream: a stderr that was redirected.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        **more,
    )
