"""Labels of a judge: the files beside its qrels, and their pairing with human grades as confusion tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.agreement import Floats, as_scale, confusion, listed
from searchlora.eval.formats import read_qrels
from searchlora.eval.formats.base import json_rows
from searchlora.eval.judgments.card import invalid_path, read_card
from searchlora.eval.trec import Qrels
from searchlora.files import atomic_text, json_object, numbered_lines

#: topic -> document -> grade; None for an invalid answer of the judge
Labels: TypeAlias = Mapping[str, Mapping[str, int | None]]

_Label = TypeVar("_Label", int, int | None)

_GRADE = re.compile(r"-?[0-9]{1,10}")

#: How far a probability may lie outside 0 to 1 by rounding: probabilities of labels of one grade are added.
_ROUNDING = 1e-6


def check_human(path: str | Path) -> None:
    """Raise `DataError` if the card of a qrels file says that grades in it are of a judge or of clicks."""
    card = read_card(path)
    if card is not None and card.source in ("llm", "clicks", "mixed"):
        raise DataError(f"holds judgments of source '{card.source}', not human ones", where=str(path))


def check_judge(path: str | Path) -> None:
    """Raise `DataError` if the card of a judge's labels says that human grades are among them.

    A judge that is compared with human grades would be compared with themselves there.
    """
    card = read_card(path)
    if card is not None and card.source in ("human", "mixed"):
        raise DataError(
            f"holds judgments of source '{card.source}', not a judge's alone",
            where=str(path),
            fix="Give the file that the judge wrote.",
        )


def read_labels(path: str | Path) -> dict[str, dict[str, int | None]]:
    """Read a judge's qrels with its invalid answers: topic -> document -> grade, or None for an invalid answer.

    Invalid answers are in `<path>.invalid.jsonl`, which `searchlora judge` writes beside the qrels: rows with `topic`
    and `document`. If that file is missing, the qrels alone are read, unless their card counts invalid answers.
    """
    labels: dict[str, dict[str, int | None]] = {topic: dict(row) for topic, row in read_qrels(path).items()}
    invalid_file, card = invalid_path(path), read_card(path)
    invalid = 0
    for where, row in json_rows(invalid_file) if invalid_file.exists() else ():
        topic, document = row.get("topic"), row.get("document")
        if not (isinstance(topic, str) and isinstance(document, str)):
            raise DataError("has no topic and document", where=where)
        if document in labels.setdefault(topic, {}):
            raise DataError(f"document {document} of topic {topic} has a grade or is repeated", where=where)
        labels[topic][document] = None
        invalid += 1
    if card is not None and card.invalid != invalid:
        raise DataError(
            f"has {invalid} invalid answers, but the card of the qrels counts {card.invalid}",
            where=str(invalid_file),
            fix="Restore the file that was written with the qrels: without it the judge looks better than it is.",
        )
    return labels


def write_probabilities(
    path: str | Path, rows: Iterable[tuple[str, str, Mapping[int | str, float], str | None]]
) -> None:
    """Write one JSON line per pair: `{"topic": ..., "document": ..., "probabilities": {"0": 0.2, ...}}`.

    Args:
        rows: Topic, document, grade -> probability, and the judge's reason, which becomes `reason` of the line; None:
            it gives none.
    """
    with atomic_text(Path(path)) as out:
        for topic, document, grades, reason in rows:
            row = {"topic": topic, "document": document, "probabilities": dict(grades)}
            row |= {"reason": reason} if reason is not None else {}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_probabilities(path: str | Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read a file of `write_probabilities`. Raises `DataError` naming a malformed line."""
    probabilities: dict[str, dict[str, dict[int, float]]] = {}
    for number, line in numbered_lines(Path(path)):
        where = f"{path}, line {number}"
        row = json_object(line, where)
        topic, document, values = (row.get(name) for name in ("topic", "document", "probabilities"))
        if not (isinstance(topic, str) and isinstance(document, str) and isinstance(values, dict)):
            raise DataError("has no topic, document and probabilities", where=where)
        if not all(_GRADE.fullmatch(grade) and _is_probability(value) for grade, value in values.items()):
            raise DataError("is not a row of grades with probabilities from 0 to 1", where=where)
        probabilities.setdefault(topic, {})[document] = {int(grade): float(value) for grade, value in values.items()}
    return probabilities


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_ROUNDING <= value <= 1 + _ROUNDING


@dataclass(frozen=True)
class Paired:
    """The pairs that have both a human grade and a label of the judge.

    Attributes:
        topics: The topics with such pairs.
        tables: Confusion table (human grade, judge grade) of each topic, `(topics, G, G + 1)`, invalid labels in the
            last column.
        invalid: Invalid label of the judge -> count; `none` for an answer without a grade.
        missing, extra: Number of human-graded pairs without a label of the judge, and of pairs with a label only.
    """

    scale: tuple[int, ...]
    topics: tuple[str, ...]
    tables: Floats
    invalid: Mapping[str, int]
    missing: int
    extra: int

    @property
    def n(self) -> int:
        """Number of pairs."""
        return int(self.tables.sum())


def pair(human: Qrels, judge: Labels, scale: Sequence[int]) -> Paired:
    """Pair human grades with a judge's labels.

    Examples:
        >>> paired = pair({"q1": {"d1": 2, "d2": 0}}, {"q1": {"d1": 1, "d2": None, "d3": 2}}, scale=(0, 1, 2))
        >>> paired.n, paired.invalid, paired.extra
        (2, {'none': 1}, 1)
        >>> paired.tables[0].astype(int).tolist()
        [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    """
    grades = as_scale(scale)
    if len(grades) < 2:
        raise UsageError("a scale needs at least two grades")
    check_grades(human, grades)
    tables: dict[str, Floats] = {}
    invalid: Counter[str] = Counter()
    for topic, row in human.items():
        labels = judge.get(topic, {})
        documents = [document for document in row if document in labels]
        if not documents:
            continue
        judged = [labels[document] for document in documents]
        tables[topic] = confusion([row[document] for document in documents], judged, grades)
        invalid.update("none" if label is None else str(label) for label in judged if label not in grades)
    if not tables:
        raise DataError("the judge has no label for any human-graded pair", fix="Check that the ids agree.")
    n = int(sum(table.sum() for table in tables.values()))
    return Paired(
        scale=grades,
        topics=tuple(tables),
        tables=np.array(list(tables.values())),
        invalid=dict(sorted(invalid.items())),
        missing=size(human) - n,
        extra=size(judge) - n,
    )


def check_grades(human: Qrels, scale: Sequence[int], prefix: str = "") -> None:
    """Raise `DataError` naming the first human grade outside the scale; `prefix` precedes the topic."""
    for topic, row in human.items():
        for document, grade in row.items():
            if grade not in scale:
                raise DataError(
                    f"the human grade {grade} is outside the scale {listed(scale)}",
                    where=f"{prefix}topic {topic}, document {document}",
                    fix="Give the scale of the human grades.",
                )


def common_pairs(labels: Sequence[Labels]) -> set[tuple[str, str]]:
    """The (topic, document) pairs that all label sets have."""
    sets = [{(topic, document) for topic, row in labelled.items() for document in row} for labelled in labels]
    return set.intersection(*sets)


def restrict(labels: Mapping[str, Mapping[str, _Label]], pairs: set[tuple[str, str]]) -> dict[str, dict[str, _Label]]:
    """The labels of the given (topic, document) pairs."""
    return {
        topic: {document: label for document, label in row.items() if (topic, document) in pairs}
        for topic, row in labels.items()
    }


def size(labels: Labels) -> int:
    """Number of labelled pairs."""
    return sum(map(len, labels.values()))
