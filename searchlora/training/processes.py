"""Training in a child process: its memory is given back at its end, and a crash leaves the parent to tell.

The parent starts `python -m searchlora.training.processes`, writes the work to its standard input, and reads progress
and the result from its standard output. Standard input stays open: its end, when the parent ends in any way, ends the
child.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from searchlora.child_processes import picklable
from searchlora.errors import TrainingError
from searchlora.progress import Progress, Steps

Result = TypeVar("Result")


def start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a child process, which waits for its work."""
    command = [sys.executable, "-P", "-m", "searchlora.training.processes"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment})


def run_in_child(work: Callable[[Steps], Result], steps: Steps, *, where: str) -> Result:
    """What `work` returns in a child process."""
    # An interactive Python, and `python -c`, name the working directory by an empty text.
    child = start({"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)})
    run = _Run(steps, where)
    assert child.stdin is not None
    try:
        Thread(target=_read, args=(child, run.messages), daemon=True).start()
        with suppress(BrokenPipeError):  # it ended already, which `_read` reports
            pickle.dump(work, child.stdin)
            child.stdin.flush()
        result: Result = run.result()
        return result
    finally:
        child.kill()
        child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()


def _read(child: subprocess.Popen[bytes], messages: SimpleQueue[tuple[str, Any]]) -> None:
    assert child.stdout is not None
    try:
        with child.stdout:
            while True:
                messages.put(pickle.load(child.stdout))
    except (EOFError, OSError, pickle.UnpicklingError):  # the last message may be a part of one
        pass
    except Exception as error:  # whatever the class of an object raises
        what = f"what the training process sent cannot be read ({type(error).__name__}: {error})"
        messages.put(("error", TrainingError(what)))
    messages.put(("ended", child.wait()))


@dataclass
class _Run:
    """What the child reports to the parent."""

    steps: Steps
    where: str
    messages: SimpleQueue[tuple[str, Any]] = field(default_factory=SimpleQueue)
    bars: dict[int, Progress] = field(default_factory=dict)
    at: str = "before its first step"

    def result(self) -> Any:
        while True:
            kind, value = self.messages.get()
            if kind == "progress":
                self._show(*value)
            elif kind == "result":
                return value
            elif kind == "error":
                raise value
            else:
                raise self._ended(value)

    def _show(self, number: int, step: str, done: int, total: int | None, note: str) -> None:
        if number not in self.bars:
            self.bars[number] = self.steps(step)
        self.bars[number](done, total, note)
        self.at = f"in '{step}' at {done}{'' if total is None else f' of {total}'}"

    def _ended(self, value: int) -> TrainingError:
        cause = f"was ended by {signal.Signals(-value).name}" if value < 0 else f"ended with exit code {value}"
        memory = ""
        if value == -signal.SIGKILL:
            memory = " If memory ran out, lower optim.batch_size or set optim.gradient_checkpointing=true."
        return TrainingError(
            f"the training process {cause} {self.at}",
            where=self.where,
            fix=f"Continue from the last checkpoint with --resume.{memory}",
        )


def main() -> None:
    """The child: do the work that standard input holds, and report to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends its children
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no message
    work = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_input, daemon=True).start()
    lock, numbers = Lock(), count()

    def send(kind: str, value: Any) -> None:
        with lock:
            pickle.dump((kind, value), out)
            out.flush()

    def steps(step: str) -> Progress:
        number = next(numbers)

        def progress(done: int, total: int | None, note: str = "") -> None:
            send("progress", (number, step, done, total, note))

        return progress

    try:
        result = work(steps)
    except BaseException as error:
        send("error", picklable(error))
        sys.exit(1)
    send("result", result)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
