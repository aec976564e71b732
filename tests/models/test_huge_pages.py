"""Memory in huge pages."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from searchlora.models.native import huge_pages
from searchlora.models.native.huge_pages import use_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

LARGE = pytest.mark.skipif(
    not SETTING.is_file() or "[never]" in SETTING.read_text(), reason="this system has no large pages for anybody"
)


def large(tensor: torch.Tensor) -> int:
    """Bytes of large pages in the mappings that hold a tensor."""
    found = 0
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        start, end = (int(each, 16) for each in entry.split()[0].split("-"))
        if start < tensor.data_ptr() + tensor.nbytes and tensor.data_ptr() < end:
            found += 1024 * int(re.search(r"^AnonHugePages: +(\d+) kB", entry, re.MULTILINE)[1])
    return found


def touched_in_huge_pages() -> torch.Tensor:
    """Memory for which huge pages were requested by the system call itself."""
    memory = mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).zero_()


@pytest.mark.slow
@LARGE
def test_weights_are_moved_to_huge_pages_unchanged():
    memory = mmap.mmap(-1, 1 << 24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # memory allocated by torch may be in huge pages already
    weights = torch.frombuffer(memory, dtype=torch.float32)
    kept = torch.arange(1 << 22).float()
    weights.copy_(kept)
    assert large(weights) == 0
    use_huge_pages([weights[5:70], weights])
    assert large(weights) >= 1 << 23
    assert torch.equal(weights, kept)


@pytest.mark.slow
@LARGE
def test_untouched_memory_uses_huge_pages_on_first_use():
    if not large(touched_in_huge_pages()):
        pytest.skip("memory is too fragmented for huge pages on first use")
    numbers = torch.empty(1 << 24)
    use_huge_pages([numbers], is_empty=True)
    before = large(numbers)
    numbers.zero_()
    assert large(numbers) >= before + (1 << 21)  # at least one: the kernel gives as many as fragmentation leaves


def test_adjacent_spans_are_merged():
    assert huge_pages._merge([(4, 6), (0, 2), (1, 3), (6, 8), (5, 6)]) == [(0, 3), (4, 8)]


def test_systems_without_huge_pages_are_unchanged(monkeypatch):
    monkeypatch.setattr(huge_pages.platform, "system", lambda: "Darwin")
    use_huge_pages([torch.ones(3)])
    use_huge_pages([])
