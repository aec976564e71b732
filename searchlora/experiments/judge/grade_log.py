"""Grading of records by a judge in fixed batches, with a log on disk from which a killed run resumes.

With an engine that is not batch invariant, a server for example, the last digits of a score depend on the other rows
of a batch. Batches are therefore a function of the set of records: records are sorted by id, cut at fixed boundaries,
and a batch is graded and reused as a whole. So a resumed run, and a run with its records in another order, give the
same grades as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.experiments.judge.llm_judge import Judge
from searchlora.files import parse_json
from searchlora.outputs import Grade, InvalidOutput, from_json, is_output_of
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
        folder: Folder of the log, created if missing. The caller deletes it once the grades are stored elsewhere.

    Raises:
        UsageError: when another process is grading with this folder.
        DataError: when the folder cannot be written to, or the log is malformed.
    """
    keys = [judge.key(record) for record in records]
    order = sorted(range(len(records)), key=lambda index: (str(records[index]["id"]), keys[index]))
    grades: dict[int, Grade | InvalidOutput] = {}
    size = max(BATCH_SIZE, judge.engine.call_size)
    with _locked(folder):
        logged = _read_log(folder / "grades.jsonl")
        forms = {key: judge.output(record) for key, record in zip(keys, records, strict=True)}
        if other := [key for key, form in forms.items() if key in logged and not is_output_of(form, logged[key])]:
            raise DataError(
                "has a grade that is not of the judge's scale",
                where=f"{folder / 'grades.jsonl'}, key {other[0]}",
                fix="Delete the folder to judge from the start.",
            )
        for start in range(0, len(records), size):
            batch = order[start : start + size]
            if not all(keys[index] in logged for index in batch):
                batch_grades = judge.grade([records[index] for index in batch])
                new = dict(zip((keys[index] for index in batch), batch_grades, strict=True))
                _append(folder / "grades.jsonl", new)
                logged.update(new)
            grades |= {index: logged[keys[index]] for index in batch}
            progress(len(grades), len(records), _invalid_note(grades.values()))
    return [grades[index] for index in range(len(records))]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError("another process is judging there", where=str(folder)) from None
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    try:
        yield
    finally:
        lock.release()


def _read_log(file: Path) -> dict[str, Grade | InvalidOutput]:
    """key -> grade. A partial last line, left by a kill during a write, is removed from the file."""
    if not file.is_file():
        return {}
    content = file.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content:
        with file.open("r+b") as out:
            out.truncate(len(complete))
    grades: dict[str, Grade | InvalidOutput] = {}
    for number, line in enumerate(complete.split(b"\n")[:-1], start=1):
        try:
            row = parse_json(line.decode("utf-8"))
            grades[row["key"]] = _from_row(row)
        except (ValueError, KeyError, TypeError):
            raise DataError(
                "is not a grade", where=f"{file}, line {number}", fix="Delete the folder to judge from the start."
            ) from None
    return grades


def _append(file: Path, grades: Mapping[str, Grade | InvalidOutput]) -> None:
    rows = [json.dumps({"key": key, **_to_row(grade)}) + "\n" for key, grade in grades.items()]
    try:
        with file.open("a", encoding="utf-8") as out:
            out.writelines(rows)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(file)) from None


def _to_row(grade: Grade | InvalidOutput) -> dict[str, Any]:
    if isinstance(grade, InvalidOutput):
        return {"invalid": asdict(grade)}
    return {"grade": grade.value, "probabilities": grade.probabilities, "reason": grade.reason}


def _from_row(row: Mapping[str, Any]) -> Grade | InvalidOutput:
    """Raises `ValueError`, `KeyError` or `TypeError` for a row that is no grade."""
    if "invalid" in row:
        invalid: InvalidOutput = from_json({"invalid": row["invalid"]})
        return invalid
    grade, probabilities, reason = row["grade"], row["probabilities"], row.get("reason")
    if type(grade) is not int or not isinstance(reason, str | None):
        raise ValueError("is not a grade with its reason")
    if probabilities is not None and not (
        all(0 <= value <= 1 for value in probabilities) and math.isclose(sum(probabilities), 1, abs_tol=1e-4)
    ):
        raise ValueError("are not probabilities")
    return Grade(grade, tuple(probabilities) if probabilities is not None else None, reason)


def _invalid_note(grades: Iterable[Grade | InvalidOutput]) -> str:
    invalid = sum(isinstance(grade, InvalidOutput) for grade in grades)
    return f"{invalid} invalid" if invalid else ""
