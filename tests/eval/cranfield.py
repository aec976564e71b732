"""The Cranfield collection as its files give it."""

from __future__ import annotations

import re
from pathlib import Path

from searchlora.records import Document


def documents(folder: Path) -> list[Document]:
    """The 1,400 abstracts."""
    return [Document(number, text, title) for number, title, text in _entries(folder / "cran.all.1400")]


def queries(folder: Path) -> dict[str, str]:
    """The 225 queries by their place in the file, which is the id that the judgments use."""
    return {str(place): text for place, (_, _, text) in enumerate(_entries(folder / "cran.qry"), start=1)}


def qrels(folder: Path) -> dict[str, dict[str, int]]:
    """Grades turned round so that more is better (file: 1 best, 4 least); the unexplained -1 are dropped."""
    grades: dict[str, dict[str, int]] = {}
    for line in (folder / "cranqrel").read_text().splitlines():
        topic, document, grade = line.split()
        if int(grade) > 0:
            grades.setdefault(topic, {})[document] = 5 - int(grade)
    return grades


def _entries(path: Path) -> list[tuple[str, str, str]]:
    found = []
    for entry in re.split(r"^\.I ", path.read_text(), flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^\.([TW])\n(.*?)(?=^\.[A-Z]\n|\Z)", entry, flags=re.MULTILINE | re.DOTALL))
        found.append((entry.split()[0], " ".join(fields.get("T", "").split()), " ".join(fields["W"].split())))
    return found
