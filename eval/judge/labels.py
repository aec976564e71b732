"""Human and judge's labels of the same pairs, as a table of counts for each query."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.files import atomic_text, numbered_lines
from searchlora.eval.formats import read_qrels
from searchlora.eval.formats.json_text import json_rows
from searchlora.eval.judge.agreement import Floats, as_scale, confusion
from searchlora.eval.judgments.card import invalid_path, read_card
from searchlora.eval.trec import Qrels

#: topic -> document -> grade; None where the judge's answer was no grade
Labels = Mapping[str, Mapping[str, int | None]]


@dataclass(frozen=True)
class Paired:
    """The pairs that both people and the judge have.

    Attributes:
        scale: The grades there are, rising.
        topics: Those that have such pairs.
        tables: Counts of (human grade, judge's grade) for each topic, `(topics, G, G + 1)`, invalid in the last column.
        invalid: What the judge said that is no grade of the scale -> how often; `none` for an answer without a grade.
        missing: Pairs that people graded and the judge has no label for.
        extra: Pairs that only the judge has.
    """

    scale: tuple[int, ...]
    topics: tuple[str, ...]
    tables: Floats
    invalid: Mapping[str, int]
    missing: int
    extra: int

    @property
    def n(self) -> int:
        """How many pairs."""
        return int(self.tables.sum())


def pair(human: Qrels, judged: Labels, scale: Sequence[int]) -> Paired:
    """Set the judge's labels beside the human ones.

    Raises:
        UsageError: when the scale has fewer than two grades.
        DataError: when a human grade is outside the scale, or no pair is common.
    """
    grades = as_scale(scale)
    if len(grades) < 2:
        raise UsageError("a scale needs two grades at least")
    check_grades(human, grades)
    tables: dict[str, Floats] = {}
    invalid: Counter[str] = Counter()
    for topic, row in human.items():
        labels = judged.get(topic, {})
        both = [document for document in row if document in labels]
        if not both:
            continue
        theirs = [labels[document] for document in both]
        tables[topic] = confusion([row[document] for document in both], theirs, grades)
        invalid.update("none" if label is None else str(label) for label in theirs if label not in grades)
    if not tables:
        raise DataError("the judge has no label for any pair that people graded", fix="Do the ids agree?")
    common = int(sum(table.sum() for table in tables.values()))
    return Paired(
        scale=grades,
        topics=tuple(tables),
        tables=np.array(list(tables.values())),
        invalid=dict(sorted(invalid.items())),
        missing=size(human) - common,
        extra=size(judged) - common,
    )


def check_grades(human: Qrels, scale: Sequence[int], whose: str = "") -> None:
    """Raise `DataError` naming the first human grade outside the scale; `whose` stands before the topic."""
    for topic, row in human.items():
        for document, grade in row.items():
            if grade not in scale:
                raise DataError(
                    f"the human grade {grade} is outside the scale {', '.join(map(str, scale))}",
                    where=f"{whose}topic {topic}, document {document}",
                    fix="Give the scale that people graded on.",
                )


def common(labels: Sequence[Labels]) -> set[tuple[str, str]]:
    """The pairs of topic and document that all of them have."""
    sets = [{(topic, document) for topic, row in each.items() for document in row} for each in labels]
    return set.intersection(*sets)


def only(labels: Labels, pairs: set[tuple[str, str]]) -> dict[str, dict[str, int | None]]:
    """The labels of those pairs."""
    return {
        topic: {document: label for document, label in row.items() if (topic, document) in pairs}
        for topic, row in labels.items()
    }


def size(labels: Labels) -> int:
    """How many pairs are labelled."""
    return sum(map(len, labels.values()))


# MERGE-DOC eval/judge/labels_file.py
# """The labels of people and of judges from their files, a judge's with the answers that were no grade."""


def check_of_people(path: str | Path) -> None:
    """Raises `DataError` where the card of a qrels file says that its judgments are not people's."""
    made = read_card(path)
    if made is not None and made.source != "human":
        raise DataError(f"holds judgments of source '{made.source}', not of people", where=str(path))


def read_labels(path: str | Path) -> dict[str, dict[str, int | None]]:
    """Qrels of a judge as topic -> document -> grade, or None for an answer that was no grade.

    Those are in `<path>.invalid.jsonl`, which `searchlora judge` writes beside the qrels: rows with `topic` and
    `document`. Without that file the qrels alone are read, unless their card says that there are such answers.

    Raises:
        DataError: naming file and line, for what `read_qrels` and `read_card` refuse, a damaged row, a pair that has a
            grade too, or fewer such answers, or more, than the card says.
    """
    labels: dict[str, dict[str, int | None]] = {topic: dict(row) for topic, row in read_qrels(path).items()}
    beside, card = invalid_path(path), read_card(path)
    failed = 0
    for where, row in json_rows(beside) if beside.exists() else ():
        if "topic" not in row or "document" not in row:
            raise DataError("is no row with topic and document", where=where)
        topic, document = str(row["topic"]), str(row["document"])
        if document in labels.setdefault(topic, {}):
            raise DataError(f"document {document} of topic {topic} has a grade or stands twice", where=where)
        labels[topic][document] = None
        failed += 1
    if card is not None and card.invalid != failed:
        raise DataError(
            f"has {failed} answers that were no grade where the card of the qrels says {card.invalid}",
            where=str(beside),
            fix="Bring the file that was written with the qrels; without it the judge would look better than it is.",
        )
    return labels


# MERGE-DOC eval/judgments/probabilities.py
# """The probability that a judge gave each grade, and its reason if it gave one, as JSON lines beside its qrels."""

#: topic -> document -> grade -> probability
Probabilities: TypeAlias = Mapping[str, Mapping[str, Mapping[int, float]]]


def write_probabilities(
    path: str | Path, probabilities: Probabilities, reasons: Mapping[tuple[str, str], str] | None = None
) -> None:
    """Write a line for each pair: `{"topic": ..., "document": ..., "probabilities": {"0": 0.2, ...}}`.

    Args:
        reasons: Of pairs (topic, document) that have one; it goes into their line as `reason`.
    """
    with atomic_text(Path(path)) as out:
        for topic, documents in probabilities.items():
            for document, grades in documents.items():
                reason = (reasons or {}).get((topic, document))
                row = {"topic": topic, "document": document, "probabilities": dict(grades)}
                row |= {"reason": reason} if reason is not None else {}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_probabilities(path: str | Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read what `write_probabilities` wrote. Raises `DataError` naming the line that is none of it."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for number, line in numbered_lines(Path(path)):
        try:
            row = json.loads(line)
            grades = {int(grade): float(value) for grade, value in row["probabilities"].items()}
            found.setdefault(row["topic"], {})[row["document"]] = grades
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError("is not a row of probabilities", where=f"{path}, line {number}") from None
    return found
