"""Helpers that run a real server over tiny models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from searchlora.server.api.config import ServeConfig
from searchlora.server.api.keys import sha256_of
from searchlora.server.api.serve import make_server, make_service
from searchlora.server.api.service import Service
from searchlora.server.http import address, bind


def made_service(base, store, encoder=None, **settings) -> Service:
    """A service with an engine of its own, with few slots and rows."""
    own = {"precision": "fp32", "max_loras": 3, "max_num_seqs": 8, "shutdown_timeout": 5, "per_client": 10_000}
    own |= {"encoders": (str(encoder.path),)} if encoder else {}
    return make_service(ServeConfig(base=str(base.path), store=store.root, **own | settings))


@contextmanager
def served(service: Service) -> Iterator[str]:
    """The URL of a server that is really there; it ends as one does that is terminated."""
    with bind("127.0.0.1", 0) as listening:
        server = make_server(service)
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
    """The body of a request for an answer, whatever the task of the adapter is."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "prompt": "raw", "max_tokens": 8} | more


def new_key(file, name, role) -> str:
    """A key that was added to a file of keys."""
    key = f"the-secret-of-{name}"
    with file.open("a") as out:
        out.write(f"{name} {role} {sha256_of(key.encode())}\n")
    return key
