"""Relevance judgments of an evaluation: those of a dataset, of another qrels file, or of an experiment."""

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
    """Qrels with their provenance.

    Attributes:
        qrels: topic -> document -> grade; None for a dataset without judgments.
        card: Provenance of the qrels; None if unknown, which is treated as human.
        data: Fingerprint of the dataset together with these judgments.
    """

    qrels: Qrels | None
    card: JudgmentsCard | None
    data: str

    @property
    def source(self) -> str:
        """`human`, `llm`, `clicks` or `mixed`."""
        return self.card.source if self.card is not None else "human"


def load_judgments(dataset: Dataset, qrels_file: str | Path | None = None) -> Judgments:
    """The judgments of a dataset, or those of a qrels file instead.

    Raises:
        DataError: when the file cannot be read, or changed since its card was written.
    """
    if qrels_file is None:
        dataset_qrels = dataset.folder / QRELS_FILE
        card = read_card(dataset_qrels) if dataset_qrels.is_file() else None
        return Judgments(dataset.qrels(), card, dataset.fingerprint)
    fingerprint = hashlib.sha256(f"{dataset.fingerprint} {file_sha256(qrels_file)}".encode()).hexdigest()
    return Judgments(read_qrels(qrels_file), read_card(qrels_file), fingerprint)


def experiment_qrels(
    spec: Experiment, topics: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments of an experiment's topics, and notes on judgments that are left out.

    Raises:
        DataError: when no judged topic is among the topics, or no label is on the scale.
    """
    all_qrels = read_qrels(spec.qrels.path, spec.qrels.format, thresholds=spec.qrels.thresholds, topics=topics)
    qrels = {topic: dict(grades) for topic, grades in all_qrels.items() if topic in topics}
    if not qrels:
        raise DataError(
            "none of the judged topics is among the topics",
            where=str(spec.qrels.path),
            fix=f"The topics are those of {spec.topics.path}; their ids must be the same.",
        )
    unknown = [topic for topic in all_qrels if topic not in topics]
    notes = (f"{len(unknown)} judged topics ({some(unknown)}) are not among the topics and are left out.",)
    qrels, scale_notes = _on_scale(spec, qrels)
    return qrels, (*(notes if unknown else ()), *scale_notes)


def unknown_source_note(spec: Experiment, card: JudgmentsCard | None) -> tuple[str, ...]:
    """A note if the qrels have no card."""
    if card is not None:
        return ()
    return (f"{spec.qrels.path.name} has no card with its source; it is treated as human.",)


def _on_scale(
    spec: Experiment, qrels: Mapping[str, dict[str, int]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments on the scale; a label outside it is an invalid answer and never a gain."""
    counts = Counter(grade for row in qrels.values() for grade in row.values())
    labels = [str(grade) for grade in sorted(counts)]
    if spec.scale is None:
        return dict(qrels), (f"No scale is given; every label counts as a grade: {some(labels)}.",)
    scale = set(spec.scale)
    on_scale = {
        topic: {document: grade for document, grade in row.items() if grade in scale} for topic, row in qrels.items()
    }
    result = {topic: row for topic, row in on_scale.items() if row}
    scale_text = ", ".join(map(str, sorted(scale)))
    if not result:
        raise DataError(
            f"none of the {counts.total()} labels is on the scale {scale_text}",
            where=str(spec.qrels.path),
            fix=f"Its labels are {some(labels)}; correct 'scale', or convert the labels.",
        )
    outside = [grade for grade in sorted(counts) if grade not in scale]
    if not outside:
        return result, ()
    lost_topics = len(qrels) - len(result)
    number = sum(counts[grade] for grade in outside)
    note = (
        f"{number} of {counts.total()} labels ({some([*map(str, outside)])}) are not on the scale {scale_text} and"
        " count as unjudged"
    )
    return result, (f"{note}; {lost_topics} topics have no other and are left out." if lost_topics else f"{note}.",)
