"""The Cranfield collection for tests, read by the project's reader."""

from __future__ import annotations

from pathlib import Path

from searchlora.data.formats.judged_collections import cranfield_collection as collection
from searchlora.data.formats.judged_collections import cranfield_topics as topics
from searchlora.records import Document


def documents(folder: Path) -> list[Document]:
    """The 1,400 abstracts."""
    return list(collection(folder).documents)


def queries(folder: Path) -> dict[str, str]:
    """The 225 queries by the id that the judgments use."""
    return topics(folder)


def qrels(folder: Path) -> dict[str, dict[str, int]]:
    """Grades, 4 best."""
    grades: dict[str, dict[str, int]] = {}
    for judgment in collection(folder).judgments:
        grades.setdefault(judgment.topic, {})[judgment.document] = judgment.grade
    return grades
