"""The grades that people gave on the grading page, one JSON line each, and the qrels made of them.

A line is `{"topic", "document", "grade", "rater", "time", "seconds", "note"}`. A correction is a line of its own: of a
rater's lines about a pair the last one counts. `grade` is null where the rater could not tell; that is no judgment and
never becomes one.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError

_RATER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
RATER_RULE = "A rater's name has 1 to 32 of a-z, 0-9, '_' and '-', and begins with a letter."


@dataclass(frozen=True)
class Rating:
    """What one person said about one pair.

    Attributes:
        grade: 0 or more; None where the rater could not tell.
        rater: A name by `RATER_RULE`; it becomes part of a file's name.
        time: When it was said, ISO 8601 with its offset.
        seconds: How long the pair was looked at.
        note: What the rater wanted to add; empty for nothing.
    """

    topic: str
    document: str
    grade: int | None
    rater: str
    time: str
    seconds: float
    note: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """Topic and document."""
        return self.topic, self.document


def check_rater(name: str) -> str:
    """The name itself. Raises `UsageError` saying what is allowed."""
    if not _RATER.fullmatch(name):
        raise UsageError(f"{name!r} is not a rater's name", fix=RATER_RULE)
    return name


def rating_line(rating: Rating) -> bytes:
    """The line of a rating, UTF-8, with its end."""
    return json.dumps(asdict(rating), ensure_ascii=False).encode("utf-8") + b"\n"


def parse_rating(line: bytes, where: str) -> Rating:
    """Read one line, UTF-8.

    Raises:
        DataError: saying what is wrong with it, `where`.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason})", where=where) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=where) from None
    if not isinstance(row, dict):
        raise DataError("is not a JSON object", where=where)
    names = [field.name for field in fields(Rating)]
    missing = [name for name in names if name not in row and name != "note"]
    unknown = [name for name in row if name not in names]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {unknown[0]!r}"
        raise DataError(what, where=where, fix=f"A rating has the keys {', '.join(names)}.")
    for name, (fits, must) in _FIELDS.items():
        if not fits(row.get(name, "")):
            raise DataError(f"{name} {row[name]!r} is not {must}", where=where)
    return Rating(**row)


def read_ratings(path: str | Path) -> list[Rating]:
    """Every line of a file of ratings, corrections included, in file order.

    A last line without its end that cannot be read is what a kill while writing leaves, and was never confirmed to
    the rater: it is skipped with a warning.

    Raises:
        DataError: when the file is missing, is not UTF-8, or any other line is malformed; names the line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    *lines, tail = data.split(b"\n")
    ratings = [
        parse_rating(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if tail.strip():
        where = f"{path}, line {len(lines) + 1}"
        try:
            ratings.append(parse_rating(tail, where))
        except DataError:
            warnings.warn(f"{where}: is cut off and was skipped: writing it was interrupted.", stacklevel=2)
    return ratings


def standing(ratings: Iterable[Rating]) -> list[Rating]:
    """The ratings that count: the last one of each rater and pair, in the order in which the pairs were first rated."""
    last: dict[tuple[str, str, str], Rating] = {}
    for rating in ratings:
        last[rating.rater, rating.topic, rating.document] = rating
    return list(last.values())


def by_rater(ratings: Iterable[Rating]) -> dict[str, dict[str, dict[str, int]]]:
    """rater -> qrels of that rater, raters by name. Pairs on which the rater could not tell are not in them."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for rating in sorted(standing(ratings), key=lambda rating: rating.rater):
        if rating.grade is not None:
            found.setdefault(rating.rater, {}).setdefault(rating.topic, {})[rating.document] = rating.grade
    return found


def by_pair(ratings: Iterable[Rating]) -> dict[tuple[str, str], dict[str, int]]:
    """(topic, document) -> rater -> grade, for pairs with at least one grade."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for rating in standing(ratings):
        if rating.grade is not None:
            found.setdefault(rating.pair, {})[rating.rater] = rating.grade
    return found


def merged(ratings: Iterable[Rating], rule: str = "majority") -> dict[str, dict[str, int]]:
    """One grade per pair out of those of all its raters.

    Args:
        rule: `majority`: the grade that most raters gave. `median`: the middle one. `highest`, `lowest`. Where two
            grades tie for the majority, or two stand in the middle, the lower one is taken: a document is not called
            more relevant than its raters agree on.

    Returns:
        Qrels. Raters who could not tell have no vote; a pair on which nobody could tell is not in them (`undecided`
        lists those).

    Raises:
        UsageError: for another rule.
    """
    if rule not in RULES:
        raise UsageError(f"there is no rule '{rule}'", fix=f"Known: {', '.join(RULES)}.")
    qrels: dict[str, dict[str, int]] = {}
    for (topic, document), grades in by_pair(ratings).items():
        qrels.setdefault(topic, {})[document] = RULES[rule](list(grades.values()))
    return qrels


def undecided(ratings: Iterable[Rating]) -> list[tuple[str, str]]:
    """The pairs that were rated and on which no rater could tell."""
    rows = standing(ratings)
    graded = by_pair(rows)
    return list(dict.fromkeys(rating.pair for rating in rows if rating.pair not in graded))


def _majority(grades: Sequence[int]) -> int:
    votes = Counter(grades)
    return min(votes, key=lambda grade: (-votes[grade], grade))


#: rule -> how it makes one grade out of several.
RULES: Mapping[str, Callable[[Sequence[int]], int]] = {
    "majority": _majority,
    "median": statistics.median_low,
    "highest": max,
    "lowest": min,
}


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.split() == [value]


def _is_grade(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "topic": (_is_word, "one word"),
    "document": (_is_word, "one word"),
    "grade": (_is_grade, "a whole number from 0, or null"),
    "rater": (lambda value: isinstance(value, str) and bool(_RATER.fullmatch(value)), "a rater's name"),
    "time": (_is_time, "a time with its offset in ISO 8601"),
    "seconds": (_is_seconds, "a number from 0"),
    "note": (lambda value: isinstance(value, str), "text"),
}
