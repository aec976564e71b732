"""Jobs that are killed at random times and between random writes, run again, and compared with an uninterrupted run."""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.findings import Finding
from tests.chaos.processes import Exit, execute

#: Runs after the last kill until the job must have finished.
_MAX_RESUMES = 3

#: Attempts, as a multiple of those asked for, in which there must be as many kills.
_MAX_ATTEMPTS = 3


class Job(ABC):
    """A command that may be killed and started again.

    Attributes:
        name: In the table.
    """

    name: str

    @abstractmethod
    def start(self, folder: Path) -> Callable[[], object]:
        """The job, with its result in a folder."""

    def resume(self, folder: Path) -> Callable[[], object]:
        """The job that continues an interrupted one; by default the same."""
        return self.start(folder)

    def is_finished(self, folder: Path, ended: Exit) -> bool:
        """Whether the result is complete after this process, which was not killed."""
        del folder
        return ended.code == 0

    @abstractmethod
    def check_interrupted(self, folder: Path) -> None:
        """Raise an `AssertionError` if a killed process left something that looks complete and is not."""

    @abstractmethod
    def digest(self, folder: Path) -> object:
        """What must equal the same of an uninterrupted run."""

    def has_begun(self, folder: Path) -> bool:
        """Whether a killed process left something that the next one continues or replaces."""
        return any(each.name not in ("stdout", "stderr", "tmp") and each.suffix != ".lock" for each in folder.iterdir())

    def leftovers(self, folder: Path) -> list[str]:
        """Files of killed processes that are still there after the job has finished."""
        del folder
        return []


@dataclass(frozen=True)
class Kill:
    """When a process is killed: after some seconds, or just before one of its writes."""

    after: float | None = None
    at: int | None = None

    def __str__(self) -> str:
        return f"before write {self.at}" if self.at is not None else f"after {self.after:.3f} s"


@dataclass
class Outcome:
    """Counts of a job's kills.

    Attributes:
        killed: Processes killed while they worked.
        midway: Those of them that left something of their work.
        equal: Attempts with the result of the uninterrupted run.
        problems: Descriptions of the others.
        leftovers: Kind of leftover -> attempts.
        uninterrupted: Wall time of the uninterrupted run in seconds.
    """

    name: str
    attempts: int = 0
    killed: int = 0
    midway: int = 0
    resumes: int = 0
    equal: int = 0
    uninterrupted: float = 0.0
    problems: list[str] = field(default_factory=list)
    leftovers: Counter[str] = field(default_factory=Counter)

    def finding(self) -> Finding:
        """The row of the table."""
        left = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.leftovers.items())) or "nothing"
        seen = f"{self.equal} with the result of the run of {self.uninterrupted:.1f} s that was not killed"
        unit = f"attempts, {self.killed} kills, {self.midway} of them midway"
        return Finding(f"kill -9: {self.name}", self.attempts, unit, f"{seen}; left behind: {left}", self.problems)


def kill_repeatedly(job: Job, folder: Path, times: int, seed: int) -> Outcome:
    """Kill a job at random times of its duration, run it again to its end, and compare the result.

    There are at least `times` attempts, and further ones until as many processes were killed while they worked.
    Every second attempt is killed three times just before a random write instead: half a result is on disk for
    milliseconds only, which random times seldom meet. A third of the other attempts are killed twice.
    """
    outcome = Outcome(job.name)
    reference = folder / "reference"
    ended = execute(job.start(reference), reference)
    if ended.code != 0:
        outcome.problems.append(f"the uninterrupted run failed: {_last_line(ended)}")
        return outcome
    outcome.uninterrupted = ended.seconds
    expected = job.digest(reference)
    generator = random.Random(f"{seed}/{job.name}")
    for attempt in range(_MAX_ATTEMPTS * times):
        if attempt >= times and outcome.killed >= times:
            break
        place = folder / f"attempt-{attempt}"
        if attempt % 2:
            kills = [Kill(at=generator.randint(1, max(1, ended.writes // part))) for part in (1, 2, 3)]
        else:
            twice = generator.random() < 1 / 3
            kills = [Kill(after=generator.uniform(0, ended.seconds)) for _ in range(1 + twice)]
        problem = _attempt(job, place, kills, expected, outcome)
        outcome.attempts += 1
        if problem is None:
            outcome.equal += 1
            shutil.rmtree(place)
        else:
            outcome.problems.append(f"attempt {attempt}, killed {' and '.join(map(str, kills))}: {problem}")
    if outcome.killed < times:
        outcome.problems.append(
            f"only {outcome.killed} processes were killed in {outcome.attempts} attempts, the others ended before"
        )
    return outcome


def _attempt(job: Job, folder: Path, kills: list[Kill], expected: object, outcome: Outcome) -> str | None:
    finished = False
    for number, kill in enumerate(kills):
        begin = job.resume if number else job.start
        ended = execute(begin(folder), folder, kill_after=kill.after, kill_at=kill.at)
        outcome.killed += ended.code == -9
        outcome.midway += ended.code == -9 and job.has_begun(folder)
        if ended.code >= 0 and not job.is_finished(folder, ended):
            return f"exit {ended.code} before the kill: {_last_line(ended)}"
        finished = ended.code >= 0
        try:
            job.check_interrupted(folder)
        except AssertionError as error:
            return f"after the kill: {error}"
    for _ in range(_MAX_RESUMES):
        if finished:
            break
        ended = execute(job.resume(folder), folder)
        outcome.resumes += 1
        finished = job.is_finished(folder, ended)
        if ended.code in (-9, 70):
            return f"exit {ended.code} after the kill: {_last_line(ended)}"
    if not finished:
        return f"not finished by {_MAX_RESUMES} resumes: {_last_line(ended)}"
    try:
        result = job.digest(folder)
    except Exception as error:  # a result that cannot be read is a finding
        return f"the result cannot be read: {type(error).__name__}: {error}"
    outcome.leftovers.update(job.leftovers(folder))
    return None if result == expected else f"another result: {str(result)[:200]} instead of {str(expected)[:200]}"


def _last_line(ended: Exit) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:300]
