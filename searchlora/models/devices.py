"""The device of this process: one GPU of a machine with several, or that of its rank in data-parallel training.

The processes of data-parallel training have the environment variables of PyTorch's launchers: RANK, LOCAL_RANK and
WORLD_SIZE.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from searchlora.errors import UsageError

#: Environment variable with the GPUs that CUDA shows a process: numbers or UUIDs, in order.
VISIBLE = "CUDA_VISIBLE_DEVICES"

#: What a launcher tells each process that it starts.
_LAUNCHED = (
    *(f"{what}{of}" for what in ("", "LOCAL_", "GROUP_", "ROLE_") for of in ("RANK", "WORLD_SIZE")),
    *("MASTER_ADDR", "MASTER_PORT", "ROLE_NAME"),
)


def rank() -> int:
    """The number of this process among those that train together; 0 if it trains alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def default_device() -> str:
    """`cuda:N` with the local rank of this process, the first GPU if it trains alone; `cpu` without a GPU."""
    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}" if torch.cuda.is_available() else "cpu"


def check_not_launched() -> None:
    """Raise `UsageError` in one of several processes of a launcher: each would lock, validate and store on its own."""
    if world_size() > 1:
        raise UsageError(
            f"this is process {rank()} of {world_size()} that a launcher started, and each would store a version",
            where="RANK, WORLD_SIZE",
            fix="Call it once, without a launcher; `TrainingOptions.processes` says how many processes train.",
        )


def launched_processes() -> int | None:
    """How many processes `torchrun` or `accelerate launch` started for this command; None in all but the first.

    The first one starts the processes that train by itself, so that one process locks and stores. It is rid of what
    the launcher told it, which PyTorch would follow in its children.

    Raises:
        UsageError: for processes on several machines.
    """
    processes, here = world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if here < processes:
        raise UsageError(
            f"{processes} processes were launched, of which {here} are on this machine",
            where="WORLD_SIZE, LOCAL_WORLD_SIZE",
            fix="Train on one machine.",
        )
    if processes > 1 and rank() > 0:
        return None
    for name in [name for name in os.environ if name in _LAUNCHED or name.startswith(("TORCHELASTIC_", "ACCELERATE_"))]:
        del os.environ[name]
    if processes > 1 and os.environ.get("OMP_NUM_THREADS") == "1":  # by the launcher, unless the user set it
        del os.environ["OMP_NUM_THREADS"]
    return processes


@contextmanager
def chosen_gpus(processes: int, log: Callable[[str], None]) -> Iterator[None]:
    """Show this process and its children as many GPUs as processes train together, if the machine has more.

    Enter it before anything asks PyTorch for GPUs: CUDA reads the variable once in a process. Without
    `CUDA_VISIBLE_DEVICES` they are those with the most free memory, else the first that it names. transformers
    would spread the batch of a process over all GPUs that it sees, in threads, which TRL refuses.

    Args:
        log: Receives a sentence that names them.

    Raises:
        UsageError: for more processes than GPUs; on a machine without one, they train on its CPUs. Also in one of the
            processes of a launcher.
    """
    check_not_launched()
    gpus, given = visible_gpus(), os.environ.get(VISIBLE)
    if 0 < len(gpus) < processes:
        raise UsageError(
            f"{processes} processes need a GPU each, and {len(gpus)} are visible",
            where="--gpus",
            fix=f"Give at most {len(gpus)}.",
        )
    if len(gpus) <= processes:
        yield
        return
    chosen = gpus[:processes]
    log(f"Using {' and '.join(map(describe_gpu, chosen))} of {len(gpus)}.")
    os.environ[VISIBLE] = ",".join(chosen)
    try:
        yield
    finally:
        if given is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = given


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it.

    Attributes:
        id: Its UUID, as `CUDA_VISIBLE_DEVICES` takes it.
        free: Bytes.
    """

    id: str
    name: str
    free: int


def visible_gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name: its own entries if it is set, else the UUIDs of all GPUs, most free memory
    first. Empty without an NVIDIA GPU, and for a build of PyTorch that computes on CPUs only.
    """
    if find_spec("torch") is None:
        return []
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return []
    if (chosen := os.environ.get(VISIBLE)) is not None:
        return [entry.strip() for entry in chosen.split(",") if entry.strip() not in ("", "-1")]
    return [gpu.id for gpu in sorted(_gpus(), key=lambda gpu: -gpu.free)]


def describe_gpu(entry: str) -> str:
    """Number, name and free memory of a GPU, for people; only its number where the user gave that."""
    known = {gpu.id: f"GPU {number} ({gpu.name}, {gpu.free / 1e9:.1f} GB free)" for number, gpu in enumerate(_gpus())}
    return known.get(entry, f"GPU {entry}")


def _gpus() -> list[Gpu]:
    """The GPUs of this machine, from `nvidia-smi`: PyTorch would occupy memory of each to ask it."""
    query = ["nvidia-smi", "--query-gpu=uuid,name,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        rows = [[cell.strip() for cell in line.split(",")] for line in lines]
        return [Gpu(uuid, name, int(free) * 2**20) for uuid, name, free in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
