"""The TREC shapes: qrels and runs as plain mappings, read from and written to their text files.

The formats are those of trec_eval (https://github.com/usnistgov/trec_eval): qrels lines are
`topic iteration document grade`, run lines are `topic Q0 document rank score tag`, separated by blanks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text, numbered_lines

#: topic id -> document id -> grade
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]

#: topic id -> document id -> score; a topic that found nothing has an empty mapping
Run: TypeAlias = Mapping[str, Mapping[str, float]]


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first. Ties go by document id from last to first, as trec_eval orders them.

    So the ranking that is shown is the ranking that is measured.
    """
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read a qrels file, plain or gzip.

    Raises:
        DataError: naming file and line, when a line has not four fields, its grade is no whole number, or a document
            is judged twice for a topic; or when the file holds no line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in numbered_lines(Path(path)):
        where = f"{path}, line {number}"
        fields = _fields(line, "topic iteration document grade", where)
        topic, document, grade = fields[0], fields[2], _grade(fields[3], where)
        _put(qrels.setdefault(topic, {}), document, grade, f"is judged twice for topic {topic}", where)
    if not qrels:
        raise DataError("holds no judgment", where=str(path), fix="A qrels line is 'topic iteration document grade'.")
    return qrels


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run file, plain or gzip. Scores decide; the ranks in the file are not used, as in trec_eval.

    Raises:
        DataError: naming file and line, when a line has not six fields, its score is no finite number, or a document
            is ranked twice for a topic. An empty file is a run that found nothing.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in numbered_lines(Path(path)):
        where = f"{path}, line {number}"
        fields = _fields(line, "topic Q0 document rank score tag", where)
        topic, document, score = fields[0], fields[2], _score(fields[4], where)
        _put(run.setdefault(topic, {}), document, score, f"is ranked twice for topic {topic}", where)
    return run


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write a qrels file, at once or not at all; gzip where the name ends in `.gz`.

    Raises:
        DataError: when an id is empty or has a blank in it, or the file cannot be written.
    """
    with atomic_text(Path(path)) as out:
        for topic, grades in qrels.items():
            for document, grade in grades.items():
                out.write(f"{_word(topic, 'topic')} 0 {_word(document, 'document')} {grade}\n")


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a run file, best documents first, at once or not at all; gzip where the name ends in `.gz`.

    Scores are written in full, so reading the file back gives the same scores and the same ranking. The format has
    no place for a topic that found nothing; measures count it as 0 all the same, because the qrels name it.

    Raises:
        DataError: when an id or the tag is empty or has a blank in it, a score is not finite, or the file cannot be
            written.
    """
    _word(tag, "tag")
    with atomic_text(Path(path)) as out:
        for topic, scores in run.items():
            for rank, document in enumerate(ranked(scores), start=1):
                score = float(scores[document])
                if not math.isfinite(score):
                    raise DataError(f"the score {score} of document {document} is not finite", where=f"topic {topic}")
                out.write(f"{_word(topic, 'topic')} Q0 {_word(document, 'document')} {rank} {score!r} {tag}\n")


def _fields(line: str, names: str, where: str) -> list[str]:
    fields = line.split()
    if len(fields) != len(names.split()):
        raise DataError(
            f"has {len(fields)} fields where {len(names.split())} are needed", where=where, fix=f"A line is '{names}'."
        )
    return fields


def _grade(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"the grade '{text}' is not a whole number", where=where) from None


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        raise DataError(f"the score '{text}' is not a number", where=where) from None
    if not math.isfinite(score):
        raise DataError(f"the score '{text}' is not finite", where=where)
    return score


def _put(row: dict[str, int] | dict[str, float], document: str, value: float, twice: str, where: str) -> None:
    if document in row:
        raise DataError(f"document {document} {twice}", where=where)
    row[document] = value  # type: ignore[assignment]


def _word(text: str, what: str) -> str:
    if len(text.split()) != 1 or text != text.strip():
        raise DataError(f"the {what} '{text}' cannot stand in a TREC file", fix="It must be one word without blanks.")
    return text
