"""Memory in huge pages."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from searchlora.cpu import huge_pages
from searchlora.cpu.huge_pages import use_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

LARGE = pytest.mark.skipif(
    not SETTING.is_file() or "[never]" in SETTING.read_text(), reason="this system has no large pages for anybody"
)


def mappings(tensor: torch.Tensor) -> list[str]:
    """What the kernel says of each mapping that holds a part of a tensor (`man 5 proc_pid_smaps`)."""
    found = []
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        start, end = (int(each, 16) for each in entry.split()[0].split("-"))
        if start < tensor.data_ptr() + tensor.nbytes and tensor.data_ptr() < end:
            found.append(entry)
    return found


def large(tensor: torch.Tensor) -> int:
    """Bytes of large pages in the mappings that hold a tensor."""
    return sum(
        1024 * int(re.search(r"^AnonHugePages: +(\d+) kB", entry, re.MULTILINE)[1]) for entry in mappings(tensor)
    )


def requested(tensor: torch.Tensor) -> bool:
    """Whether every mapping of a tensor has the kernel's flag `hg` (huge pages are requested)."""
    return all("hg" in re.search(r"^VmFlags: (.*)", entry, re.MULTILINE)[1].split() for entry in mappings(tensor))


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


@LARGE
def test_huge_pages_are_requested_for_untouched_memory():
    # Whether the kernel has huge pages left when the memory is used depends on the machine, so the request is tested.
    memory = mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = torch.frombuffer(memory, dtype=torch.float32)[1 << 19 : -(1 << 19)]
    assert not requested(numbers)
    use_huge_pages([numbers], is_empty=True)
    assert requested(numbers)


def test_adjacent_spans_are_merged():
    assert huge_pages._merge([(4, 6), (0, 2), (1, 3), (6, 8), (5, 6)]) == [(0, 3), (4, 8)]


def test_systems_without_huge_pages_are_unchanged(monkeypatch):
    monkeypatch.setattr(huge_pages.platform, "system", lambda: "Darwin")
    use_huge_pages([torch.ones(3)])
    use_huge_pages([])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_files_are_released_only_where_there_can_be_any(monkeypatch, tmp_path, device):
    monkeypatch.setattr(huge_pages, "_MAPPINGS", tmp_path / "none")  # no Linux, for a tensor on the CPU
    monkeypatch.setattr(huge_pages, "_file_mappings", lambda: pytest.fail("read for nothing"))
    huge_pages.release_files([torch.empty(4, device=device)])
