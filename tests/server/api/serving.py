"""Helpers that run a real server over tiny models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from searchlora.inference.settings import LocalSettings
from searchlora.server.api.serve import make_server, make_service
from searchlora.server.api.service import Service, Settings
from searchlora.server.http import address, bind


def made_service(
    base, store, encoder=None, engine=None, pipelines=(), overrides=(), cache=None, grades=None, **settings
) -> Service:
    """A service with an engine of its own."""
    own = {"precision": "fp32", "adapters": 3, "batch_rows": 8, "batch_invariant": False} | (engine or {})
    per_caller = own.pop("waiting_per_caller", None)
    encoders = [str(encoder.path)] if encoder else []
    return make_service(
        str(base.path),
        store,
        Settings(**settings),
        encoders=encoders,
        engine=LocalSettings(**own),
        waiting_per_caller=per_caller,
        pipelines=pipelines,
        overrides=overrides,
        cache=cache,
        grades=grades,
    )


@contextmanager
def served(service: Service, grace: float = 5, trusted_proxies: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server that is really there; it ends as one does that is terminated."""
    with bind("127.0.0.1", 0) as listening:
        server = make_server(service, grace=grace, trusted_proxies=trusted_proxies)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield address(listening).rstrip("/")
        finally:
            server.should_exit = True
            thread.join()


def asked(text="tent", model="one", **more):
    """The body of a request for an answer."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8} | more
