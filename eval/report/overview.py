"""Several evaluations, one per task, on one page, and what their models take up on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.eval.comparison import Comparison
from searchlora.eval.report.page import Section, write_page
from searchlora.eval.report.sections import systems_section
from searchlora.eval.report.words import summary


@dataclass(frozen=True)
class Chapter:
    """One task's evaluation.

    Attributes:
        details: Link to its own report, relative to the page.
    """

    title: str
    comparison: Comparison
    details: str


@dataclass(frozen=True)
class Stored:
    """A part of what lies on disk: a base model with its adapters, or what stands for it if each were a full model.

    Attributes:
        adapters: Name -> bytes.
    """

    base: str
    base_bytes: int
    adapters: Mapping[str, int]

    @property
    def together(self) -> int:
        """Bytes of the base and its adapters."""
        return self.base_bytes + sum(self.adapters.values())

    @property
    def full_models(self) -> int:
        """Bytes of as many full models as there are adapters."""
        return self.base_bytes * len(self.adapters)


def write_overview(
    path: str | Path,
    title: str,
    chapters: Sequence[Chapter],
    stored: Sequence[Stored],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
) -> Path:
    """Write the page, at once or not at all. Raises `DataError` when the file cannot be written."""
    sections = [_footprint(stored), *(_chapter(place, chapter) for place, chapter in enumerate(chapters, 1))]
    return write_page(path, title, sections, provenance, introduction=introduction)


def _chapter(place: int, chapter: Chapter) -> Section:
    found = systems_section(chapter.comparison)
    content = {"systems": found.content, "said": summary(chapter.comparison), "details": chapter.details}
    return replace(found, id=f"task-{place}", title=chapter.title, template="chapter", content=content)


def _footprint(stored: Sequence[Stored]) -> Section:
    together, full = (sum(of) for of in (
        [each.together for each in stored], [each.full_models for each in stored]
    ))  # fmt: skip
    content = {
        "stored": stored,
        "together": together,
        "full": full,
        "count": sum(len(each.adapters) for each in stored),
    }
    return Section("footprint", "On disk", "footprint", content)
