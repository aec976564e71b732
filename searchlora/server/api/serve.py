"""Making the engine and running the server."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.inference.local import LocalEngine
from searchlora.models.catalogue import public_name
from searchlora.models.resolve import resolve
from searchlora.server.api.app import create_app
from searchlora.server.api.encoders import Encoders
from searchlora.server.api.service import Service
from searchlora.server.api.settings import Settings
from searchlora.server.api.threads import in_new_thread


def make_service(
    base: str,
    store: Store,
    settings: Settings,
    *,
    encoders: Sequence[str] = (),
    load: Sequence[str] = (),
    **engine: Any,
) -> Service:
    """Load a base, and adapters before they are first asked for.

    Args:
        encoders: As `resolve` takes them.
        load: References of adapters.
        engine: Goes to `LocalEngine`.

    Raises:
        BaseModelError, InvalidName, NotInStore, LoadCheckFailed: for what is not there or must not be loaded.
        UsageError: for two models that requests would call by one name.
    """
    encoding = Encoders(encoders, store)
    if (name := public_name(base)) in encoding.bases:
        raise UsageError(f"the base and an encoder would both be called '{name}'", fix="Rename the folder of one.")

    def made() -> LocalEngine:
        local = LocalEngine(resolve(base), store, waiting=settings.waiting, **engine)
        for adapter in load:
            local.load(adapter)
        return local

    return Service(in_new_thread(made).result(), store, encoding, settings)


def make_server(service: Service, *, grace: float = 60.0) -> uvicorn.Server:
    """A server that finishes what is in flight when it is told to stop.

    Args:
        grace: Seconds for that; what takes longer breaks off. Infinity: nothing does.
    """
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever may set them could ask under any address
        timeout_graceful_shutdown=None if math.isinf(grace) else math.ceil(grace),
    )
    return uvicorn.Server(config)


def serve(service: Service, listening: socket.socket, *, grace: float = 60.0) -> None:
    """Serve until interrupted or terminated."""
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has finished
        make_server(service, grace=grace).run(sockets=[listening])
