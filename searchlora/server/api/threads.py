"""Work in a thread of its own that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Made = TypeVar("Made")


def in_new_thread(do: Callable[[], Made]) -> Future[Made]:
    """Call something that computes with a model; it cannot be cancelled.

    OpenMP keeps threads for each thread that has computed until it ends, and they slow down all others: so none that
    goes on (the event loop's, a pool's) may compute.
    """
    result: Future[Made] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            made = do()
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(made)

    threading.Thread(target=run, name="searchlora-errand", daemon=True).start()
    return result
