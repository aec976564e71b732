"""Background work in threads: a fair job queue with deadlines and cancellation, and fair threads for short work.

OpenMP keeps a thread pool for every thread that has computed until that thread ends, and each pool slows down the
others. So no long-lived thread (the event loop's, a thread pool's) computes with a model here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from searchlora.errors import DeadlineExceeded, EngineBusy

T = TypeVar("T")


class FairThreads:
    """Threads for short blocking work outside the event loop. Thread-safe.

    Clients take turns, the work of one client starts in FIFO order, and one client has at most half of the threads: its
    slow work never holds up the work of others.

    Args:
        count: Number of threads.
        name: Prefix of their names.

    Examples:
        >>> threads = FairThreads(2, "example")
        >>> threads.submit("client", lambda: 1 + 1).result()
        2
        >>> threads.shutdown()
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._count, self._per_client = count, max(1, count // 2)
        self._waiting: OrderedDict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()
        self._running: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, client_id: Hashable, function: Callable[[], T]) -> Future[T]:
        """Run a function when its client's turn comes. After `shutdown` its future is cancelled."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(client_id, deque()).append((future, function))
            self._start()
        return future

    def shutdown(self) -> None:
        """Cancel what has not started. Does not wait for what runs."""
        with self._lock:
            self._closed = True
            self._start()
        self._pool.shutdown(wait=False)

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
            if future.set_running_or_notify_cancel():
                self._running[client_id] += 1
                self._pool.submit(self._run, client_id, future, function)

    def _run(self, client_id: Hashable, future: Future[Any], function: Callable[[], Any]) -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
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
    """Run a blocking function in a thread, and stop waiting as soon as the waiting task is cancelled.

    Args:
        threads: Where it runs.
        client_id: Whose turn it uses.
        function: The function; it is dropped if it has not started when the task is cancelled.
        on_abandoned: Called with its result if the task was cancelled while it ran.
    """
    future = threads.submit(client_id, function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel() and on_abandoned is not None:
            future.add_done_callback(lambda done: done.exception() or on_abandoned(done.result()))
        raise


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


class JobCancelled(Exception):
    """The client of a running job has cancelled it."""


class JobFuture(Future[T]):
    """A future whose `cancel` also stops a running job, at its next check."""

    def __init__(self) -> None:
        super().__init__()
        self.stop_requested = False

    def cancel(self) -> bool:
        """Drop a waiting job; ask a running one to stop."""
        self.stop_requested = True
        return super().cancel()


@dataclass(eq=False)
class Job:
    """A function to run, its deadline and its future.

    Attributes:
        function: Called with the job, so that it can check whether it is still needed.
        deadline: Monotonic time after which the result is not needed; None: no deadline.
        future: Receives the result or the exception.
    """

    function: Callable[[Job], Any]
    deadline: float | None
    future: JobFuture[Any] = field(default_factory=JobFuture)

    def check(self) -> None:
        """Raise `DeadlineExceeded` after the deadline, and `JobCancelled` when the client does not wait any more."""
        if self.future.stop_requested:
            raise JobCancelled
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less.")

    def run(self) -> None:
        """Call the function and set the future."""
        try:
            self.check()
            result = self.function(self)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkQueue:
    """Jobs run one after the other; clients take turns, and the jobs of one client run in FIFO order. Thread-safe.

    A job that is cancelled before it starts is never run and gives its place back at once.

    Args:
        capacity: Jobs that wait or run at most.
        capacity_per_client: The same for one client; None: no further limit.

    Examples:
        >>> WorkQueue(2).put(lambda job: "done", timeout=5).result()
        'done'
    """

    def __init__(self, capacity: int, capacity_per_client: int | None = None) -> None:
        self._capacity = capacity
        self._capacity_per_client = capacity if capacity_per_client is None else capacity_per_client
        self._waiting: OrderedDict[Hashable, deque[Job]] = OrderedDict()  # the client whose turn it is first
        self._lock = threading.Lock()
        self._running = False  # whether a thread runs jobs

    def put(self, function: Callable[[Job], Any], timeout: float | None, client_id: Hashable = None) -> JobFuture[Any]:
        """Add a job without waiting for it.

        Args:
            function: Called with the job when its turn comes.
            timeout: Seconds until the deadline; a job that is late when its turn comes fails with `DeadlineExceeded`.
            client_id: Whose turn it uses.

        Raises:
            EngineBusy: when the queue, or the client's share of it, is full.
        """
        job = Job(function, None if timeout is None else time.monotonic() + timeout)
        with self._lock:
            self._drop_cancelled()
            if sum(map(len, self._waiting.values())) + self._running >= self._capacity:
                raise EngineBusy(f"{self._capacity} such requests wait already", fix="Ask again later.")
            if len(self._waiting.get(client_id, ())) >= self._capacity_per_client:
                message = f"{self._capacity_per_client} such requests of this client wait already"
                raise EngineBusy(message, fix="Ask again later.")
            if not self._running:
                threading.Thread(target=self._run, name="searchlora-work-queue", daemon=True).start()
                self._running = True
            self._waiting.setdefault(client_id, deque()).append(job)
        return job.future

    def _drop_cancelled(self) -> None:
        for client_id, jobs in list(self._waiting.items()):
            if remaining := deque(job for job in jobs if not job.future.cancelled()):
                self._waiting[client_id] = remaining
            else:
                del self._waiting[client_id]

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if job.future.set_running_or_notify_cancel():
                job.run()

    def _next(self) -> Job | None:
        with self._lock:
            self._running = bool(self._waiting)
            if not self._waiting:
                return None
            client_id, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            self._waiting.move_to_end(client_id)
            if not jobs:
                del self._waiting[client_id]
            return job
