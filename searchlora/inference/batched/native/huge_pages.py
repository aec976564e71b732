"""Large pages of memory for what is read from end to end at every step: weights, keys and values (`multi_adapter`)."""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Iterable

import torch

_PAGE = 1 << 21

#: Put what lies in small pages into large ones, now (Linux 6.1; `man 2 madvise`). Python has no name for it yet.
_COLLAPSE = 25


def in_large_pages(tensors: Iterable[torch.Tensor], *, empty: bool = False) -> None:
    """Have the system put the memory of tensors into large pages, where it can and is not told never to.

    Pages are whole ones, so what lies beside a tensor comes along. A system that cannot leaves all as it is.

    Args:
        empty: Nothing was written yet, so nothing has to move: the pages are large when they are first used.
    """
    spans = _joined(_span(each) for each in tensors if each.device.type == "cpu")
    if platform.system() != "Linux" or not spans:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in spans:
        for advice in (mmap.MADV_HUGEPAGE,) if empty else (mmap.MADV_HUGEPAGE, _COLLAPSE):
            advise(start, end - start, advice)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Where it lies, in whole pages."""
    if tensor.is_mkldnn:
        begin, size = torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    else:
        storage = tensor.untyped_storage()
        begin, size = storage.data_ptr(), storage.nbytes()
    return begin // _PAGE * _PAGE, -(-(begin + size) // _PAGE) * _PAGE


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, end))
    return found
