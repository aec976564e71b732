"""The judgments that systems are measured by: a dataset's own, a file of others, or those of an experiment."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.collection import QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, some
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.trec import Qrels
from searchlora.experiments.spec import Experiment
from searchlora.files import file_sha256


@dataclass(frozen=True)
class Judgments:
    """What is held to be relevant.

    Attributes:
        qrels: topic -> document -> grade; None for a dataset without judgments.
        card: Who judged; None where it is not known, which is taken for people.
        data: A fingerprint of the dataset together with these judgments.
    """

    qrels: Qrels | None
    card: JudgmentsCard | None
    data: str

    @property
    def source(self) -> str:
        """`human`, `llm`, `clicks` or `mixed`."""
        return self.card.source if self.card is not None else "human"


def judgments_of(dataset: Dataset, other: str | Path | None = None) -> Judgments:
    """The judgments of a dataset, or those of another file in their place.

    Raises:
        DataError: when the file cannot be read, or was changed since its card was written.
    """
    if other is None:
        own = dataset.folder / QRELS_FILE
        return Judgments(dataset.qrels(), read_card(own) if own.is_file() else None, dataset.fingerprint)
    both = hashlib.sha256(f"{dataset.fingerprint} {file_sha256(other)}".encode()).hexdigest()
    return Judgments(read_qrels(other), read_card(other), both)


def judged_topics(
    spec: Experiment, topics: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments of the topics that are asked, and notes on those that are not, and on the grades."""
    qrels = read_qrels(spec.qrels.path, spec.qrels.format, thresholds=spec.qrels.thresholds, topics=topics)
    found = {topic: dict(grades) for topic, grades in qrels.items() if topic in topics}
    if not found:
        raise DataError(
            "none of the judged topics is among the topics",
            where=str(spec.qrels.path),
            fix=f"The topics are those of {spec.topics.path}; their ids must be the same.",
        )
    unasked = [topic for topic in qrels if topic not in topics]
    notes = (f"{len(unasked)} judged topics ({some(unasked)}) are not among the topics and are left out.",)
    found, of_grades = _on_scale(spec, found)
    return found, (*(notes if unasked else ()), *of_grades)


def _on_scale(
    spec: Experiment, qrels: Mapping[str, dict[str, int]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments that are grades of the scale; a label outside it is an invalid answer, never a gain (law 2)."""
    counts = Counter(grade for row in qrels.values() for grade in row.values())
    labels = [str(grade) for grade in sorted(counts)]
    if spec.scale is None:
        return dict(qrels), (f"No scale is given; every label counts as a grade: {some(labels)}.",)
    scale = set(spec.scale)
    kept = {
        topic: {document: grade for document, grade in row.items() if grade in scale} for topic, row in qrels.items()
    }
    found = {topic: row for topic, row in kept.items() if row}
    shown = ", ".join(map(str, sorted(scale)))
    if not found:
        raise DataError(
            f"none of the {counts.total()} labels is on the scale {shown}",
            where=str(spec.qrels.path),
            fix=f"Its labels are {some(labels)}; correct 'scale', or convert the labels.",
        )
    outside = [grade for grade in sorted(counts) if grade not in scale]
    if not outside:
        return found, ()
    lost = len(qrels) - len(found)
    odd = f"{sum(counts[grade] for grade in outside)} of {counts.total()} labels ({some([*map(str, outside)])})"
    note = f"{odd} are not on the scale {shown} and count as unjudged"
    return found, (f"{note}; {lost} topics have no other and are left out." if lost else f"{note}.",)


def unknown_source(spec: Experiment, card: JudgmentsCard | None) -> tuple[str, ...]:
    """A note where nobody says who judged."""
    if card is not None:
        return ()
    return (f"{spec.qrels.path.name} has no card that says who judged; it is taken for people's.",)
