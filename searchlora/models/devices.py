"""The device of this process: the CPU, or one GPU of a machine with several."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

#: Environment variable with the GPUs that CUDA shows a process: numbers or UUIDs, in order.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def default_device() -> str:
    """`cuda:0`, the first visible GPU; `cpu` without one."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


@contextmanager
def chosen_gpu(log: Callable[[str], None]) -> Iterator[None]:
    """Show this process and its children one GPU, if the machine has several.

    Enter it before anything asks PyTorch for GPUs: CUDA reads the variable once in a process. Without
    `CUDA_VISIBLE_DEVICES` it is the one with the most free memory, else the first that it names. transformers would
    spread the batch over all GPUs that it sees, in threads, which TRL refuses.
    """
    gpus, given = visible_gpus(), os.environ.get(VISIBLE)
    if len(gpus) <= 1:
        yield
        return
    log(f"Using {describe_gpu(gpus[0])} of {len(gpus)}.")
    os.environ[VISIBLE] = gpus[0]
    try:
        yield
    finally:
        if given is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = given


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it."""

    id: str
    name: str
    free: int  # bytes


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
