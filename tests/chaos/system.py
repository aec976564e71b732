"""A check against the operating system: files that cannot grow, as on a full disk."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from tests.chaos.findings import Finding
from tests.chaos.jobs import JOBS, Inputs
from tests.chaos.kills import Job
from tests.chaos.processes import execute


def full_disk(inputs: Inputs, folder: Path, times: int, seed: int) -> list[Finding]:
    """Each job with files that cannot grow: a worded error, then the same result without the limit."""
    finding = Finding("full disk", unit="runs", seen="worded error or success; complete when run again with room")
    choose = random.Random(f"{seed}/disk")
    for name, make in JOBS.items():
        if name == "store":  # it writes files of its own, outside searchlora
            continue
        job = make(inputs)
        reference = folder / name / "reference"
        if execute(job.start(reference), reference).code != 0:
            finding.problems.append(f"{name}: the uninterrupted run failed")
            continue
        expected = job.digest(reference)
        for attempt in range(times):
            limit = int(2 ** choose.uniform(6, 16))
            finding.attempts += 1
            if problem := _with_limit(job, folder / name / f"limit-{attempt}", limit, expected):
                finding.problems.append(f"{name}, files of at most {limit} bytes: {problem}")
    return [finding]


def _with_limit(job: Job, folder: Path, limit: int, expected: object) -> str | None:
    ended = execute(_limited(job.start(folder), limit), folder)
    message_cut = len(ended.stderr.encode()) >= limit  # the message is a file here, too
    if ended.code not in (0, 1) and not message_cut:
        return f"exit {ended.code}: {ended.stderr[-300:]}"
    try:
        job.check_interrupted(folder)
    except AssertionError as error:
        return f"left behind: {error}"
    if not job.is_finished(folder, ended):
        ended = execute(job.resume(folder), folder)
        if not job.is_finished(folder, ended):
            return f"cannot go on afterwards, exit {ended.code}: {ended.stderr[-300:]}"
    return None if job.digest(folder) == expected else "another result"


def _limited(job: Callable[[], object], limit: int) -> Callable[[], object]:
    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails with an OSError
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        job()

    return run
