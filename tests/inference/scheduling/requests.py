"""Requests for the tests of the scheduler, and helpers that keep an engine busy."""

from __future__ import annotations

import threading

from searchlora.inference.engine import Request
from searchlora.inference.scheduling.requests import CallbackRequest
from searchlora.outputs import Grammar


def asked(text: str = "tent", adapter: str | None = None, tokens: int = 5, grammar: Grammar | None = None) -> Request:
    """A request for a few tokens."""
    return Request(({"role": "user", "content": text},), adapter, tokens, grammar)


def hold(engine):
    """Keep the engine busy until the event is set; requests wait meanwhile."""
    begun, free = threading.Event(), threading.Event()

    def callback():
        begun.set()
        free.wait(20)

    engine._core.submit([CallbackRequest(callback=callback)], "hold")
    begun.wait(10)
    return free
