"""Futures made of futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def then(first: Future[Given], make: Callable[[Given], Made]) -> Future[Made]:
    """A future of what is made of another's value; cancelling it cancels the other."""
    second: Future[Made] = Future()

    def finish(done: Future[Given]) -> None:
        if second.cancelled():
            return
        with suppress(InvalidStateError):  # another thread may cancel it at any moment
            try:
                second.set_result(make(done.result()))
            except Exception as error:
                second.set_exception(error)

    first.add_done_callback(finish)
    second.add_done_callback(lambda done: _take_back(first, done))
    return second


def _take_back(first: Future[Any], second: Future[Any]) -> None:
    if second.cancelled():
        first.cancel()
        second.set_running_or_notify_cancel()  # or `concurrent.futures.wait` would wait for it for ever
