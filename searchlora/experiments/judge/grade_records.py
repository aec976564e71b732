"""Grading of pairs by a judge, as a job of shards.

With an engine that is not batch invariant, a server for example, the last digits of a score depend on the other rows
of a batch. Batches are therefore a function of the set of pairs: they are sorted, cut at fixed boundaries, and a batch
is graded and reused as a whole. So a resumed run, a run in shards, and one with its pairs in another order give the
same grades as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.golden import prompt_hash
from searchlora.experiments.judge.llm_judge import Judge
from searchlora.experiments.judge.pair_table import PairTable
from searchlora.experiments.judge.pairs import QueryPassage
from searchlora.files.shards import Job, Parts
from searchlora.outputs import Grade, InvalidOutput, from_json, to_json
from searchlora.progress import Progress
from searchlora.records import Record, SearchContext

#: Smallest number of pairs that are graded together and then written; a server gets more at a time. Several batches of
#: a local engine, which sorts them by length.
BATCH_SIZE = 128


def grading_job(judge: Judge, table: PairTable, about: Mapping[str, Any]) -> Job:
    """The pairs of a table as rows; a result is what `graded_row` makes of a pair and its grade."""

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {"topic": pair.topic, "document": pair.document.id, "record": judge.record(_context(pair))}
            for pair in table.read(numbers)
        ]

    def compute(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        grades = judge.grade([row["record"] for row in rows])
        return [_graded_row(judge, row, grade) for row, grade in zip(rows, grades, strict=True)]

    return _job(judge, range(len(table)), compute, read=read, about=about)


def grade_records(
    judge: Judge, records: Sequence[Record], folder: Path, progress: Progress
) -> list[Grade | InvalidOutput]:
    """One grade per record, in order. Grades of an earlier run are taken from the parts in `folder`.

    A stored grade is used only for the same judge, decoding options and records; a changed text is graded again.

    Args:
        folder: Folder of the parts, made if missing. The caller deletes it once the grades are stored elsewhere.

    Raises:
        UsageError: when another process is grading with this folder.
        DataError: when the folder cannot be written to, or a part is malformed.
    """
    contents = [json.dumps(record, sort_keys=True) for record in records]
    order = sorted(range(len(records)), key=lambda index: (str(records[index]["id"]), contents[index]))

    def compute(rows: Sequence[Record]) -> list[Any]:
        return [to_json(grade) for grade in judge.grade(rows)]

    parts = Parts(folder)
    parts.compute(_job(judge, [records[index] for index in order], compute), progress=progress, total=len(records))
    grades = dict(zip(order, map(from_json, parts.merged()), strict=True))
    return [grades[index] for index in range(len(records))]


def _job(judge: Judge, rows: Iterable[Any], compute: Any, **more: Any) -> Job:
    key = {"judge": judge.conditions, "prompt": prompt_hash(judge.task)}
    return Job(key, rows, compute, max(BATCH_SIZE, judge.engine.call_size), **more)


def _context(pair: QueryPassage) -> SearchContext:
    """The search context of a pair."""
    passage = {"passage": pair.document.text, "title": pair.document.title}
    return {**pair.topic_fields, "id": f"{pair.topic} {pair.document.id}", **passage}


def _graded_row(judge: Judge, row: Mapping[str, Any], grade: Grade | InvalidOutput) -> dict[str, Any]:
    """What is written of a pair; probabilities of labels with the same grade are added."""
    scale = judge.output(row["record"]).scale
    pair = {"topic": row["topic"], "document": row["document"], "scale": sorted(set(scale.values()))}
    if isinstance(grade, InvalidOutput):
        return {**pair, "invalid": {"raw": grade.raw, "reason": grade.reason}}
    sums = dict.fromkeys(scale.values(), 0.0)
    for value, probability in zip(scale.values(), grade.probabilities or (), strict=grade.probabilities is not None):
        sums[value] += probability
    probabilities = {str(value): probability for value, probability in sums.items()}
    return {**pair, "grade": grade.value, "probabilities": probabilities, "reason": grade.reason}
