"""Shards on Ray: a task for each, on the cluster that `RAY_ADDRESS` names, or on this machine.

Ray starts a task again when its worker dies; a part that is complete is not computed again. All nodes must see the
files under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from searchlora.errors import SearchloraError
from searchlora.experiments.sharding import Work
from searchlora.files.shards import Shard
from searchlora.progress import silent


def run_on_ray(
    work: Work, shards: Sequence[Shard], gpus: float, report: Callable[[int], None]
) -> dict[str, BaseException]:
    """Compute shards on Ray, each with so many GPUs; shard -> why it failed. Raises `MissingExtra` without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    if alone := "RAY_ADDRESS" not in os.environ:  # Ray's switch to listen on 127.0.0.1 only
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    # One task a process: the next shard begins without the memory of the last one's engine.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3, max_calls=1)(_run)
    failed: dict[str, BaseException] = {}
    with ray.init(log_to_driver=False, include_dashboard=False if alone else None):
        running = {task.remote(work, shard, str(Path.cwd())): shard for shard in shards}
        while running:
            report(len(shards) - len(running) - len(failed))
            for ended in ray.wait(list(running), timeout=1.0)[0]:
                shard = running.pop(ended)
                try:
                    error = ray.get(ended)
                except ray.exceptions.RayError as died:
                    error = SearchloraError(str(died).strip().splitlines()[-1])
                if error is not None:
                    failed[str(shard)] = error
        report(len(shards) - len(failed))
    return failed


def _run(work: Work, shard: Shard, folder: str) -> SearchloraError | None:
    """Compute a shard in a worker; our own error is returned, so that Ray does not repeat the task."""
    os.chdir(folder)  # relative paths are those of the command
    try:
        work(shard, silent)
    except SearchloraError as error:
        return error
    return None
