"""Where the shards of a job are computed: one of them here, all of them in this process or in several, or on Ray."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal, TypeAlias

from searchlora.errors import SearchloraError, ShardsFailed, UsageError
from searchlora.files.shards import Parts, Shard
from searchlora.progress import Progress, silent
from searchlora.threads import affinity_count, choose_threads

#: Computes one shard. It is sent to other processes, so it is a function of a module, or a partial one.
Work: TypeAlias = Callable[[Shard, Progress], None]


@dataclass(frozen=True)
class Sharding:
    """How a job is divided.

    Attributes:
        shard: The only shard that is computed; another command merges it with the others. None: all.
        shards: Number of shards that are computed at once, each with an engine of its own.
        on: `here`: in processes of this machine, of which there is no other for one shard; `ray`: on a Ray cluster.
        gpus_per_shard: GPUs that Ray reserves for a shard.

    Raises:
        UsageError: for settings that exclude each other.
    """

    shard: Shard | None = None
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


def parts_of(out: str | Path) -> Parts:
    """The parts of a job whose first output is a file: in a folder beside it."""
    return Parts(Path(f"{out}.partial"))


def run_shards(work: Work, sharding: Sharding, parts: Parts, progress: Progress) -> bool:
    """Compute the shards of a job; True if they are all that there are, so that they can be merged.

    Raises:
        ShardsFailed: naming the shards that failed; the others are complete, and so are the parts of these.
        Otherwise what `work` raises in this process.
    """
    if sharding.shard is not None:
        work(sharding.shard, progress)
        return False
    shards = [Shard(number, sharding.shards) for number in range(1, sharding.shards + 1)]

    def report(finished: int) -> None:
        progress(finished, len(shards), f"shards, {parts.done():,} parts")

    if sharding.on == "ray":
        from searchlora.experiments.ray_shards import run_on_ray

        failed = run_on_ray(work, shards, sharding.gpus_per_shard, report)
    elif sharding.shards == 1:
        work(shards[0], progress)
        return True
    else:
        failed = _run_processes(work, shards, report)
    if failed:
        raise ShardsFailed(failed)
    return True


def _run_processes(work: Work, shards: list[Shard], report: Callable[[int], None]) -> dict[str, str]:
    """Compute each shard in a process; shard -> why it failed."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, affinity_count() // len(shards))
    processes: dict[object, tuple[Shard, SpawnProcess, Connection]] = {}
    for shard in shards:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run_child, args=(work, shard, threads, theirs), daemon=True)
        process.start()
        theirs.close()
        processes[process.sentinel] = (shard, process, ours)
    failed: dict[str, str] = {}
    while processes:
        report(len(shards) - len(processes) - len(failed))
        for sentinel in wait([process.sentinel for _, process, _ in processes.values()], timeout=1.0):
            shard, process, ours = processes.pop(sentinel)
            process.join()
            if process.exitcode:
                try:
                    failed[str(shard)] = ours.recv()
                except EOFError:  # it was killed, or has printed the traceback of a bug
                    failed[str(shard)] = f"its process ended with code {process.exitcode}"
            ours.close()
    report(len(shards) - len(failed))
    return failed


def _run_child(work: Work, shard: Shard, threads: int, failure: Connection) -> None:
    choose_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(shard, silent)
    except SearchloraError as error:
        failure.send(str(error))
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    """End this process when its parent is killed, so that a repeated command finds no other one at work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
