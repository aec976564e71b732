"""Human ratings of the grading page as JSON lines, and the qrels merged from them.

A line is `{"topic", "document", "grade", "rater", "time", "seconds", "note"}`. A correction is a line of its own: the
last line of a rater and pair counts. `grade` is null for "cannot tell", which is no judgment and never becomes one.
"""

from __future__ import annotations

import re
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import GREATEST_GRADE, is_word
from searchlora.files import json_object, open_bytes

_RATER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
RATER_RULE = "A rater's name has 1 to 32 characters of a-z, 0-9, '_' and '-', and begins with a letter."


def _one_word(text: str) -> str:
    if not is_word(text):
        raise PydanticCustomError("word", "is not one word")
    return text


def _with_offset(time: str) -> str:
    if datetime.fromisoformat(time).tzinfo is None:
        raise PydanticCustomError("time", "has no UTC offset")
    return time


_Word = Annotated[str, AfterValidator(_one_word)]


@dataclass(frozen=True)
class Rating:
    """One rater's rating of one pair.

    Attributes:
        topic, document: Ids of the pair.
        grade: 0 or more; None for "cannot tell".
        rater: A name that follows `RATER_RULE`; it becomes part of a file name.
        time: Time of the rating, ISO 8601 with UTC offset.
        seconds: Time that the pair was on the screen.
        note: The rater's note; empty for none.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    topic: _Word
    document: _Word
    grade: Annotated[int, Field(ge=0, le=GREATEST_GRADE)] | None
    rater: Annotated[str, Field(pattern=f"^{_RATER.pattern}$")]
    time: Annotated[str, AfterValidator(_with_offset)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    note: Annotated[str, Field(pattern=r"^[^\x00]*$")] = ""

    @property
    def pair(self) -> tuple[str, str]:
        """Topic and document."""
        return self.topic, self.document


def check_rater(name: str) -> str:
    """Return a valid rater's name. Raises `UsageError` for another."""
    if not _RATER.fullmatch(name):
        raise UsageError(f"{name!r} is not a rater's name", fix=RATER_RULE)
    return name


def parse_rating(line: bytes, where: str) -> Rating:
    """Parse one line, UTF-8. Raises `DataError` at `where` for a malformed line."""
    try:
        json_object(line.decode("utf-8"), where)  # refuses what pydantic accepts, such as a repeated key
        return _RATINGS.validate_json(line)
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason})", where=where) from None
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"the field '{first['loc'][0]}': {first['msg'][0].lower()}{first['msg'][1:]}"
        raise DataError(fault, where=where) from None


def read_ratings(path: str | Path) -> list[Rating]:
    """Read all ratings of a file, corrections included, in file order.

    A malformed last line without line break is what a kill during a write leaves. It was never confirmed to the rater
    and is skipped with a warning.
    """
    with open_bytes(Path(path)) as file:
        data = file.read()
    *lines, tail = data.split(b"\n")
    ratings = [
        parse_rating(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if tail.strip():
        where = f"{path}, line {len(lines) + 1}"
        try:
            ratings.append(parse_rating(tail, where))
        except DataError:
            warnings.warn(f"{where}: is incomplete after an interrupted write and was skipped.", stacklevel=2)
    return ratings


def standing(ratings: Iterable[Rating]) -> list[Rating]:
    """The effective ratings: the last one of each rater and pair, in the order of the first ones."""
    last: dict[tuple[str, str, str], Rating] = {}
    for rating in ratings:
        last[rating.rater, rating.topic, rating.document] = rating
    return list(last.values())


def by_rater(ratings: Iterable[Rating]) -> dict[str, dict[str, dict[str, int]]]:
    """rater -> qrels of that rater, sorted by rater, without pairs rated "cannot tell"."""
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for rating in sorted(standing(ratings), key=lambda rating: rating.rater):
        if rating.grade is not None:
            qrels.setdefault(rating.rater, {}).setdefault(rating.topic, {})[rating.document] = rating.grade
    return qrels


def by_pair(ratings: Iterable[Rating]) -> dict[tuple[str, str], dict[str, int]]:
    """(topic, document) -> rater -> grade, for pairs with at least one grade."""
    grades: dict[tuple[str, str], dict[str, int]] = {}
    for rating in standing(ratings):
        if rating.grade is not None:
            grades.setdefault(rating.pair, {})[rating.rater] = rating.grade
    return grades


def merged(ratings: Iterable[Rating], rule: str = "majority") -> dict[str, dict[str, int]]:
    """Merge the grades of all raters into one grade per pair.

    "Cannot tell" is no vote; pairs with such ratings only are absent (`undecided` lists them).

    Args:
        rule: `majority`, `median`, `highest` or `lowest`. If grades tie for the majority, or two are in the middle, the
            lower one is taken: a document is not called more relevant than its raters agree on.

    Examples:
        >>> when = "2026-07-01T12:00:00+00:00"
        >>> ratings = [Rating("q1", "d1", grade, rater, when, 5.0) for grade, rater in ((2, "anna"), (1, "ben"))]
        >>> merged(ratings), merged(ratings, "highest")
        ({'q1': {'d1': 1}}, {'q1': {'d1': 2}})
    """
    if rule not in RULES:
        raise UsageError(f"the rule is '{rule}'", fix=f"Allowed: {', '.join(RULES)}.")
    qrels: dict[str, dict[str, int]] = {}
    for (topic, document), grades in by_pair(ratings).items():
        qrels.setdefault(topic, {})[document] = RULES[rule](list(grades.values()))
    return qrels


def undecided(ratings: Iterable[Rating]) -> list[tuple[str, str]]:
    """The pairs that are rated "cannot tell" by all their raters."""
    rows = standing(ratings)
    graded = by_pair(rows)
    return list(dict.fromkeys(rating.pair for rating in rows if rating.pair not in graded))


def _majority(grades: Sequence[int]) -> int:
    votes = Counter(grades)
    return min(votes, key=lambda grade: (-votes[grade], grade))


#: rule -> function that merges several grades into one.
RULES: Mapping[str, Callable[[Sequence[int]], int]] = {
    "majority": _majority,
    "median": statistics.median_low,
    "highest": max,
    "lowest": min,
}


_RATINGS = TypeAdapter(Rating)
