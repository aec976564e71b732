"""Scheduler: continuous batching of the requests of all clients.

There is no prefill phase nor decoding phase. Between two steps, queued requests are admitted to the model runner as
long as they fit beside those that run; a step advances every running request, and those that end leave. At most one
thread computes: that of a call of `finish`, or else a thread of its own, which ends when nothing is left to do.

A request is in one of these states:

| state | where | next |
| --- | --- | --- |
| queued | its client's queue in the `FairQueue` | admitted when it fits; done if cancelled or late |
| admitted | `_admitted`, during one step | running, or done after that step |
| running | `ModelRunner.running` | done: finished, failed, cancelled or late |
| done | its future has a result or an error | |

`close` ends in two stages: first new requests are refused, then those that are not done fail.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import torch

from searchlora.errors import EngineBusy, EngineError
from searchlora.inference.scheduling.fair_queue import FairQueue
from searchlora.inference.scheduling.requests import AnyModelRequest, AnyRequest, CallbackRequest, Limits, ModelRequest

#: Seconds between two sweeps of the queue for cancelled and late requests.
_SWEEP_INTERVAL = 0.25


class Admission(Protocol):
    """One round of admission."""

    def may_take(self, request: AnyRequest) -> bool:
        """Whether the request's client may have more now. If not, requests of others do not overtake this one."""

    def fits(self, request: AnyRequest) -> bool:
        """Whether a request has room beside those that run and those admitted before it; it counts as admitted then."""


class ModelRunner(Protocol):
    """Computes requests. One thread at a time uses it; other threads may only read `running`."""

    @property
    def running(self) -> Collection[AnyModelRequest]:
        """Requests that were begun and are not done."""

    def release_finished(self) -> None:
        """Free what running requests hold that are done, cancelled or late."""

    def admission(self, waiting: Collection[Hashable]) -> Admission:
        """One round of admission, while these clients have queued requests."""

    def compute(self, requests: Sequence[AnyModelRequest]) -> None:
        """Begin requests, and advance the running ones by one step. Each request gets its result or its error."""

    def drop_all(self) -> None:
        """Forget all running requests."""


class Scheduler:
    """The queue of all clients and the thread that computes it.

    No thread outlives the work, so an engine without references can be garbage-collected.
    """

    def __init__(self, runner: ModelRunner, limits: Limits) -> None:
        self.limits = limits
        self.refused = 0
        self._runner = runner
        self._queue = FairQueue()
        self._admitted: list[AnyRequest] = []  # of the current step
        self._changed = threading.Condition()
        self._is_driven = False  # whether a thread computes
        self._driver: int | None = None  # its id
        self._calls = 0  # running calls of `finish`
        self._closed = self._stopped = False
        self._swept = 0.0

    @property
    def waiting(self) -> int:
        """Number of model requests that are not begun."""
        begun = set(map(id, list(self._runner.running)))
        open_ = [
            request for request in self._admitted if isinstance(request, ModelRequest) and not request.result.done()
        ]
        return len(self._queue) + sum(id(request) not in begun for request in open_)

    def submit(self, requests: Sequence[AnyRequest], client: Hashable) -> None:
        """Queue requests, all or none, and return at once; a thread computes them."""
        late: list[AnyRequest] = []
        try:
            with self._changed:
                self._check_open()
                if self._is_full(len(requests), client):
                    late += self._sweep()
                if self._is_full(len(requests), client):
                    self.refused += len(requests)
                    raise EngineBusy(
                        f"{len(self._queue)} requests wait already, {self._queue.length(client)} of this client, and "
                        f"{len(requests)} came; no more than {self.limits.waiting} may wait, "
                        f"and no more than {self.limits.max_queue} of one client",
                        fix="Ask again later, or ask fewer at once.",
                    )
                for request in requests:
                    request.interactive = True
                    self._queue.push(request, client)
                try:
                    self._start_thread()
                except RuntimeError as error:
                    self._queue.remove(requests)
                    raise EngineBusy(f"no thread can be started ({error})", fix="Ask again later.") from None
        finally:
            for request in late:  # without the lock: a done-callback may call the engine
                request.fail_late()

    def finish(self, requests: Sequence[AnyRequest]) -> None:
        """Queue requests, in a queue of their own, and return when all are done, successfully or not.

        If no thread computes, the calling thread does, for all clients, until its own requests are done: OpenMP keeps
        worker threads for each thread that computes, and a step takes half as long again beside those of another one.
        At most half of the queue's places are used at once, so that others find room.
        """
        client = object()
        left, open_ = deque(requests), _Countdown(len(requests))
        for request in requests:
            request.result.add_done_callback(open_.down)
        max_queued = max(1, self.limits.waiting // 2)

        def push() -> None:
            while left and not self._stopped and open_.count - len(left) < max_queued:
                self._queue.push(left.popleft(), client)

        with self._changed:
            self._check_open()
            if self._driver == threading.get_ident():
                raise EngineError(
                    "a call-back of the engine waits for the engine itself",
                    fix="Ask from another thread, or use 'submit'.",
                )
            self._calls += 1
        try:
            while left or open_.count:
                while left and self._stopped:
                    left.popleft().fail(_closed())
                with self._changed:
                    push()
                    if self._is_driven:
                        self._changed.wait()
                        continue
                    self._is_driven = True
                self._drive(lambda: not open_.count, push)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Refuse new requests and finish the queued ones; those not done after `seconds` fail."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            while (self._is_driven or self._calls or self._has_work) and time.monotonic() < until:
                with suppress(RuntimeError):  # no thread can be started: waiting clients compute
                    self._start_thread()
                self._changed.wait(min(until - time.monotonic(), 1.0))
            self._stopped = True
            left = [*self._queue.remove_if(lambda _: True), *self._admitted, *list(self._runner.running)]
        for request in left:
            request.fail(_closed())
        with self._changed:
            self._changed.notify_all()

    @property
    def _has_work(self) -> bool:
        return bool(len(self._queue) or self._runner.running)

    def _is_full(self, count: int, client: Hashable) -> bool:
        of_client = self._queue.length(client) + count
        return len(self._queue) + count > self.limits.waiting or of_client > self.limits.max_queue

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _start_thread(self) -> None:
        """Start a computing thread, if none runs and there is work. Raises `RuntimeError` if none can be started."""
        if not self._is_driven and self._has_work:
            self._is_driven = True
            try:
                drive = partial(self._drive, lambda: False, lambda: None)
                threading.Thread(target=drive, name="searchlora-engine", daemon=True).start()
            except RuntimeError:
                self._is_driven = False
                raise

    def _drive(self, is_enough: Callable[[], bool], push: Callable[[], None]) -> None:
        """Compute step by step until `is_enough()` or until nothing is left to do; `push` is called with the lock
        before each admission.
        """
        try:
            self._driver = threading.get_ident()
            torch.get_num_threads()  # sets the number of OpenMP threads of this thread, for our kernels
            with torch.inference_mode():
                while self._has_work and not is_enough():
                    self._step(push)
        except BaseException as error:  # an interrupt, at any point
            lost = [*self._admitted, *self._runner.running]
            if isinstance(error, Exception):  # it would come again for the queued requests
                with self._changed:
                    lost += self._queue.remove_if(lambda _: True)
            for request in lost:
                request.fail(EngineError(f"the computation was interrupted ({type(error).__name__}: {error})"))
            self._runner.drop_all()
            raise
        finally:
            self._admitted = []
            self._stop_driving()

    def _stop_driving(self) -> None:
        with self._changed:
            self._is_driven, self._driver = False, None
            self._changed.notify_all()
            with suppress(RuntimeError):  # no thread can be started: the next client computes the queued requests
                self._start_thread()

    def _step(self, push: Callable[[], None]) -> None:
        self._runner.release_finished()
        with self._changed:
            push()
            late = self._sweep() if time.monotonic() > self._swept + _SWEEP_INTERVAL else []
            admission = self._runner.admission(self._queue.clients)
            self._queue.admit(admission.fits, self._admitted, admission.may_take)
            self._changed.notify_all()  # the queue has room again
        for request in late:
            request.fail_late()
        to_compute: list[AnyModelRequest] = []
        for request in self._admitted:
            if request.is_over:
                request.fail_late()
            elif isinstance(request, CallbackRequest):
                request.run()
            elif isinstance(request, ModelRequest):
                to_compute.append(request)
        self._runner.compute(to_compute)
        self._admitted = []

    def _sweep(self) -> list[AnyRequest]:
        self._swept = time.monotonic()
        return self._queue.remove_if(lambda request: request.is_over)


class _Countdown:
    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()

    def down(self, _: object) -> None:
        with self._lock:
            self.count -= 1


def _closed() -> EngineBusy:
    return EngineBusy("the engine is closed")
