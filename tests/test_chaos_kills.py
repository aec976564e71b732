"""The kills of the chaos suite: every job is killed as often as asked for, and another result is a finding."""

from __future__ import annotations

import os
import time

import pytest

from tests.chaos.kills import Job, kill_repeatedly

pytestmark = pytest.mark.slow


class Lines(Job):
    """Writes ten lines, one every few milliseconds; an interrupted file is continued."""

    name = "lines"

    def __init__(self, pause: float = 0.004, *, forgets: bool = False) -> None:
        self.pause = pause
        self.forgets = forgets

    def start(self, folder):
        def job() -> None:
            file = folder / "lines.txt"
            written = file.read_text().count("\n") if file.exists() and not self.forgets else 0
            for number in range(written, 10):
                time.sleep(self.pause)
                with file.open("a") as out:
                    out.write(f"{number}\n")
                    out.flush()
                    os.fsync(out.fileno())

        return job

    def check_interrupted(self, folder) -> None:
        assert (folder / "stdout").exists()

    def digest(self, folder) -> object:
        return (folder / "lines.txt").read_text()


def test_a_job_is_killed_as_often_as_asked_for_and_most_kills_leave_something(tmp_path):
    outcome = kill_repeatedly(Lines(), tmp_path, times=6, seed=1)
    assert outcome.problems == [] and outcome.equal == outcome.attempts >= 6
    assert outcome.killed >= 6 and 0 < outcome.midway <= outcome.killed
    assert f"{outcome.killed} kills, {outcome.midway} of them midway" in outcome.finding().line()


def test_a_job_that_begins_again_behind_what_it_left_is_a_finding(tmp_path):
    outcome = kill_repeatedly(Lines(forgets=True), tmp_path, times=6, seed=1)
    assert any("another result" in problem for problem in outcome.problems)


def test_a_job_that_ends_before_its_kills_is_a_finding(tmp_path, monkeypatch):
    from tests.chaos import kills

    def uninterrupted(job, folder, **_):
        return execute(job, folder)

    execute = kills.execute
    monkeypatch.setattr(kills, "execute", uninterrupted)
    outcome = kill_repeatedly(Lines(pause=0), tmp_path, times=2, seed=1)
    assert outcome.attempts == 6
    assert outcome.problems == ["only 0 processes were killed in 6 attempts, the others ended before"]
