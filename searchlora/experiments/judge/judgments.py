"""Relevance judgments of an evaluation: those of a dataset, of another qrels file, or of an experiment."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, some
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, read_card, source_of
from searchlora.eval.judgments.derived_cards import merged_card
from searchlora.eval.judgments.sources import UNKNOWN, Source, SourceCounts
from searchlora.eval.trec import Qrels
from searchlora.experiments.spec import Experiment
from searchlora.files import file_sha256
from searchlora.records import Record
from searchlora.task import EncoderTask, GenerationTask, Task


@dataclass(frozen=True)
class Judgments:
    """Qrels with their provenance."""

    qrels: Qrels | None  # topic -> document -> grade; None for a dataset without judgments
    card: JudgmentsCard | None  # provenance of the grades that the figures are measured by; None if unknown
    data: str
    graded: tuple[SourceCounts, ...] = ()

    @property
    def source(self) -> str:
        """Who or what graded, in a word (`SourceCounts.source`); several words if pairs and records differ."""
        words = dict.fromkeys(counts.source for counts in self.graded)
        return UNKNOWN if UNKNOWN in words or not words else " and ".join(words)

    @property
    def counts(self) -> dict[Source, int]:
        """Source -> number of grades."""
        total: Counter[Source] = Counter()
        for counts in self.graded:
            total.update(counts.counts)
        return dict(total)

    def __str__(self) -> str:
        """The source and the numbers of grades, such as `mixed (300 human, 20 llm)`."""
        return f"{self.source} ({', '.join(map(str, self.graded))})"


def load_judgments(
    dataset: Dataset, task: Task, split: str, records: Sequence[Record], qrels_file: str | Path | None = None
) -> Judgments:
    """The judgments of a dataset, or those of a qrels file instead, with the sources of what `records` are measured by.

    A task that retrieves is measured by the judged pairs, every other task by the grades or labels of its records. A
    qrels file does not replace those, so that both count.
    """
    if qrels_file is None:
        qrels, data = dataset.qrels(), dataset.fingerprint
    else:
        qrels = read_qrels(qrels_file)
        data = hashlib.sha256(f"{dataset.fingerprint} {file_sha256(qrels_file)}".encode()).hexdigest()
    cards: list[JudgmentsCard | None] = []
    graded: list[SourceCounts] = []
    retrieves = qrels is not None and _retrieves(task, dataset, records)
    if qrels is not None and (retrieves or qrels_file is not None):
        if qrels_file is None:
            cards.append(dataset.judgments_card)
            graded.append(dataset.sources("judgments", split))
        else:
            cards.append(read_card(qrels_file))
            number = sum(len(qrels.get(str(record["id"]), ())) for record in records)
            graded.append(SourceCounts({source_of(qrels_file): number}))
    if not retrieves:
        cards.append(dataset.records_card)
        graded.append(dataset.sources("records", split))
    known = [card for card in cards if card is not None]
    card = known[0] if len(known) == 1 else merged_card(known) if known else None
    return Judgments(qrels, card, data, tuple(graded))


def _retrieves(task: Task, dataset: Dataset, records: Sequence[Record]) -> bool:
    """Whether the figures come from the judged documents that a task's queries or vectors retrieve."""
    if isinstance(task, EncoderTask):
        return task.label(records[0]) is None
    return isinstance(task, GenerationTask) and task.writes == "query" and dataset.card.collection is not None


def experiment_qrels(
    spec: Experiment, topics: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments of an experiment's topics, and notes on judgments that are left out."""
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


def experiment_sources(spec: Experiment, qrels: Qrels) -> SourceCounts:
    """The numbers of the judgments by source, from the card of the qrels, or else as the experiment says."""
    return SourceCounts({source_of(spec.qrels.path, spec.qrels.source): sum(map(len, qrels.values()))})


def unknown_source_note(spec: Experiment, card: JudgmentsCard | None) -> tuple[str, ...]:
    """A note if neither a card nor the experiment names the source of the qrels."""
    if card is not None or spec.qrels.source is not None:
        return ()
    return (f"{spec.qrels.path.name} has no card with its source; it is unknown who or what graded.",)


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
