"""Human and judge's labels of the same pairs, as a table of counts for each query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.agreement import Floats, as_scale, confusion
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
