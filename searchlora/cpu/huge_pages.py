"""Huge pages (2 MiB) for memory that every step reads from end to end: weights and KV cache; return of unused memory.

`benchmarks/multi_adapter` has the effect.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

_PAGE_BYTES = 1 << 21

#: MADV_COLLAPSE: move small pages into huge ones now (Linux 6.1, `man 2 madvise`). Python's mmap lacks the constant.
_MADV_COLLAPSE = 25

#: What is mapped into this process, on Linux.
_MAPPINGS = Path("/proc/self/maps")


def use_huge_pages(tensors: Iterable[torch.Tensor], *, is_empty: bool = False) -> None:
    """Ask the operating system to back CPU tensors with huge pages; without support nothing changes.

    Whole pages are moved, with whatever else lies in them. With `is_empty`, nothing was written to the tensors yet:
    nothing has to be moved, and the pages are huge on first use.
    """
    spans = _merge(_span(tensor) for tensor in tensors if tensor.device.type == "cpu")
    if platform.system() != "Linux" or not spans:
        return
    for start, end in spans:
        for advice in (mmap.MADV_HUGEPAGE,) if is_empty else (mmap.MADV_HUGEPAGE, _MADV_COLLAPSE):
            _madvise(start, end - start, advice)


def _madvise(start: int, size: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(advice))


def release_free_memory() -> None:
    """Return the allocator's free memory to the operating system (`malloc_trim`), where the C library supports it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def release_files(tensors: Iterable[torch.Tensor]) -> None:
    """Drop the resident pages of CPU tensors that are mapped from files, as safetensors maps them; other tensors stay.

    A later read takes the numbers from the file again, so changes that were made in memory are lost.
    """
    on_cpu = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if not on_cpu or not _MAPPINGS.exists():
        return
    files = list(_file_mappings())
    for tensor in on_cpu:
        begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(start <= begin and end <= stop for start, stop in files):
            begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            if (size := end // mmap.PAGESIZE * mmap.PAGESIZE - begin) > 0:
                _madvise(begin, size, mmap.MADV_DONTNEED)


def _file_mappings() -> Iterator[tuple[int, int]]:
    """Beginning and end of each part of memory that is mapped from a file (`man 5 proc_pid_maps`)."""
    for line in _MAPPINGS.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    if tensor.is_mkldnn:
        begin, size = torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    else:
        storage = tensor.untyped_storage()
        begin, size = storage.data_ptr(), storage.nbytes()
    return begin // _PAGE_BYTES * _PAGE_BYTES, -(-(begin + size) // _PAGE_BYTES) * _PAGE_BYTES


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return merged
