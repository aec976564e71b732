"""The rows of MT-RAG in folds by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import RejectedRow, SourceReport, SourceRow
from searchlora.task import load_task
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD

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


FOLDS = 3

#: Few passages of which much is shown, rather than many of which little is: in 80 words of each gold passage stand only
#: 40% of the references' sentences, and the more passages there are, the less a base of this size tells them apart.
CHOICE = {"passages": "3", "gold": "2"}

#: Of the answerable questions, so many stand there a second time without their gold passages; none of these is asked.
MISSING = 0.35

#: The share of groups that validate, of those that are not tested in a fold.
VALIDATING = 0.2


@dataclass(frozen=True)
class MtRag:
    """All rows, those without gold among them, and what the reader says of them."""

    rows: tuple[Record, ...]
    rules: tuple[str, ...]
    counts: Mapping[str, int]

    @classmethod
    def read(cls, data: Path) -> MtRag:
        """Raises `DataError` where a row cannot be read."""
        rows, reports = records("mtrag", data / "mtrag" / "reference.jsonl", {**CHOICE, "missing": str(MISSING)})
        (report,) = reports
        return cls(tuple(rows), report.rules, report.counts)

    @property
    def official(self) -> list[Record]:
        """The rows that are asked: MT-RAG's own, none whose gold passages were taken out."""
        return [row for row in self.rows if row["kind"] != WITHOUT_GOLD]

    def test(self, fold: int) -> list[Record]:
        """The rows that are asked in a fold."""
        return [row for row in self.official if fold_of(row) == fold]

    def dataset(self, fold: int, folder: Path) -> Dataset:
        """The dataset of a fold, built in `folder` or found there."""
        rest = [row for row in self.rows if fold_of(row) != fold]
        validating = [row for row in rest if validates(row, f"validation {fold}", VALIDATING)]
        chosen = {row["id"] for row in validating}
        training = [row for row in rest if row["id"] not in chosen]
        return dataset_in(folder, {"train": training, "validation": validating, "test": self.test(fold)})


def fold_of(row: Record) -> int:
    """From 0; rows of one group are in one."""
    return fingerprint(f"{SEED} {row['group']}") % FOLDS
