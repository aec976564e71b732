"""Where the shards of a job are computed: in this process, in several of this machine, or on Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, TypeAlias

from searchlora.child_processes import end_with_parent, picklable
from searchlora.errors import SearchloraError, ShardsFailed, UsageError
from searchlora.files.shards import Parts, Shard
from searchlora.models.devices import VISIBLE, visible_gpus
from searchlora.progress import Progress, silent
from searchlora.threads import choose_threads, threads_of_each

#: Computes one shard. It is sent to other processes, so it is a function of a module, or a partial one.
Work: TypeAlias = Callable[[Shard, Progress], None]


@dataclass(frozen=True)
class Sharding:
    """How a job is divided."""

    shard: Shard | None = None  # the only shard that is computed; another command merges it with the others. None: all
    shards: int = 1
    on: Literal["here", "ray"] = "here"
    gpus_per_shard: float = 0.0

    def __post_init__(self) -> None:
        if self.shard is not None and (self.shards != 1 or self.on != "here"):
            raise UsageError("--shard computes one shard, here", fix="Give it alone, or --shards N for all shards.")
        if self.gpus_per_shard and self.on != "ray":
            raise UsageError("only Ray reserves GPUs for shards", where="--gpus-per-shard", fix="Add --on ray.")

    @property
    def is_here(self) -> bool:
        """Whether this process computes."""
        return self.on == "here" and self.shards == 1


#: All in this process.
WHOLE = Sharding()


def run_shards(work: Work, sharding: Sharding, parts: Parts, progress: Progress) -> bool:
    """Compute the shards of a job; True if they are all that there are, so that they can be merged."""
    if sharding.shard is not None:
        work(sharding.shard, progress)
        return False
    shards = [Shard(number, sharding.shards) for number in range(1, sharding.shards + 1)]

    def report(finished: int) -> None:
        progress(finished, len(shards), f"shards, {parts.done():,} parts")

    failed: dict[str, BaseException] = {}
    with parts.removed_if_empty():
        if sharding.on == "ray":
            from searchlora.experiments.ray_shards import run_on_ray

            failed = run_on_ray(work, shards, sharding.gpus_per_shard, report)
        elif sharding.shards == 1:
            work(shards[0], progress)
        else:
            failed = _run_processes(work, shards, report)
        for error in failed.values():
            if not isinstance(error, SearchloraError):
                raise error
        if failed:
            raise ShardsFailed(failed)
    return True


def _run_processes(work: Work, shards: list[Shard], report: Callable[[int], None]) -> dict[str, BaseException]:
    """Compute each shard in a process; shard -> why it failed. No process is left, however this ends."""
    context = multiprocessing.get_context("spawn")
    threads = threads_of_each(len(shards))
    running: dict[object, tuple[Shard, SpawnProcess, Connection]] = {}
    failed: dict[str, BaseException] = {}
    try:
        for shard, gpus in zip(shards, _shared(visible_gpus(), len(shards)), strict=True):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run_child, args=(work, shard, threads, gpus, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (shard, process, ours)
        while running:
            report(len(shards) - len(running) - len(failed))
            for ended in wait([ours for _, _, ours in running.values()], timeout=1.0):
                shard, process, ours = running[ended]
                error = _received(ours)
                process.join()
                if error is None and process.exitcode:
                    error = SearchloraError(
                        f"its process ended with code {process.exitcode}", fix="Repeat the command."
                    )
                if error is not None:
                    failed[str(shard)] = error
                ours.close()
                del running[ended]
    finally:
        for _, process, _ in running.values():
            process.kill()
        for _, process, _ in running.values():
            process.join()
    report(len(shards) - len(failed))
    return failed


def _shared(gpus: list[str], shards: int) -> list[str]:
    """The GPUs of each shard, as `CUDA_VISIBLE_DEVICES` names them; empty without a GPU.

    Examples:
        >>> _shared(["0", "1", "2", "3", "4"], 2), _shared(["0", "1"], 3), _shared([], 2)
        (['0,2,4', '1,3'], ['0', '1', '0'], ['', ''])
    """
    if not gpus:
        return [""] * shards
    return [",".join(gpus[number::shards] or [gpus[number % len(gpus)]]) for number in range(shards)]


def _received(failure: Connection) -> BaseException | None:
    """The error of a process; None if it ended without one, or was killed."""
    try:
        error: BaseException = failure.recv()
    except (EOFError, OSError):
        return None
    except Exception as unreadable:  # whatever the class of an object raises
        return SearchloraError(f"what its process sent cannot be read ({type(unreadable).__name__}: {unreadable})")
    return error


def _run_child(work: Work, shard: Shard, threads: int, gpus: str, failure: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends its processes
    if gpus:
        os.environ[VISIBLE] = gpus
    choose_threads(threads)
    end_with_parent()
    try:
        work(shard, silent)
    except BaseException as error:
        failure.send(picklable(error))
        raise SystemExit(1) from None
