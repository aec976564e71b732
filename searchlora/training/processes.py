"""Training in child processes: their memory is given back at their end, and a crash leaves the parent to tell.

The parent starts `python -m searchlora.training.processes` for each rank, writes the work to its standard input, and
reads progress and the result from its standard output. Standard input stays open: its end, when the parent ends in any
way, ends the child. Several processes train together, by the environment variables of PyTorch's launchers.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from searchlora.child_processes import picklable
from searchlora.errors import SearchloraError, TrainingError
from searchlora.models.devices import rank
from searchlora.progress import Progress, Steps, no_progress
from searchlora.threads import COUNTS, threads_of_each

Result = TypeVar("Result")

#: Seconds in which processes that trained with a failed one report their own failures.
_ALSO_FAILED = 2.0


def start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a child process, which waits for its work."""
    command = [sys.executable, "-P", "-m", "searchlora.training.processes"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment})


def run_in_children(work: Callable[[Steps], Result], steps: Steps, *, processes: int = 1, where: str) -> Result:
    """What `work` returns in a child process, or in the first of several that train together.

    Args:
        work: Picklable, as its result is; called with `steps` of the child, which report to those of this process.
        processes: Each calls `work`; `models.devices` says which of them it is.
        where: The folder of the training run, for messages.

    Raises:
        TrainingError: for a child that was killed or ended without a result.
        Whatever `work` raises. All children are ended then.
    """
    children = [start(environment) for environment in _environments(processes)]
    run = _Run(steps, where)
    try:
        for rank, child in enumerate(children):
            Thread(target=_read, args=(rank, child, run.messages), daemon=True).start()
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it ended already, which `_read` reports
                pickle.dump(work, child.stdin)
                child.stdin.flush()
        result: Result = run.result(processes)
        return result
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.close()


def _environments(processes: int) -> list[dict[str, str]]:
    # An interactive Python, and `python -c`, name the working directory by an empty text.
    common = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    if processes == 1:
        return [common]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    common |= dict.fromkeys(COUNTS, str(threads_of_each(processes)))
    # They are of one machine: the ports on which they talk, which ask for no password, are not open to others.
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    common |= {name: os.environ.get(name) or loopback for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _read(rank: int, child: subprocess.Popen[bytes], messages: SimpleQueue[tuple[Any, ...]]) -> None:
    assert child.stdout is not None
    try:
        with child.stdout:
            while True:
                messages.put((rank, *pickle.load(child.stdout)))
    except (EOFError, OSError, pickle.UnpicklingError):  # the last message may be a part of one
        pass
    except Exception as error:  # whatever the class of an object raises
        what = f"what the training process sent cannot be read ({type(error).__name__}: {error})"
        messages.put((rank, "error", TrainingError(what)))
    messages.put((rank, "ended", child.wait()))


@dataclass
class _Run:
    """What the children report to the parent."""

    steps: Steps
    where: str
    messages: SimpleQueue[tuple[Any, ...]] = field(default_factory=SimpleQueue)
    bars: dict[int, Progress] = field(default_factory=dict)
    at: str = "before its first step"

    def result(self, processes: int) -> Any:
        results: dict[int, Any] = {}
        while processes:
            rank, kind, value = self.messages.get()
            if kind == "progress":
                self._show(*value)
            elif kind == "result":
                results[rank] = value
            elif kind == "ended" and rank in results:
                processes -= 1
            else:
                raise self._failure(kind, value, processes)
        return results[0]

    def _show(self, number: int, step: str, done: int, total: int | None, note: str) -> None:
        if number not in self.bars:
            self.bars[number] = self.steps(step)
        self.bars[number](done, total, note)
        self.at = f"in '{step}' at {done}{'' if total is None else f' of {total}'}"

    def _failure(self, kind: str, value: Any, processes: int) -> BaseException:
        """The cause of a failure: other processes fail too when one of them has gone."""
        failures = [self._error(kind, value)]
        if isinstance(failures[0], SearchloraError) or processes == 1:
            return failures[0]
        with suppress(Empty):
            while True:
                _, kind, value = self.messages.get(timeout=_ALSO_FAILED)
                if kind == "error" or (kind == "ended" and value < 0):
                    failures.append(self._error(kind, value))
        return next((failure for failure in failures if isinstance(failure, SearchloraError)), failures[0])

    def _error(self, kind: str, value: Any) -> BaseException:
        if kind == "error":
            return value  # type: ignore[no-any-return]
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
        result = work(steps if rank() == 0 else no_progress)
    except BaseException as error:
        send("error", picklable(error))
        sys.exit(1)
    send("result", result)
    if (distributed := sys.modules.get("torch.distributed")) and distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
