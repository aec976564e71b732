"""The Cranfield collection: abstracts on aerodynamics, queries and graded judgments (Cleverdon 1967; the files are
those of https://ir.dcs.gla.ac.uk/resources/test_collections/cran/).

`cran.all.1400` and `cran.qry` hold entries that begin with `.I NUMBER`, then `.T` title, `.A` authors, `.B` source,
`.W` text. A line of `cranqrel` is `query document grade`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.files import numbered_lines
from searchlora.records import Collection, Document, Judgment

_FIELD = re.compile(r"\.([A-Z])\s*")


def topics(source: Path) -> dict[str, str]:
    """Topic id -> query. The id is the query's place in the file from 1: the judgments use it, not the `.I` number.

    Raises:
        DataError: naming file and line.
    """
    return {str(place): text for place, (_, _, text) in enumerate(_entries(source / "cran.qry"), start=1)}


def collection(source: Path) -> Collection:
    """The abstracts of the folder `source` (two of the 1,400 are empty), and its judgments.

    The file's grades go from 1, a complete answer, to 4, of minimum interest; here 4 is best and 1 is least. Lines with
    -1, one per query, are not explained by the file: they are left out, never taken for "not relevant".

    Both are read when gone through, and raise `DataError` naming file and line.
    """
    return Collection(
        documents=(Document(number, text, title) for number, title, text in _entries(source / "cran.all.1400")),
        judgments=_judgments(source / "cranqrel"),
    )


def unexplained(source: Path) -> frozenset[tuple[str, str]]:
    """The pairs (topic, document) that stand with -1 in the judgments: neither relevant nor not.

    Raises:
        DataError: naming file and line.
    """
    return frozenset((topic, document) for topic, document, grade in _lines(source / "cranqrel") if grade == "-1")


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Number, title and text."""
    number, fields, field = "", dict[str, list[str]](), ""
    for place, line in numbered_lines(path):
        if line.startswith(".I"):
            if number:
                yield number, _text(fields, "T"), _text(fields, "W")
            number, fields, field = line[2:].strip(), {}, ""
            if not number:
                raise DataError("there is no number", where=f"{path}, line {place}", fix="A line is '.I NUMBER'.")
        elif (marked := _FIELD.fullmatch(line)) and number:
            field = marked[1]
            fields[field] = []
        elif not field:
            raise DataError(
                "is not an entry of the Cranfield collection",
                where=f"{path}, line {place}",
                fix="An entry begins with '.I NUMBER', and a field with '.T', '.A', '.B' or '.W'.",
            )
        else:
            fields[field].append(line)
    if not number:
        raise DataError("holds no entry", where=str(path), fix="An entry begins with '.I NUMBER'.")
    yield number, _text(fields, "T"), _text(fields, "W")


def _text(fields: dict[str, list[str]], name: str) -> str:
    return " ".join(" ".join(fields.get(name, ())).split())


def _judgments(path: Path) -> Iterator[Judgment]:
    for topic, document, grade in _lines(path):
        if grade != "-1":
            yield Judgment(topic, document, 5 - int(grade))


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    for place, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in ("-1", "1", "2", "3", "4"):
            raise DataError(
                f"'{line.strip()}' is not a judgment",
                where=f"{path}, line {place}",
                fix="A line is 'query document grade', the grade 1 to 4 or -1.",
            )
        yield fields[0], fields[1], fields[2]
