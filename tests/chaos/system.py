"""Checks against the operating system: files that cannot grow, as on a full disk, and a clock that jumps."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.chaos.findings import Finding
from tests.chaos.jobs import JOBS, Inputs
from tests.chaos.kills import Job
from tests.chaos.processes import execute

_COMMAND = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"


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


def clock_jumps(inputs: Inputs, folder: Path) -> list[Finding]:
    """Versions and aliases made under clocks a year apart, in the wrong order: history is by sequence, not by time."""
    finding = Finding("clock jumps", unit="commands", seen="history in the order of the moves, rollback right")
    if shutil.which("faketime") is None:
        finding.seen = "not run: there is no faketime here"
        return [finding]
    store = folder / "store"
    shutil.copytree(inputs.store, store)
    settings = ("--set", "optim.max_steps=2", "--set", "lora.r=2", "--set", "seed=5")
    data = ("--data", str(inputs.dataset), "--base", str(inputs.base), "--store", str(store))
    train = ("train", "rewriting", "--name", "rewriter", *data, *settings)
    moves = [
        ("+400 days", train),
        ("-400 days", ("adapters", "alias", "rewriter@1", "production", "--reason", "first", "--store", str(store))),
        ("+400 days", ("adapters", "alias", "rewriter@2", "production", "--reason", "second", "--store", str(store))),
        ("-800 days", ("adapters", "rollback", "rewriter", "production", "--store", str(store))),
    ]
    for offset, words in moves:
        finding.attempts += 1
        done = subprocess.run(
            ["faketime", offset, sys.executable, "-c", _COMMAND, *words],
            capture_output=True,
            text=True,
            env={**os.environ, "DONT_FAKE_MONOTONIC": "1"},
        )
        if done.returncode:
            finding.problems.append(f"{' '.join(words[:2])} at {offset}: {done.stderr[-300:]}")
    from searchlora.adapters.store import Store

    after = Store(store)
    if after.aliases("rewriter") != {"production": 1}:
        finding.problems.append(f"after the rollback production means {after.aliases('rewriter')}, not version 1")
    return [finding]
