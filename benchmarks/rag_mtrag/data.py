"""The rows: SQuAD, on which one adapter is trained first, and MT-RAG in folds by group."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.text import fingerprint
from searchlora.errors import DataError
from searchlora.eval.files import atomic_text
from searchlora.records import RejectedRow, SourceReport, SourceRow
from searchlora.task import load_task
from searchlora.tasks.rag_answer.choosing import TAKEN_OUT

TASK = "rag_answer"
SEED = 13
FOLDS = 3

#: Of the answerable questions of MT-RAG, so many stand there a second time without their gold passages: in training and
#: validation only. SQuAD has as many such rows as it has others; of its rows so many are taken.
MISSING, SQUAD_ROWS, SQUAD_UNANSWERABLE = 0.35, 440, 0.33

#: The share of a fold's groups, those of its test aside, that validate.
VALIDATING = 0.08

Record = Mapping[str, Any]


@dataclass(frozen=True)
class MtRag:
    """All rows, those without gold among them, and what the reader says of them."""

    rows: tuple[Record, ...]
    rules: tuple[str, ...]
    counts: Mapping[str, int]

    @classmethod
    def read(cls, data: Path) -> MtRag:
        """Raises `DataError` where a row cannot be read."""
        rows, reports = _read("mtrag", data / "mtrag" / "reference.jsonl", {"missing": str(MISSING)})
        (report,) = reports
        return cls(tuple(rows), report.rules, report.counts)

    @property
    def official(self) -> list[Record]:
        """The rows that are asked: MT-RAG's own, none whose gold passages were taken out."""
        return [row for row in self.rows if row["kind"] != TAKEN_OUT]

    def test(self, fold: int) -> list[Record]:
        """The rows that are asked in a fold."""
        return [row for row in self.official if fold_of(row) == fold]

    def dataset(self, fold: int, folder: Path, rows: int | None = None) -> Dataset:
        """The dataset of a fold, built in `folder` or found there; `rows`: train on so many only, to try things out."""
        rest = [row for row in self.rows if fold_of(row) != fold]
        validating = [row for row in rest if _at(f"{SEED} validation {fold} {row['group']}") < VALIDATING]
        chosen = {row["id"] for row in validating}
        training = [row for row in rest if row["id"] not in chosen][:rows]
        return _dataset(folder, {"train": training, "validation": validating, "test": self.test(fold)})


def fold_of(row: Record) -> int:
    """From 0; rows of one group are in one."""
    return fingerprint(f"{SEED} {row['group']}") % FOLDS


def warm_dataset(data: Path, folder: Path, rows: int | None = None) -> Dataset:
    """SQuAD's rows, a third of them without the passage that answers; built in `folder` or found there."""
    if folder.is_dir():
        return load_dataset(folder)
    found, _ = _read("squad", data / "squad" / "squaddev_v1.1.json.gz", {"missing": "1"})
    chance = random.Random(SEED)
    silent = [row for row in found if not row["answerable"]]
    told = [row for row in found if row["answerable"]]
    wanted = rows or SQUAD_ROWS
    unanswerable = round(wanted * SQUAD_UNANSWERABLE)
    chosen = [*chance.sample(silent, unanswerable), *chance.sample(told, wanted - unanswerable)]
    chance.shuffle(chosen)
    validating = {row["id"] for row in chosen if _at(f"{SEED} validation {row['group']}") < VALIDATING}
    split = {
        "train": [row for row in chosen if row["id"] not in validating],
        "validation": [row for row in chosen if row["id"] in validating],
    }
    return _dataset(folder, split)


def _read(format: str, source: Path, options: Mapping[str, str]) -> tuple[list[Record], list[SourceReport]]:
    rows, reports = [], []
    for row in load_task(TASK).formats[format].read(source, options):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        if isinstance(row, SourceRow):
            rows.append(row.data)
        else:
            reports.append(row)
    return rows, reports


def _dataset(folder: Path, split: Mapping[str, Iterable[Record]]) -> Dataset:
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        source.parent.mkdir(parents=True, exist_ok=True)
        with atomic_text(source) as out:
            out.writelines(json.dumps({**row, "split": name}) + "\n" for name, rows in split.items() for row in rows)
        build(TASK, source, format="native", out=folder)
    return load_dataset(folder)


def _at(text: str) -> float:
    return fingerprint(text) / 2**64
