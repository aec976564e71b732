"""Python scripts in child processes: for tests that kill one, fill its disk, or run programs beside their own process.

They are forked from a server process that has imported the libraries, so a script starts in milliseconds instead of the
five seconds that torch, transformers and peft take to import.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from unittest import mock

#: The command line, as a script.
COMMAND = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"

#: For the script of the process: defines `peak()`, its largest resident memory so far in MiB. Not ru_maxrss, which a
#: process inherits from the one that started it, here pytest with torch in it.
PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
"""

#: Starts processes that have the libraries imported.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "transformers.models.llama.modeling_llama",
        "peft",
        "trl",
        "searchlora.inference.local",
        "searchlora.experiments.train",
        "searchlora.experiments.judge.command",
        "searchlora.training.sft",
    ]
)


class Script:
    """A running script, with `environment` added to that of this process."""

    def __init__(self, script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp())
        words = list(map(str, arguments))
        variables = {**os.environ, **(environment or {})}
        self._process = CONTEXT.Process(
            target=_execute, args=(script, words, variables, str(Path.cwd()), str(self._folder)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._written("stdout")

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self._written("stderr")

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def poll(self) -> int | None:
        """Its exit code if it has ended, as of `subprocess.Popen`."""
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def wait(self, timeout: float = 180) -> int:
        """Its exit code, negative for the signal that ended it. A script that takes longer is killed."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _written(self, name: str) -> str:
        file = self._folder / name
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, with `sys.argv[1:]` as given and the environment of this process."""
    running = Script(script, *arguments)
    code = running.wait()
    return subprocess.CompletedProcess(["python", "-c", script], code, running.stdout, running.stderr)


class TrainingChild:
    """What `training.processes.start` returns, forked from the server, so that training begins in milliseconds."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        (read_work, write_work), (read_result, write_result) = CONTEXT.Pipe(False), CONTEXT.Pipe(False)
        variables = {**os.environ, **environment, "PWD": str(Path.cwd())}
        self._lock = threading.Lock()
        self._start(read_work, write_result, [write_work, read_result], variables)
        self.stdin = os.fdopen(os.dup(write_work.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(read_result.fileno()), "rb")
        for end in (read_work, write_work, read_result, write_result):
            end.close()

    def _start(self, work: Connection, result: Connection, _: list[Connection], variables: dict[str, str]) -> None:
        self._process = CONTEXT.Process(target=_train, args=(work, result, variables))
        with mock.patch.dict(sys.modules, __main__=ModuleType("__main__")):  # a child would run an example, too
            self._process.start()

    def wait(self) -> int:
        with self._lock:
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


class ForkedTrainingChild(TrainingChild):
    """The same, forked from a script, with what the script has replaced."""

    def _start(self, work: Connection, result: Connection, others: list[Connection], variables: dict[str, str]) -> None:
        self._code: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                for end in others:
                    end.close()
                import torch

                # PyTorch makes its pool anew at the first use after a fork, which two threads must not do at once.
                torch.set_num_threads(torch.get_num_threads())
                _train(work, result, variables)
                code = 0
            finally:
                os._exit(code)

    def wait(self) -> int:
        with self._lock:
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def kill(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


def _train(work: Connection, result: Connection, variables: Mapping[str, str]) -> None:
    from searchlora.training import processes

    gc.freeze()
    os.dup2(work.fileno(), 0)
    os.dup2(result.fileno(), 1)
    work.close()
    result.close()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(variables["PWD"])
    sys.path[:] = variables["PYTHONPATH"].split(os.pathsep)
    sys.stdin = os.fdopen(0, closefd=False)
    processes.main()


def _execute(script: str, arguments: list[str], environment: Mapping[str, str], cwd: str, folder: str) -> None:
    gc.freeze()  # a collection would go through the imported libraries, and so copy their pages
    os.chdir(cwd)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    from searchlora.training import processes

    processes.start = ForkedTrainingChild
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
