"""Rows of MT-RAG in folds by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.formats import formats_of
from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import RejectedRow, SourceReport, SourceRow
from searchlora.task import load_task
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD

TASK = "rag_answer"
SEED = 13

#: Number of words shown of each passage.
WORDS = 140
SETTINGS = {"words": str(WORDS)}

Record = Mapping[str, Any]


def records(format: str, source: Path, options: Mapping[str, str]) -> tuple[list[Record], list[SourceReport]]:
    """All records of a source and the reports of its reader. Raises `DataError` for an invalid row."""
    rows, reports = [], []
    for row in formats_of(load_task(TASK))[format].read(source, {**SETTINGS, **options}):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        if isinstance(row, SourceRow):
            rows.append(row.data)
        else:
            reports.append(row)
    return rows, reports


def validates(row: Record, draw: str, share: float) -> bool:
    """Whether the group of a row is in the validation share of the groups; `draw` names the random draw."""
    return fingerprint(f"{SEED} {draw} {row['group']}") / 2**64 < share


FOLDS = 3

#: Few long passages rather than many short ones: the first 80 words of the gold passages contain only 40% of the
#: reference sentences, and a base model of this size distinguishes many passages badly.
CHOICE = {"passages": "3", "gold": "2"}

#: Share of the answerable questions that are repeated without their gold passages, for training only.
MISSING = 0.35

#: Share of the training groups of a fold that validate.
VALIDATING = 0.2


@dataclass(frozen=True)
class MtRag:
    """All rows, including those without gold passages, and the report of the reader."""

    rows: tuple[Record, ...]
    rules: tuple[str, ...]
    counts: Mapping[str, int]

    @classmethod
    def read(cls, data: Path) -> MtRag:
        """Read all rows. Raises `DataError` for an invalid row."""
        options = {**CHOICE, "missing": str(MISSING)}
        rows, reports = records("mtrag", data / "mtrag" / "reference.jsonl", options)
        (report,) = reports
        return cls(tuple(rows), report.rules, report.counts)

    @property
    def official(self) -> list[Record]:
        """The test rows: the original rows of MT-RAG, without those whose gold passages were removed."""
        return [row for row in self.rows if row["kind"] != WITHOUT_GOLD]

    def test(self, fold: int) -> list[Record]:
        """The test rows of a fold."""
        return [row for row in self.official if fold_of(row) == fold]

    def training(self, fold: int) -> list[Record]:
        """The rows of the other folds, including those without gold passages."""
        return [row for row in self.rows if fold_of(row) != fold]

    def others(self, fold: int) -> frozenset[str]:
        """Ids of the original rows of the other folds."""
        return frozenset(str(row["id"]) for row in self.official if fold_of(row) != fold)

    def validation(self, fold: int) -> frozenset[str]:
        """Ids of the original rows of the other folds that validate."""
        rows = (row for row in self.training(fold) if validates(row, f"validation {fold}", VALIDATING))
        return frozenset(str(row["id"]) for row in rows if row["kind"] != WITHOUT_GOLD)


def fold_of(row: Record) -> int:
    """The fold of a row, from 0; rows of one group are in one fold."""
    return fingerprint(f"{SEED} {row['group']}") % FOLDS
