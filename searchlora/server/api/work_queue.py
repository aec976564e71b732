"""Background work in short-lived threads: a FIFO queue with deadlines, and single jobs.

OpenMP keeps a thread pool for every thread that has computed until that thread ends, and each pool slows down the
others. So no long-lived thread (the event loop's, a thread pool's) computes with a model here.
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

T = TypeVar("T")


def run_in_new_thread(function: Callable[[], T]) -> Future[T]:
    """Run a function that computes with a model at once in a thread of its own. It cannot be cancelled.

    Examples:
        >>> run_in_new_thread(lambda: 1 + 1).result()
        2
    """
    job = Job(lambda _: function(), None)
    job.future.set_running_or_notify_cancel()
    threading.Thread(target=job.run, name="searchlora-job", daemon=True).start()
    return job.future


@dataclass(eq=False)
class Job:
    """A function to run, its deadline and its future.

    Attributes:
        function: Called with the job, so that it can check the deadline.
        deadline: Monotonic time after which the result is not needed; None: no deadline.
        future: Receives the result or the exception.
    """

    function: Callable[[Job], Any]
    deadline: float | None
    future: Future[Any] = field(default_factory=Future)

    def check_deadline(self) -> None:
        """Raise `DeadlineExceeded` after the deadline."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less.")

    def run(self) -> None:
        """Call the function and set the future."""
        try:
            self.check_deadline()
            result = self.function(self)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkQueue:
    """Jobs run one after the other in FIFO order. Safe for threads.

    A job that is cancelled before it starts is never run and gives its place back at once.

    Args:
        capacity: Jobs that wait or run at most.

    Examples:
        >>> WorkQueue(2).put(lambda job: "done", timeout=5).result()
        'done'
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[Job] = deque()
        self._lock = threading.Lock()
        self._running = False  # whether a thread runs jobs

    def put(self, function: Callable[[Job], Any], timeout: float | None) -> Future[Any]:
        """Add a job without waiting for it.

        Args:
            timeout: Seconds until the deadline; a job that is late when its turn comes fails with `DeadlineExceeded`.

        Raises:
            EngineBusy: when the queue is full.
        """
        job = Job(function, None if timeout is None else time.monotonic() + timeout)
        with self._lock:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.cancelled())
            if len(self._waiting) + self._running >= self._capacity:
                raise EngineBusy(f"{self._capacity} such requests wait already", fix="Ask again later.")
            if not self._running:
                threading.Thread(target=self._run, name="searchlora-work-queue", daemon=True).start()
                self._running = True
            self._waiting.append(job)
        return job.future

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if job.future.set_running_or_notify_cancel():
                job.run()

    def _next(self) -> Job | None:
        with self._lock:
            self._running = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None
