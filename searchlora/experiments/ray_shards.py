"""Shards on Ray: one task for each, with an engine of its own, on an existing cluster or on this machine.

Ray starts a task again on another worker when its worker dies. That is harmless: a part that is complete is not
computed again, and a part is renamed only when it is. All nodes must see the files under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from searchlora.errors import SearchloraError
from searchlora.experiments.sharding import Work
from searchlora.files.shards import Shard
from searchlora.progress import silent

#: How often Ray starts a shard again whose worker died.
RETRIES = 3


def run_on_ray(
    work: Work, shards: Sequence[Shard], gpus: float, report: Callable[[int], None]
) -> dict[str, BaseException]:
    """Compute shards on Ray; shard -> why it failed.

    `RAY_ADDRESS` names the cluster; without it, Ray uses the one that runs on this machine, or starts one for this
    call. A shard that waits for a free CPU or GPU begins when another one has ended.

    Args:
        gpus: GPUs of a shard. The task sees only its own.
        report: Called with the number of shards that are complete, about every second.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    if alone := "RAY_ADDRESS" not in os.environ:
        # Ray's switch to listen on 127.0.0.1 only; it does not change how a cluster is found.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, include_dashboard=False if alone else None)
    # One task a process: the next shard begins with the memory that the engine of the last one held.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(_run)
    running = {task.remote(work, shard, str(Path.cwd())): shard for shard in shards}
    failed: dict[str, BaseException] = {}
    try:
        while running:
            report(len(shards) - len(running) - len(failed))
            for ended in ray.wait(list(running), timeout=1.0)[0]:
                shard = running.pop(ended)
                try:
                    if (refused := ray.get(ended)) is not None:
                        failed[str(shard)] = refused
                except ray.exceptions.RayError as error:  # a worker that died again and again, or a bug
                    failed[str(shard)] = SearchloraError(str(error).strip().splitlines()[-1])
        report(len(shards) - len(failed))
    finally:
        for left in running:
            ray.cancel(left, force=True)
        if begun:
            ray.shutdown()
    return failed


def _run(work: Work, shard: Shard, folder: str) -> SearchloraError | None:
    """Compute a shard in a worker; an error that is raised on purpose is returned, so that Ray does not repeat it."""
    os.chdir(folder)  # relative paths are those of the command
    try:
        work(shard, silent)
    except SearchloraError as error:
        return error
    return None
