"""Work in threads, fair between clients, with deadlines and cancellation.

OpenMP keeps a thread pool for every thread that has computed until that thread ends, and each pool slows down the
others. So every job has a thread of its own, which ends with it, and the event loop's thread never computes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias, TypeVar

from searchlora.errors import DeadlineExceeded, EngineBusy
from searchlora.time_limit import run_in_new_thread

T = TypeVar("T")


class JobCancelled(Exception):
    """The client of a running job has cancelled it."""


class JobFuture(Future[T]):
    """The result of a job. `cancel` drops a waiting job, and asks a running one to stop at its next check."""

    def __init__(self, deadline: float | None = None) -> None:
        super().__init__()
        self._deadline = deadline
        self.stop_requested = False

    def cancel(self) -> bool:
        self.stop_requested = True
        return super().cancel()

    def check(self) -> None:
        """Raise `DeadlineExceeded` after the deadline, and `JobCancelled` when the client does not wait any more."""
        if self.stop_requested:
            raise JobCancelled
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less.")


#: A job: its future, and its function, which gets the future to check whether it is still needed.
_Job: TypeAlias = tuple[JobFuture[Any], Callable[[JobFuture[Any]], Any]]


class FairThreads:
    """Runs jobs in threads. Thread-safe.

    Clients take turns, the jobs of one client start in FIFO order, and one client has at most half of the threads: its
    slow work never holds up the work of others. A job that is cancelled before it starts is never run and gives its
    place back at once.

    Examples:
        >>> threads = FairThreads(2, "example")
        >>> threads.submit("client", lambda _: 1 + 1).result()
        2
        >>> threads.shutdown()
    """

    def __init__(
        self, count: int, name: str, *, capacity: int | None = None, capacity_per_client: int | None = None
    ) -> None:
        self._count, self._per_client, self._name = count, max(1, count // 2), name
        self._capacity = capacity
        self._capacity_per_client = capacity if capacity_per_client is None else capacity_per_client
        self._waiting: OrderedDict[Hashable, deque[_Job]] = OrderedDict()  # the client whose turn it is first
        self._running: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self._closed = False

    def submit(
        self, client_id: Hashable, function: Callable[[JobFuture[T]], T], timeout: float | None = None
    ) -> JobFuture[T]:
        """Run a function when its client's turn comes. After `shutdown` its future is cancelled."""
        future: JobFuture[T] = JobFuture(None if timeout is None else time.monotonic() + timeout)
        with self._lock:
            if self._capacity is not None:
                self._check_capacity(client_id, self._capacity)
            self._waiting.setdefault(client_id, deque()).append((future, function))
            self._start()
        return future

    def shutdown(self) -> None:
        """Cancel what has not started. Does not wait for what runs."""
        with self._lock:
            self._closed = True
            self._start()

    def _check_capacity(self, client_id: Hashable, capacity: int) -> None:
        for client, jobs in list(self._waiting.items()):
            if remaining := deque(job for job in jobs if not job[0].cancelled()):
                self._waiting[client] = remaining
            else:
                del self._waiting[client]
        if sum(map(len, self._waiting.values())) + self._running.total() >= capacity:
            raise EngineBusy(f"{capacity} such requests wait already", fix="Ask again later.")
        if len(self._waiting.get(client_id, ())) >= (self._capacity_per_client or capacity):
            message = f"{self._capacity_per_client} such requests of this client wait already"
            raise EngineBusy(message, fix="Ask again later.")

    def _start(self) -> None:
        """Start as much as there is room for. Needs the lock."""
        if self._closed:
            for queue in self._waiting.values():
                for future, _ in queue:
                    future.cancel()
            self._waiting.clear()
        while self._running.total() < self._count:
            turns = [client_id for client_id in self._waiting if self._running[client_id] < self._per_client]
            if not turns:
                return
            client_id = turns[0]
            future, function = self._waiting[client_id].popleft()
            self._waiting.move_to_end(client_id)
            if not self._waiting[client_id]:
                del self._waiting[client_id]
            if not future.set_running_or_notify_cancel():
                continue
            self._running[client_id] += 1
            try:
                run_in_new_thread(partial(self._run, client_id, future, function), self._name)
            except RuntimeError as error:  # there can be no more threads
                self._running[client_id] -= 1
                future.set_exception(error)

    def _run(self, client_id: Hashable, future: JobFuture[T], function: Callable[[JobFuture[T]], T]) -> None:
        try:
            future.check()
            result = function(future)
        except BaseException as error:
            self._end(client_id)
            future.set_exception(error)
        else:
            self._end(client_id)
            future.set_result(result)

    def _end(self, client_id: Hashable) -> None:
        with self._lock:
            self._running[client_id] -= 1
            if not self._running[client_id]:
                del self._running[client_id]
            self._start()


async def in_thread(
    threads: FairThreads,
    client_id: Hashable,
    function: Callable[[], T],
    *,
    on_abandoned: Callable[[T], object] | None = None,
) -> T:
    """Run a blocking function in a thread, and stop waiting as soon as the waiting task is cancelled."""
    future = threads.submit(client_id, lambda _: function())
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel() and on_abandoned is not None:
            future.add_done_callback(lambda done: done.exception() or on_abandoned(done.result()))
        raise
