"""Grading guideline shown beside the passage, and the scale whose grades it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.grade_lines import grade_line
from searchlora.errors import DataError, UsageError
from searchlora.files import read_text


@dataclass(frozen=True)
class RatingGuideline:
    """The guideline as Markdown, and the grades from lowest to highest with their names, empty without one.

    The digit of a grade is its key on the page.
    """

    text: str
    scale: Mapping[int, str]


def read_guideline(path: Path, scale: Sequence[int]) -> RatingGuideline:
    """Read a guideline; lines such as `* 3: Perfect` in it name the grades."""
    grades = sorted(set(scale))
    if len(grades) < 2 or len(grades) != len(scale) or not 0 <= grades[0] <= grades[-1] <= 9:
        raise UsageError(
            f"{','.join(map(str, scale)) or 'nothing'} is no scale",
            fix="A scale is two or more different grades from 0 to 9, for example 0,1,2,3.",
        )
    text = read_text(path)
    if not text.strip():
        raise DataError("the guideline is empty", where=str(path), fix="Describe what each grade means.")
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if named := grade_line(line):
            if named.grade not in grades:
                raise UsageError(
                    f"names the grade {named.grade}, which is not on the scale {','.join(map(str, grades))}",
                    where=f"{path}, line {number}",
                    fix="Change --scale or the guideline.",
                )
            names.setdefault(named.grade, named.name)
    return RatingGuideline(text, {grade: names.get(grade, "") for grade in grades})
