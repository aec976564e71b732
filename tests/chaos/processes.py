"""Forked processes that run one job with its own output and temporary folder, and can be killed at any moment."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

#: Seconds after which a job counts as hung and is killed.
TIMEOUT = 300.0


@dataclass(frozen=True)
class Exit:
    """How a process ended.

    Attributes:
        code: Exit code; negative for the signal that killed it.
        seconds: Wall time.
        stderr: What it wrote to standard error.
        writes: Files opened for writing, renamed and removed in its folder; 0 if it was killed.
    """

    code: int
    seconds: float
    stderr: str
    writes: int


def execute(
    job: Callable[[], object], folder: Path, *, kill_after: float | None = None, kill_at: int | None = None
) -> Exit:
    """Run a job in a forked process, and kill it with SIGKILL after some seconds or just before one of its writes.

    Forking shares the libraries that this process has imported, so a job starts in milliseconds and a kill at a random
    time seldom falls into an import. The parent must not have used torch, whose threads do not survive a fork.

    Args:
        job: What the process does; `SystemExit` gives its code.
        folder: For its output; `tmp` in it becomes its folder of temporary files.
        kill_after: Seconds; None lets it finish.
        kill_at: Number of a write, from 1: a file opened for writing, renamed or removed in the folder. A result that
            is written in several steps is half written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):  # the process may be killed before it opens them
        (folder / name).write_bytes(b"")
    started = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(job, folder, kill_at, writing)
    os.close(writing)
    deadline = started + (TIMEOUT if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):  # its children; there is no group yet if it has hardly begun
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    seconds = time.monotonic() - started
    with os.fdopen(reading) as counted:
        writes = int(counted.read() or 0)
    return Exit(os.waitstatus_to_exitcode(status), seconds, (folder / "stderr").read_text(errors="replace"), writes)


def command(*arguments: object) -> Callable[[], object]:
    """The job that runs `searchlora` with arguments."""

    def job() -> None:
        from searchlora.cli import main

        sys.argv = ["searchlora", *map(str, arguments)]
        main()

    return job


def _child(job: Callable[[], object], folder: Path, kill_at: int | None, counted: int) -> NoReturn:
    os.setsid()
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    import tempfile

    tempfile.tempdir = None
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    writes = _watch_writes(folder, kill_at)
    code = 70
    try:
        code = _run(job)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a full disk
                stream.flush()
        os.write(counted, str(writes[0]).encode())
    finally:  # whatever happens, this copy of the parent must not go on
        os._exit(code)


def _run(job: Callable[[], object]) -> int:
    """The exit code of a job."""
    try:
        job()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        with suppress(OSError):
            traceback.print_exc()
        return 70
    return 0


def _watch_writes(folder: Path, kill_at: int | None) -> list[int]:
    """Count the writes in a folder from now on, in a list of one number; this process is killed just before one."""
    count, below = [0], str(folder)
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    names = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.copyfile"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in names and not (event == "open" and arguments[2] & changing):
            return
        if any(str(each).startswith(below) for each in arguments[:2]):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count
