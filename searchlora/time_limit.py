"""A call in a thread of its own, and a time limit for one that cannot be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from searchlora.errors import DeadlineExceeded

_Result = TypeVar("_Result")


def run_in_new_thread(function: Callable[[], _Result], name: str = "searchlora-job") -> Future[_Result]:
    """Run a function at once in a thread of its own. It cannot be cancelled.

    Examples:
        >>> run_in_new_thread(lambda: 1 + 1).result()
        2
    """
    future: Future[_Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def within_budget(call: Callable[[], _Result], budget_s: float, queries: int, name: str) -> _Result:
    """What a call returns, or raises, within the time budget of its queries. After that its work goes on unheard.

    Args:
        budget_s: Seconds per query.
        queries: Number of queries of the call.
        name: Who is called, for the error and the thread.

    Raises:
        DeadlineExceeded: when the time is over.

    Examples:
        >>> within_budget(lambda: ["d1"], budget_s=10, queries=2, name="stage bm25")
        ['d1']
    """
    future = run_in_new_thread(call, name)
    try:
        return future.result(budget_s * queries)
    except TimeoutError:
        if future.done():  # the call itself raised it, or ended just now
            return future.result()
        raise DeadlineExceeded(
            f"took longer than its budget of {budget_s:g} s for each of {queries} searches",
            where=name,
            fix="Raise 'budget_s', or let the pipeline go on without it: 'on_failure: skip'.",
        ) from None
