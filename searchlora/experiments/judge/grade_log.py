"""Grades as they come from a judge, kept on disk so that a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.experiments.judge.llm_judge import Judge
from searchlora.outputs import Grade, InvalidOutput
from searchlora.progress import Progress
from searchlora.records import Record

#: Pairs that are judged and then written down. A part of them is never kept: rows computed together influence each
#: other's last digits, and a run that was killed should end in the same bytes as one that was not.
CHUNK = 32


def graded(judge: Judge, records: Sequence[Record], folder: Path, progress: Progress) -> list[Grade | InvalidOutput]:
    """One grade per record, in order; those that lie in `folder` from an earlier run are taken from there.

    A grade is taken only where judge, way of asking and prompt are the same, so a changed text is judged anew.

    Args:
        folder: Made where it is not there. The caller throws it away when the grades are safe elsewhere.

    Raises:
        UsageError: when another process is judging into this folder.
        DataError: when the folder cannot be written to.
    """
    keys = [judge.key(record) for record in records]
    found: list[Grade | InvalidOutput] = []
    with _only_run(folder):
        known = _known(folder / "grades.jsonl")
        for start in range(0, len(records), CHUNK):
            part = slice(start, start + CHUNK)
            if not all(key in known for key in keys[part]):
                fresh = dict(zip(keys[part], judge.grade(records[part]), strict=True))
                _append(folder / "grades.jsonl", fresh)
                known.update(fresh)
            found += [known[key] for key in keys[part]]
            progress(len(found), len(records), _note(found))
    return found


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError("is being judged right now by another process", where=str(folder)) from None
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    try:
        yield
    finally:
        lock.release()


def _known(file: Path) -> dict[str, Grade | InvalidOutput]:
    """key -> grade; a last line that was cut off by a kill is taken out of the file."""
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with file.open("r+b") as out:
            out.truncate(len(whole))
    found: dict[str, Grade | InvalidOutput] = {}
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["key"]] = _grade(row)
        except (ValueError, KeyError, TypeError):
            raise DataError(
                "is not a grade", where=f"{file}, line {number}", fix="Delete the folder to judge from the start."
            ) from None
    return found


def _append(file: Path, fresh: dict[str, Grade | InvalidOutput]) -> None:
    rows = [json.dumps({"key": key, **_row(grade)}) + "\n" for key, grade in fresh.items()]
    try:
        with file.open("a", encoding="utf-8") as out:
            out.writelines(rows)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(file)) from None


def _row(grade: Grade | InvalidOutput) -> dict[str, Any]:
    if isinstance(grade, InvalidOutput):
        return {"invalid": asdict(grade)}
    return {"grade": grade.value, "probabilities": grade.probabilities, "reason": grade.reason}


def _grade(row: Mapping[str, Any]) -> Grade | InvalidOutput:
    if "invalid" in row:
        return InvalidOutput(**row["invalid"])
    probabilities = row["probabilities"]
    return Grade(row["grade"], tuple(probabilities) if probabilities is not None else None, row.get("reason"))


def _note(found: Sequence[Grade | InvalidOutput]) -> str:
    invalid = sum(isinstance(each, InvalidOutput) for each in found)
    return f"{invalid} invalid" if invalid else ""
