"""This machine in words, and the versions of the packages on which results depend."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from searchlora.models.processor import cpu_name

_PACKAGES = (
    *("searchlora", "torch", "transformers", "peft", "trl", "bitsandbytes"),
    *("sentence-transformers", "faiss-cpu", "bm25s", "ir-measures"),
)


@cache
def machine() -> str:
    """This machine in words: processor, cores, memory, and the GPU that torch uses."""
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return f"{cpu_name()}, {os.cpu_count()} cores, {memory:.0f} GiB, {_gpu() or 'no GPU'}"


def _gpu() -> str | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages on which results depend."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
