"""Work in threads that end with it.

OpenMP keeps threads for each thread that has computed until it ends, and they slow down all others: so none that goes
on (the event loop's, a pool's) may compute with a model.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from searchlora.errors import DeadlineExceeded, EngineBusy

Made = TypeVar("Made")


def in_new_thread(do: Callable[[], Made]) -> Future[Made]:
    """Call something that computes with a model, at once; it cannot be cancelled."""
    errand = Errand(lambda _: do(), None)
    errand.result.set_running_or_notify_cancel()
    threading.Thread(target=errand.run, name="searchlora-errand", daemon=True).start()
    return errand.result


@dataclass(eq=False)
class Errand:
    """Something to compute.

    Attributes:
        do: Is called with the errand, so that it can see whether it is late.
        deadline: On the monotonic clock, after which nobody wants it; None: it has all the time.
    """

    do: Callable[[Errand], Any]
    deadline: float | None
    result: Future[Any] = field(default_factory=Future)

    def check_time(self) -> None:
        """Raises `DeadlineExceeded` once the deadline has passed."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less.")

    def run(self) -> None:
        """Do it and keep what it gives or raises."""
        try:
            self.check_time()
            made = self.do(self)
        except BaseException as error:
            self.result.set_exception(error)
        else:
            self.result.set_result(made)


class Line:
    """Errands done one after the other, in the order in which they came. Safe for threads.

    What was cancelled before its turn came is not done, and leaves its place at once.

    Args:
        places: Errands that wait or are done at most.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: deque[Errand] = deque()
        self._lock = threading.Lock()
        self._driven = False  # whether a thread does them

    def put(self, do: Callable[[Errand], Any], seconds: float | None) -> Future[Any]:
        """Take an errand in, and go on.

        Args:
            seconds: Until it must be done; what is late when its turn comes fails with `DeadlineExceeded`.

        Raises:
            EngineBusy: when all places are taken.
        """
        errand = Errand(do, None if seconds is None else time.monotonic() + seconds)
        with self._lock:
            self._waiting = deque(each for each in self._waiting if not each.result.cancelled())
            if len(self._waiting) + self._driven >= self._places:
                raise EngineBusy(f"{self._places} such requests wait already", fix="Ask again later.")
            if not self._driven:
                threading.Thread(target=self._drive, name="searchlora-line", daemon=True).start()
                self._driven = True
            self._waiting.append(errand)
        return errand.result

    def _drive(self) -> None:
        while (errand := self._next()) is not None:
            if errand.result.set_running_or_notify_cancel():
                errand.run()

    def _next(self) -> Errand | None:
        with self._lock:
            self._driven = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None
