"""Errands in a line: one after the other, and none for those who have left."""

from __future__ import annotations

import threading
import time

import pytest

from searchlora.errors import DeadlineExceeded, EngineBusy
from searchlora.server.api.work_queue import WorkQueue


class Held:
    """An errand that waits until it is let go, and the names of those that were done."""

    def __init__(self):
        self.done: list[str] = []
        self.began, self.go = threading.Event(), threading.Event()

    def first(self, _):
        self.began.set()
        assert self.go.wait(5)
        self.done.append("first")

    def named(self, name):
        return lambda _: self.done.append(name)


def test_what_was_taken_back_is_not_done_and_leaves_its_place():
    held, line = Held(), WorkQueue(2)
    first = line.put(held.first, None)
    assert held.began.wait(5)
    left = line.put(held.named("left"), None)
    with pytest.raises(EngineBusy, match="2 such requests wait already"):
        line.put(held.named("too many"), None)
    assert left.cancel()
    stays = line.put(held.named("stays"), None)
    assert not first.cancel()  # it is being done
    held.go.set()
    stays.result(5)
    assert held.done == ["first", "stays"]


def test_what_is_late_when_its_turn_comes_is_not_done():
    held, line = Held(), WorkQueue(8)
    line.put(held.first, None)
    late, in_time = line.put(held.named("late"), 0.05), line.put(held.named("in time"), 60)
    time.sleep(0.1)
    held.go.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    in_time.result(5)
    assert held.done == ["first", "in time"]


def test_an_errand_sees_that_it_is_late():
    def slow(job):
        for _ in range(100):
            time.sleep(0.02)
            job.check_deadline()

    with pytest.raises(DeadlineExceeded):
        WorkQueue(1).put(slow, 0.05).result(1)


def test_a_thread_that_cannot_be_started_takes_no_place(monkeypatch):
    line = WorkQueue(1)
    with monkeypatch.context() as patch:

        def none_left(_):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                line.put(lambda _: 1, None)
    assert line.put(lambda _: 1, None).result(5) == 1


def test_no_thread_outlives_the_line():
    line = WorkQueue(4)
    for number in range(3):
        assert line.put(lambda _, number=number: number, None).result(5) == number
    end = time.monotonic() + 5
    while any(thread.name == "searchlora-work-queue" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
