"""Grading of records by a judge in fixed batches, with a log on disk from which a killed run resumes.

With an engine that is not batch invariant, a server for example, the last digits of a score depend on the other rows
of a batch. Batches are therefore a function of the set of records: records are sorted by id, cut at fixed boundaries,
and a batch is graded and reused as a whole. So a resumed run, and a run with its records in another order, give the
same grades as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.experiments.judge.llm_judge import Judge
from searchlora.files.append_log import AppendLog
from searchlora.outputs import Grade, Graded, InvalidOutput, from_json, is_output_of, to_json
from searchlora.progress import Progress
from searchlora.records import Record

#: Smallest number of records that are graded together and then written to the log; a server gets more at a time.
BATCH_SIZE = 32


def grade_records(
    judge: Judge, records: Sequence[Record], folder: Path, progress: Progress
) -> list[Grade | InvalidOutput]:
    """One grade per record, in order. Grades of an earlier run are taken from the log in `folder`.

    A logged grade is used only for the same judge, decoding options and prompt; a changed text is graded again.

    Args:
        folder: Folder of the log, made if missing. The caller deletes it once the grades are stored elsewhere.

    Raises:
        UsageError: when another process is grading with this folder.
        DataError: when the folder cannot be written to, or the log is malformed.
    """
    keys = [judge.key(record) for record in records]
    order = sorted(range(len(records)), key=lambda index: (str(records[index]["id"]), keys[index]))
    grades: dict[int, Grade | InvalidOutput] = {}
    size = max(BATCH_SIZE, judge.engine.call_size)
    with AppendLog(folder / "grades.jsonl") as log:
        logged = {key: grade for batch in log for key, grade in batch.items()}
        for start in range(0, len(records), size):
            batch = order[start : start + size]
            stored = (_stored_grade(logged.get(keys[index]), judge.output(records[index])) for index in batch)
            known = {index: grade for index, grade in zip(batch, stored, strict=True) if grade is not None}
            if len(known) < len(batch):
                known = dict(zip(batch, judge.grade([records[index] for index in batch]), strict=True))
                log.append({keys[index]: to_json(grade) for index, grade in known.items()})
            grades |= known
            invalid = sum(isinstance(grade, InvalidOutput) for grade in grades.values())
            progress(len(grades), len(records), f"{invalid} invalid" if invalid else "")
    return [grades[index] for index in range(len(records))]


def _stored_grade(stored: Any, form: Graded) -> Grade | InvalidOutput | None:
    """The grade in a stored value; None if there is none, or it is not one of the judge's scale."""
    try:
        grade: Grade | InvalidOutput = from_json(stored)
    except ValueError:
        return None
    return grade if is_output_of(form, grade) else None
