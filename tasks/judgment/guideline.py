"""Judging guidelines: the grades of a scale with their names and meanings, from a YAML or Markdown file.

A YAML guideline:

    relevant: 2                       # the lowest grade that counts as relevant
    text: Judge as a customer would.  # optional, follows the grades in the prompt
    grades:
      - {grade: 0, name: unrelated, meaning: about something else, from: [0, 1]}   # `from`: grades of the source
      - ...

A Markdown guideline is the file that `searchlora grade serve` shows to human assessors: lines such as
`* 3: Perfect. Answers the query.` define the grades, all other lines are text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import whole_number, yes_or_no
from searchlora.data.grade_lines import grade_line
from searchlora.errors import DataError, UsageError
from searchlora.files import read_text
from searchlora.files.yaml_text import parse_yaml
from searchlora.records import Option, Options

#: Default maximum of characters of title and passage in the prompt, about 80 words of English. One in four passages of
#: TREC DL 2019 is longer.
CHARACTERS = 480

OPTIONS: Mapping[str, Option] = {
    "guideline": Option("the grades and their meanings (YAML or Markdown), or the word `products`", "file"),
    "grades": Option("number of built-in grades, to which the source's four grades are mapped", "2, 3 or 4", "4"),
    "relevant": Option(
        "the lowest grade that counts as relevant", "whole number", "the guideline's, else the upper half of the scale"
    ),
    "characters": Option(
        "maximum number of characters of title and passage in the prompt", "whole number ≥ 1", f"{CHARACTERS}"
    ),
}

#: An option of formats whose records have a reason.
REASON_OPTION: Mapping[str, Option] = {
    "reason": Option("learn to give a one-sentence reason, from the field `reason`", "yes or no", "no")
}

_BUILT_IN = Path(__file__).parent
_PRODUCTS = "products"  # a built-in guideline
_KEYS = {"grade", "name", "meaning", "from"}


@dataclass(frozen=True)
class GradeMeaning:
    """One grade of a scale."""

    grade: int
    name: str
    meaning: str
    covers: tuple[int, ...]


@dataclass(frozen=True)
class GradeScale:
    """A scale of two to four grades in ascending order, the relevance threshold, and further text."""

    grades: tuple[GradeMeaning, ...]
    relevant: int
    text: str = ""

    def fold(self, grade: int) -> int | None:
        """Map a grade of the source to this scale; None where no grade covers it."""
        return next((own.grade for own in self.grades if grade in own.covers), None)

    def settings(self, *, characters: int = CHARACTERS) -> dict[str, Any]:
        """The task settings as plain JSON."""
        scale = [{"grade": own.grade, "name": own.name, "meaning": own.meaning} for own in self.grades]
        return {"scale": scale, "guideline": self.text, "relevant": self.relevant, "characters": characters}


def guideline_of(options: Options) -> GradeScale:
    """The guideline selected by a builder's options."""
    name, grades = options.get("guideline"), options.get("grades")
    if name is not None and grades is not None:
        raise UsageError("a guideline defines the grades itself", where="--option grades", fix="Leave it out.")
    if grades not in (None, "2", "3", "4"):
        raise UsageError(f"'{grades}' is not 2, 3 or 4", where="--option grades")
    built_in = _BUILT_IN / f"guideline_{name if name == _PRODUCTS else grades or 4}.yaml"
    guideline = read_guideline(built_in if name in (None, _PRODUCTS) else Path(str(name)))
    if "relevant" not in options:
        return guideline
    relevant = whole_number(options, "relevant", guideline.relevant)
    return _checked(guideline.grades, relevant, guideline.text, "--option relevant")


def settings_of(options: Options) -> dict[str, Any]:
    """The task settings selected by a builder's options.

    The key `reason` is present only where reasons are requested, so that settings without reasons do not change.
    """
    characters = whole_number(options, "characters", CHARACTERS, minimum=1)
    reason = {"reason": True} if yes_or_no(options, "reason", "no") else {}
    return guideline_of(options).settings(characters=characters) | reason


def read_guideline(path: Path) -> GradeScale:
    """Read a guideline file, YAML (`.yaml`, `.yml`) or Markdown (any other name)."""
    text = read_text(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(text, str(path))
    return _from_markdown(text, str(path))


def _from_yaml(text: str, where: str) -> GradeScale:
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise DataError(str(error), where=where) from None
    if not isinstance(content, dict) or not isinstance(content.get("grades"), list):
        raise DataError("has no list 'grades'", where=where, fix="List each grade with its name and meaning.")
    if unknown := sorted(map(str, content.keys() - {"grades", "relevant", "text"})):
        raise DataError(f"unknown key '{unknown[0]}'", where=where, fix="Known keys: grades, relevant, text.")
    grades = [_grade(entry, f"{where}, grades/{index}") for index, entry in enumerate(content["grades"])]
    relevant = content.get("relevant")
    if relevant is not None and type(relevant) is not int:
        raise DataError(f"'{relevant}' is not a grade", where=f"{where}, relevant")
    return _checked(grades, relevant, str(content.get("text") or "").strip(), where)


def _grade(entry: Any, where: str) -> GradeMeaning:
    if not isinstance(entry, dict) or type(entry.get("grade")) is not int or not isinstance(entry.get("name"), str):
        raise DataError("a grade needs a number 'grade' and a text 'name'", where=where)
    if unknown := sorted(map(str, set(entry) - _KEYS)):
        raise DataError(f"unknown key '{unknown[0]}'", where=where, fix="Known keys: grade, name, meaning, from.")
    covers = entry.get("from", [entry["grade"]])
    if not isinstance(covers, list) or not all(type(grade) is int for grade in covers):
        raise DataError("'from' is not a list of the source's grades", where=where)
    return GradeMeaning(entry["grade"], entry["name"].strip(), str(entry.get("meaning") or "").strip(), tuple(covers))


def _from_markdown(text: str, where: str) -> GradeScale:
    grades, rest = [], []
    for line in text.splitlines():
        if named := grade_line(line):
            grades.append(GradeMeaning(*named, (named.grade,)))
        else:
            rest.append(line)
    if not grades:
        raise DataError(
            "defines no grade", where=where, fix="Write one line per grade, such as '* 3: Perfect. Answers it.'"
        )
    return _checked(grades, None, "\n".join(rest).strip(), where)


def _checked(
    grades: list[GradeMeaning] | tuple[GradeMeaning, ...], relevant: int | None, text: str, where: str
) -> GradeScale:
    ordered = tuple(sorted(grades, key=lambda grade: grade.grade))
    numbers = [grade.grade for grade in ordered]
    listed = ", ".join(map(str, numbers))
    if not 2 <= len(numbers) <= 4 or len(set(numbers)) < len(numbers) or not 0 <= numbers[0] <= numbers[-1] <= 9:
        raise DataError(
            f"the grades {listed} are not a scale", where=where, fix="A scale has two to four different digits."
        )
    covered = [source for grade in ordered for source in grade.covers]
    if repeated := sorted(source for source, count in Counter(covered).items() if count > 1):
        raise DataError(f"the source's grade {repeated[0]} is mapped to two grades", where=where, fix="Correct 'from'.")
    if relevant is None:
        relevant = numbers[len(numbers) // 2]
    if not numbers[0] < relevant <= numbers[-1]:
        raise UsageError(
            f"relevant={relevant} does not divide the scale {listed}",
            where=where,
            fix="Give the lowest grade that counts as relevant; at least one grade must be below it.",
        )
    return GradeScale(ordered, relevant, text)
