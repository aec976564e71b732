"""Running the grading page."""

from __future__ import annotations

import socket
from contextlib import suppress

from searchlora.server.grading.app import create_app
from searchlora.server.grading.session import Session


def serve(session: Session, listening: socket.socket, host: str) -> None:
    """Serve the page until interrupted."""
    import uvicorn

    config = uvicorn.Config(
        create_app(session, names=[host]), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    # uvicorn answers what it has begun, then raises the interruption again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
