"""The grades of a scale, their names and meanings: from a team's own guideline file, or one of ours.

A YAML guideline:

    relevant: 2                     # from this grade on a passage counts as relevant
    text: Judge as a customer would.  # optional, shown below the grades
    grades:
      - {grade: 0, name: unrelated, meaning: about something else, from: [0, 1]}   # `from`: grades of the source
      - ...

A Markdown guideline is the one that `searchlora grade serve` shows to people: lines such as `* 3: Perfect. Answers the
query.` are the grades, all other lines are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from searchlora.errors import DataError, UsageError
from searchlora.records import Options

#: Characters of title and passage that the model is shown, about 80 words of English. Of the passages of TREC DL 2019,
#: one in four is longer.
CHARACTERS = 480

OPTIONS: Mapping[str, str] = {
    "guideline": "a YAML or Markdown file with the grades and their meanings, or 'products' for our grades of products",
    "grades": "2, 3 or 4: our grades of passages, the source's four grades folded into so many (default 4)",
    "relevant": "the grade from which on a passage counts as relevant (default: as the guideline says, else the upper "
    "half of the scale)",
    "characters": f"how many characters of title and passage are shown to the model (default {CHARACTERS})",
}

_OURS = Path(__file__).parent
_NAMED = re.compile(r"\s*[*+-]\s+\**(\d+)\**\s*[:=]\**\s*([^:.(–—]+)[:.(–—]*\s*(.*)")
_KEYS = {"grade", "name", "meaning", "from"}


@dataclass(frozen=True)
class Grade:
    """One grade of a scale.

    Attributes:
        grade: Written out as its digit.
        covers: The grades of a source that become this one.
    """

    grade: int
    name: str
    meaning: str
    covers: tuple[int, ...]


@dataclass(frozen=True)
class Guideline:
    """A scale of two to four grades, rising, and what is said about it."""

    grades: tuple[Grade, ...]
    relevant: int
    text: str = ""

    def fold(self, grade: int) -> int | None:
        """The grade of this scale that a source's grade becomes; None where no grade covers it."""
        return next((each.grade for each in self.grades if grade in each.covers), None)

    def settings(self, *, characters: int = CHARACTERS) -> dict[str, Any]:
        """As the task keeps it: plain JSON."""
        scale = [{"grade": each.grade, "name": each.name, "meaning": each.meaning} for each in self.grades]
        return {"scale": scale, "guideline": self.text, "relevant": self.relevant, "characters": characters}


def guideline_of(options: Options) -> Guideline:
    """The guideline that a builder's options ask for.

    Raises:
        UsageError: when the options contradict each other or the file.
        DataError: when the file cannot be read or does not say what the grades are, naming its line or field.
    """
    named, grades = options.get("guideline"), options.get("grades")
    if named is not None and grades is not None:
        raise UsageError("a guideline says itself which grades there are", where="--option grades", fix="Leave it out.")
    if grades not in (None, "2", "3", "4"):
        raise UsageError(f"'{grades}' is not 2, 3 or 4", where="--option grades")
    ours = _OURS / f"guideline_{'products' if named == 'products' else grades or 4}.yaml"
    found = read_guideline(ours if named in (None, "products") else Path(str(named)))
    if "relevant" not in options:
        return found
    return _checked(found.grades, _number(options["relevant"], "--option relevant"), found.text, "--option relevant")


def settings_of(options: Options) -> dict[str, Any]:
    """The task's settings that a builder's options ask for; raises as `guideline_of`."""
    characters = _number(options.get("characters", str(CHARACTERS)), "--option characters")
    if characters < 1:
        raise UsageError("of a passage at least one character is shown", where="--option characters")
    return guideline_of(options).settings(characters=characters)


def read_guideline(path: Path) -> Guideline:
    """Read a guideline file, YAML (`.yaml`, `.yml`) or Markdown (any other name).

    Raises:
        DataError: naming the file, and the line or field that is wrong.
        UsageError: when `relevant` leaves one side without a grade.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason})", where=str(path)) from None
    if path.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(text, str(path))
    return _from_markdown(text, str(path))


def _from_yaml(text: str, where: str) -> Guideline:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"is not YAML ({error})", where=where) from None
    if not isinstance(content, dict) or not isinstance(content.get("grades"), list):
        raise DataError("has no list 'grades'", where=where, fix="List each grade with its name and meaning.")
    if unknown := sorted(set(content) - {"grades", "relevant", "text"}):
        raise DataError(f"unknown key '{unknown[0]}'", where=where, fix="Known keys: grades, relevant, text.")
    grades = [_grade(each, f"{where}, grades/{place}") for place, each in enumerate(content["grades"])]
    relevant = content.get("relevant")
    if relevant is not None and not isinstance(relevant, int):
        raise DataError(f"'{relevant}' is not a grade", where=f"{where}, relevant")
    return _checked(grades, relevant, str(content.get("text") or "").strip(), where)


def _grade(each: Any, where: str) -> Grade:
    if not isinstance(each, dict) or not isinstance(each.get("grade"), int) or not isinstance(each.get("name"), str):
        raise DataError("a grade has a number 'grade' and a text 'name'", where=where)
    if unknown := sorted(map(str, set(each) - _KEYS)):
        raise DataError(f"unknown key '{unknown[0]}'", where=where, fix="Known keys: grade, name, meaning, from.")
    covers = each.get("from", [each["grade"]])
    if not isinstance(covers, list) or not all(isinstance(one, int) for one in covers):
        raise DataError("'from' is not a list of the source's grades", where=where)
    return Grade(each["grade"], each["name"].strip(), str(each.get("meaning") or "").strip(), tuple(covers))


def _from_markdown(text: str, where: str) -> Guideline:
    grades, rest = [], []
    for line in text.splitlines():
        if found := _NAMED.match(line):
            number = int(found[1])
            grades.append(Grade(number, found[2].strip(" *"), found[3].strip(" *)"), (number,)))
        else:
            rest.append(line)
    if not grades:
        raise DataError("names no grade", where=where, fix="Write a line for each, such as '* 3: Perfect. Answers it.'")
    return _checked(grades, None, "\n".join(rest).strip(), where)


def _checked(grades: list[Grade] | tuple[Grade, ...], relevant: int | None, text: str, where: str) -> Guideline:
    ordered = tuple(sorted(grades, key=lambda each: each.grade))
    numbers = [each.grade for each in ordered]
    told = ", ".join(map(str, numbers))
    if not 2 <= len(numbers) <= 4 or len(set(numbers)) < len(numbers) or not 0 <= numbers[0] <= numbers[-1] <= 9:
        raise DataError(f"the grades {told} are no scale", where=where, fix="A scale is two to four different digits.")
    covered = [one for each in ordered for one in each.covers]
    if twice := sorted({one for one in covered if covered.count(one) > 1}):
        raise DataError(f"the source's grade {twice[0]} would become two grades", where=where, fix="Correct 'from'.")
    if relevant is None:
        relevant = numbers[len(numbers) // 2]
    if not numbers[0] < relevant <= numbers[-1]:
        raise UsageError(
            f"from grade {relevant} on as relevant divides no scale {told}",
            where=where,
            fix="Give the lowest grade that counts as relevant.",
        )
    return Guideline(ordered, relevant, text)


def _number(text: str, where: str) -> int:
    if not text.isdigit():
        raise UsageError(f"'{text}' is not a whole number", where=where)
    return int(text)
