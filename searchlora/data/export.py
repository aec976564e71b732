"""The queries and judgments of a dataset's split as files: topics and qrels to run, judge and evaluate on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.collection import QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import write_judgments
from searchlora.eval.judgments.derived_cards import graded_card
from searchlora.eval.judgments.sources import UNKNOWN
from searchlora.eval.trec import write_qrels
from searchlora.files import atomic_folder, atomic_text, json_line
from searchlora.records import Record
from searchlora.task import EncoderTask, GenerationTask, Task

TOPICS_FILE = "topics.jsonl"


@dataclass(frozen=True)
class ExportResult:
    """Numbers of exported topics and judgments, and of topics without a judgment, which were left out."""

    topics: int
    judgments: int
    unjudged: int


def export_split(dataset: Dataset, task: Task, split: str, out: str | Path) -> ExportResult:
    """Write `topics.jsonl` (`id`, `query`, `history` if there is one) and `qrels.txt` of the judged queries of a split.

    The judgments are those of the dataset's collection, or else the records themselves, where each is a graded pair of
    query and document. A card with their sources is written, if any is known.

    Args:
        task: The task of the dataset.
        split: train, validation or test.
        out: The folder to write; it must not exist, or be empty.

    Raises:
        UsageError: for an unknown split, or a dataset whose records have no judgments.
        DataError: if `out` is in use, or a file of the dataset is missing.
    """
    topics: dict[str, dict[str, str | float]] = {}
    qrels: dict[str, dict[str, int]] = {}
    judged = dataset.qrels()
    for record in dataset.iter_records(split):
        if judged is not None:
            topics[str(record["id"])] = _topic(task, record)
            continue
        judgment = task.judgment(record)
        if judgment is None:
            raise UsageError(
                f"the records of '{task.name}' here are no judgments of documents",
                where=f"{dataset.folder}, record {record['id']}",
                fix="Build the dataset with a corpus and judgments, or from judgments with document ids.",
            )
        topics.setdefault(judgment.topic, _topic(task, record))
        qrels.setdefault(judgment.topic, {})[judgment.document] = judgment.grade
    if judged is not None:
        qrels = {topic: dict(judged[topic]) for topic in topics if judged.get(topic)}
    if not qrels:
        raise DataError(f"no record of the split '{split}' is judged", where=str(dataset.folder))
    card = dataset.records_card if judged is None else dataset.judgments_card
    counts = dataset.sources("records" if judged is None else "judgments", split)
    with atomic_folder(Path(out)) as folder:
        with atomic_text(folder / TOPICS_FILE) as file:
            file.writelines(json_line({"id": topic, **topics[topic]}) for topic in qrels)
        if card is None and set(counts.counts) <= {UNKNOWN}:
            write_qrels(folder / QRELS_FILE, qrels)
        else:
            write_judgments(folder / QRELS_FILE, qrels, graded_card([card] if card is not None else [], counts))
    return ExportResult(len(qrels), sum(map(len, qrels.values())), len(topics) - len(qrels))


def _topic(task: Task, record: Record) -> dict[str, str | float]:
    """The fields of a topic; the turns before the query as JSON, which `run` and `ablate` read."""
    turns = record.get("history")
    history = {"history": json.dumps(turns, ensure_ascii=False)} if turns else {}
    return {"query": _query(task, record), **history}


def _query(task: Task, record: Record) -> str:
    query = task.query(record) if isinstance(task, GenerationTask | EncoderTask) else None
    if query is None:
        raise UsageError(f"records of the task '{task.name}' have no query", where=f"record {record['id']}")
    return query
