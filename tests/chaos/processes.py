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
from typing import NoReturn

#: Seconds after which a job counts as hung and is killed.
TIMEOUT = 300.0


@dataclass(frozen=True)
class Exit:
    """How a process ended.

    Attributes:
        code: Exit code; negative for the signal that killed it.
        seconds: Wall time.
        stderr: What it wrote to standard error.
    """

    code: int
    seconds: float
    stderr: str


def execute(job: Callable[[], object], folder: Path, *, kill_after: float | None = None) -> Exit:
    """Run a job in a forked process, and kill it with SIGKILL after some seconds.

    Forking shares the libraries that this process has imported, so a job starts in milliseconds and a kill at a random
    time seldom falls into an import. The parent must not have used torch, whose threads do not survive a fork.

    Args:
        job: What the process does; `SystemExit` gives its code.
        folder: For its output; `tmp` in it becomes its folder of temporary files.
        kill_after: Seconds; None lets it finish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):  # the process may be killed before it opens them
        (folder / name).write_bytes(b"")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(job, folder)
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
    return Exit(os.waitstatus_to_exitcode(status), seconds, (folder / "stderr").read_text(errors="replace"))


def command(*arguments: object) -> Callable[[], object]:
    """The job that runs `searchlora` with arguments."""

    def job() -> None:
        from searchlora.cli import main

        sys.argv = ["searchlora", *map(str, arguments)]
        main()

    return job


def _child(job: Callable[[], object], folder: Path) -> NoReturn:
    os.setsid()
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    import tempfile

    tempfile.tempdir = None
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    code = 0
    try:
        job()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
