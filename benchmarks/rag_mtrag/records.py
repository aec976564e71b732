"""Records of the task from a source, and a dataset from records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import RejectedRow, SourceReport, SourceRow
from searchlora.task import load_task

TASK = "rag_answer"
SEED = 13

#: Of a passage so much is shown.
WORDS = 140
SETTINGS = {"words": str(WORDS)}

Record = Mapping[str, Any]


def records(format: str, source: Path, options: Mapping[str, str]) -> tuple[list[Record], list[SourceReport]]:
    """All records of a source, and what its reader says of them. Raises `DataError` where a row cannot be read."""
    rows, reports = [], []
    for row in load_task(TASK).formats[format].read(source, {**SETTINGS, **options}):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        if isinstance(row, SourceRow):
            rows.append(row.data)
        else:
            reports.append(row)
    return rows, reports


def dataset_in(folder: Path, split: Mapping[str, Iterable[Record]]) -> Dataset:
    """The dataset of these records, built in `folder` or found there."""
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        write_rows(source, ({**row, "split": name} for name, rows in split.items() for row in rows))
        build(TASK, source, format="native", out=folder, options=SETTINGS)
    return load_dataset(folder)


def validates(row: Record, draw: str, share: float) -> bool:
    """Whether a row's group is among that share of the groups that validate; `draw` names the draw."""
    return fingerprint(f"{SEED} {draw} {row['group']}") / 2**64 < share
