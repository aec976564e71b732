"""One thread at a time computes; callers' works are collected into its batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from typing import Protocol

import torch

from searchlora.errors import EngineBusy, EngineError
from searchlora.inference.scheduling.fair_queue import Lines
from searchlora.inference.scheduling.requests import Limits, Work

#: Seconds between two looks through all lines for works that nobody waits for any more.
_LOOK = 0.25


class Machine(Protocol):
    """What computes works. One thread at a time uses it; only `under_way` may be read beside."""

    @property
    def under_way(self) -> Collection[Work]:
        """Works begun and not done."""

    def leave(self) -> None:
        """Let go of works under way that are done, or that nobody waits for."""

    def admission(self) -> Callable[[Work], bool]:
        """For one taking: whether a work can be computed beside those taken before it; if so it counts as taken."""

    def compute(self, works: Sequence[Work]) -> None:
        """Begin works, and go on with those under way by one step. Each work is told its value, or what failed it."""

    def drop(self) -> None:
        """Forget all works under way."""


class Scheduler:
    """Runs what waits; no thread of its own outlives the work, so an engine that nobody holds can be forgotten."""

    def __init__(self, machine: Machine, limits: Limits) -> None:
        self.limits = limits
        self.refused = 0
        self._machine = machine
        self._lines = Lines()
        self._taken: list[Work] = []  # from the lines, for the pass under way
        self._changed = threading.Condition()
        self._driven = False  # whether some thread computes
        self._driver: int | None = None  # which
        self._calls = 0  # of `finish`, under way
        self._closed = self._stopped = False
        self._looked = 0.0

    @property
    def waiting(self) -> int:
        """Works that are not begun."""
        begun = set(map(id, list(self._machine.under_way)))
        taken = [work for work in self._taken if work.errand is None and not work.result.done()]
        return len(self._lines) + sum(id(work) not in begun for work in taken)

    def submit(self, works: Sequence[Work], caller: Hashable) -> None:
        """Put works at the end of their caller's line, and go on; a thread computes them.

        Raises:
            EngineBusy: when they do not all have room, no thread can be started, or the engine is closed.
        """
        late: list[Work] = []
        try:
            with self._changed:
                self._check_open()
                if len(self._lines) + len(works) > self.limits.waiting:
                    late += self._unwanted()
                if len(self._lines) + len(works) > self.limits.waiting:
                    self.refused += len(works)
                    raise EngineBusy(
                        f"{len(self._lines)} requests wait already, {len(works)} came, and no more than "
                        f"{self.limits.waiting} may wait",
                        fix="Ask again later, or ask fewer at once.",
                    )
                for work in works:
                    self._lines.put(work, caller)
                try:
                    self._start_thread()
                except RuntimeError as error:
                    self._lines.take_back(works)
                    raise EngineBusy(f"no thread can be started ({error})", fix="Ask again later.") from None
        finally:
            for work in late:  # without the lock: who is told may ask again
                work.fail_late()

    def finish(self, works: Sequence[Work], caller: Hashable) -> None:
        """Put works into their caller's line and see them done, whatever becomes of them.

        Where no thread computes, the caller's own does, for all who wait, until its works are done. (OpenMP keeps
        threads for each thread that computes, and waits idly as soon as there are more than cores: a step takes half
        as long again in a thread beside one that has computed before.) Of its works no more wait at once than half of
        those that may, so that others find room.

        Raises:
            EngineBusy: when the engine is closed.
            EngineError: in a call-back of the engine, whose thread would wait for itself.
        """
        left, given_up, open_ = deque(works), deque[Work](), _Countdown(len(works))
        for work in works:
            work.result.add_done_callback(open_.down)
        most = max(1, self.limits.waiting // 2)

        def put() -> None:
            while left and self._stopped:
                given_up.append(left.popleft())
            while left and open_.count - len(left) < most:
                self._lines.put(left.popleft(), caller)

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
                while given_up:
                    given_up.popleft().fail(_closed())
                with self._changed:
                    put()
                    if given_up:
                        continue
                    if self._driven:
                        self._changed.wait()
                        continue
                    self._driven = True
                try:
                    self._drive(lambda: not open_.count, put)
                finally:
                    self._let_go()
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Take nothing more and finish what waits; what is not finished after so many seconds fails."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            while (self._driven or self._calls or self._has_work) and time.monotonic() < until:
                with suppress(RuntimeError):  # no thread can be started: callers that wait compute
                    self._start_thread()
                self._changed.wait(min(until - time.monotonic(), 1.0))
            self._stopped = True
            left = [*self._lines.drop(lambda _: True), *self._taken, *list(self._machine.under_way)]
        for work in left:
            work.fail(_closed())
        with self._changed:
            self._changed.notify_all()

    @property
    def _has_work(self) -> bool:
        return bool(len(self._lines) or self._machine.under_way)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _start_thread(self) -> None:
        """Unless some thread computes, or there is nothing to do. Raises `RuntimeError` where none can be started."""
        if not self._driven and self._has_work:
            self._driven = True
            try:
                threading.Thread(target=self._run, name="searchlora-engine", daemon=True).start()
            except RuntimeError:
                self._driven = False
                raise

    def _run(self) -> None:
        try:
            self._drive(lambda: False, lambda: None)
        finally:
            self._let_go()

    def _drive(self, enough: Callable[[], bool], put: Callable[[], None]) -> None:
        """Compute until it is enough or nothing is left to do.

        Args:
            put: Called with the lock before works are taken.
        """
        self._driver = threading.get_ident()
        with torch.inference_mode():
            try:
                while self._has_work and not enough():
                    self._once(put)
            except BaseException as error:  # an interrupt, in the middle of anything
                lost = [*self._taken, *self._machine.under_way]
                if isinstance(error, Exception):  # it would come again for what waits
                    with self._changed:
                        lost += self._lines.drop(lambda _: True)
                for work in lost:
                    work.fail(EngineError(f"the computation was interrupted ({type(error).__name__}: {error})"))
                self._machine.drop()
                raise
            finally:
                self._taken = []

    def _let_go(self) -> None:
        with self._changed:
            self._driven, self._driver = False, None
            self._changed.notify_all()
            with suppress(RuntimeError):  # no thread can be started: the next caller computes what waits
                self._start_thread()

    def _once(self, put: Callable[[], None]) -> None:
        self._machine.leave()
        with self._changed:
            put()
            late = self._unwanted() if time.monotonic() > self._looked + _LOOK else []
            self._lines.take(self._machine.admission(), self._taken)
            self._changed.notify_all()  # there is room again
        for work in late:
            work.fail_late()
        wanted = []
        for work in self._taken:
            if work.over:
                work.fail_late()
            elif work.errand is not None:
                _run_errand(work)
            else:
                wanted.append(work)
        self._machine.compute(wanted)
        self._taken = []

    def _unwanted(self) -> list[Work]:
        """Taken out of the lines: works whose callers have gone, or whose deadline has passed."""
        self._looked = time.monotonic()
        return self._lines.drop(lambda work: work.over)


class _Countdown:
    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()

    def down(self, _: object) -> None:
        with self._lock:
            self.count -= 1


def _run_errand(work: Work) -> None:
    assert work.errand is not None
    try:
        work.done(work.errand())
    except Exception as error:
        work.fail(error)


def _closed() -> EngineBusy:
    return EngineBusy("the engine is closed")
