"""Jobs in threads: order, fairness, cancellation, deadlines and capacity."""

from __future__ import annotations

import threading
import time

import pytest

from searchlora.errors import DeadlineExceeded, EngineBusy
from searchlora.server.api.work_queue import FairThreads, JobCancelled


def one(capacity):
    """A queue that runs one job at a time."""
    return FairThreads(1, "searchlora-test", capacity=capacity)


class Held:
    """A job that blocks until it is released, and the names of the jobs that ran."""

    def __init__(self):
        self.done: list[str] = []
        self.began, self.go = threading.Event(), threading.Event()

    def first(self, _):
        self.began.set()
        assert self.go.wait(5)
        self.done.append("first")

    def named(self, name):
        return lambda _: self.done.append(name)


def test_cancelled_jobs_are_not_run_and_free_their_place():
    held, queue = Held(), one(2)
    first = queue.submit(None, held.first)
    assert held.began.wait(5)
    left = queue.submit(None, held.named("left"))
    with pytest.raises(EngineBusy, match="2 such requests wait already"):
        queue.submit(None, held.named("too many"))
    assert left.cancel()
    stays = queue.submit(None, held.named("stays"))
    assert not first.cancel()  # it is being done
    held.go.set()
    stays.result(5)
    assert held.done == ["first", "stays"]


def test_clients_take_turns():
    held, queue = Held(), one(8)
    queue.submit("a", held.first)
    assert held.began.wait(5)
    jobs = [queue.submit(name[0], held.named(name)) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    held.go.set()
    for job in jobs:
        job.result(5)
    assert held.done == ["first", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_running_job_sees_that_it_was_cancelled():
    began, checked = threading.Event(), []

    def work(job):
        began.set()
        while True:
            time.sleep(0.01)
            checked.append(job.check())

    future = one(1).submit(None, work)
    assert began.wait(5)
    assert not future.cancel()
    with pytest.raises(JobCancelled):
        future.result(5)


def test_expired_jobs_are_not_run():
    held, queue = Held(), one(8)
    queue.submit(None, held.first)
    late, in_time = queue.submit(None, held.named("late"), 0.05), queue.submit(None, held.named("in time"), 60)
    time.sleep(0.1)
    held.go.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    in_time.result(5)
    assert held.done == ["first", "in time"]


def test_a_job_can_see_that_it_expired():
    def slow(job):
        for _ in range(100):
            time.sleep(0.02)
            job.check()

    with pytest.raises(DeadlineExceeded):
        one(1).submit(None, slow, 0.05).result(1)


def test_a_thread_that_cannot_start_occupies_no_place(monkeypatch):
    queue = one(1)
    with monkeypatch.context() as patch:

        def none_left(_):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                queue.submit(None, lambda _: 1).result(5)
    assert queue.submit(None, lambda _: 1).result(5) == 1


def test_no_thread_outlives_the_queue():
    queue = one(4)
    for number in range(3):
        assert queue.submit(None, lambda _, number=number: number).result(5) == number
    end = time.monotonic() + 5
    while any(thread.name == "searchlora-test" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_slow_work_of_a_client_leaves_threads_to_others():
    threads, go, done = FairThreads(4, "test"), threading.Event(), []
    first = [threads.submit("first", lambda _: go.wait(10)) for _ in range(50)]
    try:
        assert [threads.submit("second", lambda _, number=number: number).result(5) for number in range(20)] == [
            *range(20)
        ]
        assert sum(future.running() for future in first) == 2
        third = [threads.submit("third", lambda _, number=number: done.append(number)) for number in range(20)]
        assert all(future.result(5) is None for future in third)
        assert sorted(done) == [*range(20)]
    finally:
        go.set()
    assert all(future.result(5) for future in first)
    threads.shutdown()


def test_work_that_waits_is_dropped_by_its_client_and_at_shutdown():
    threads, go, done = FairThreads(1, "test"), threading.Event(), []
    running = threads.submit("first", lambda _: go.wait(5))
    dropped, waiting = (threads.submit("first", lambda _: done.append("done")) for _ in range(2))
    assert dropped.cancel()
    threads.shutdown()
    late = threads.submit("second", lambda _: done.append("late"))
    assert waiting.cancelled() and late.cancelled()
    go.set()
    assert running.result(5)
    assert not done


def test_work_that_fails_gives_its_thread_back():
    threads = FairThreads(1, "test")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            threads.submit("first", lambda _: 1 // 0).result(5)
    assert threads.submit(None, lambda _: 1).result(5) == 1  # None is a client like others
    threads.shutdown()
