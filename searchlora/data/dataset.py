"""Dataset folders: the card, the records of each split, the documents and the judgments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents
from searchlora.data.grade_sources import SOURCES_FILE
from searchlora.data.splits import SPLITS
from searchlora.data.validation import RecordCheck
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, card_path
from searchlora.eval.judgments.card import read_card as read_judgments_card
from searchlora.eval.judgments.sources import UNKNOWN, SourceCounts
from searchlora.eval.trec import Qrels
from searchlora.files import file_sha256, json_file, json_object, numbered_lines, read_text
from searchlora.records import Document, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from searchlora.task import Task

CARD_FILE = "dataset.json"
SETTINGS_FILE = "settings.json"

#: The source of each record's grade or label; absent: unknown.

SCHEMA_VERSION = 1

#: Statistics of text lengths, in this order.
STATISTICS = ("min", "median", "mean", "p95", "max")


@dataclass(frozen=True)
class DatasetCard:
    """The card of a dataset, stored as `dataset.json`: its origin, its options and its contents.

    Attributes:
        task: Name of the task.
        task_version: Version of the task when the dataset was built.
        format: Name of the source format.
        options: Options of the reader.
        source: `name` of the source, and `files`: name -> sha256 of every file read; `origin` of one that was made
            from events.
        seed: Seed of the split.
        shares: Shares of train, validation and test; they add up to 1.
        official_splits: Whether the splits are those of the source.
        rows: Split -> number of rows.
        groups: Split -> number of groups.
        files: File of the dataset -> its sha256.
        text: "input" and "target" -> "characters" and "words" -> min, median, mean, p95, max over all rows.
        leaks: Number of leaks (`found`), of removed rows per split (`taken out`), and the first `rows`; all are in
            `leaks.jsonl`.
        rejected: Reason -> number of rejected rows; the rows are in `rejected.jsonl`.
        report: `rules` and `counts` of a reader that selects among its rows, `notes` to read after the build, and
            `sources`: the numbers of `records` and `judgments` by who or what graded them, for display.
        collection: Numbers of `documents`, `judgments`, `judged documents missing`, `judgments of other topics` (left
            out), and `relevant from grade`, the lowest relevant grade in binary measures; None without a collection.
        warnings: Warnings to read before training.
        searchlora: Version of searchlora that built it.
        schema_version: Version of the schema of this card.
    """

    task: str
    task_version: int
    format: str
    options: Mapping[str, str]
    source: Mapping[str, Any]
    seed: int
    shares: tuple[float, float, float]
    official_splits: bool
    rows: Mapping[str, int]
    groups: Mapping[str, int]
    files: Mapping[str, str]
    text: Mapping[str, Mapping[str, Mapping[str, float]]]
    leaks: Mapping[str, Any]
    rejected: Mapping[str, int]
    report: Mapping[str, Any]
    collection: Mapping[str, int] | None
    warnings: tuple[str, ...]
    searchlora: str
    schema_version: int = field(default=SCHEMA_VERSION)

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into a folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"
        (folder / CARD_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")


def read_card(folder: Path) -> DatasetCard:
    """Read the card of a dataset folder.

    Raises:
        DataError: if there is none, it is malformed, or a newer version wrote it.
    """
    from pydantic import TypeAdapter, ValidationError

    path = folder / CARD_FILE
    build_it, again = "Build one with searchlora data build.", "Build the dataset again."
    if not path.exists():
        raise DataError(f"is not a dataset, there is no {CARD_FILE}", where=str(folder), fix=build_it)
    try:
        values = json_file(path)
    except DataError as error:
        raise DataError(f"cannot be read: {error.what}", where=error.where, fix=again) from None
    if not isinstance(values, dict) or "schema_version" not in values:
        raise DataError("is not a dataset card", where=str(path), fix=build_it)
    if values["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"has schema version {values['schema_version']}, this searchlora reads {SCHEMA_VERSION}",
            where=str(path),
            fix="Upgrade searchlora, or build the dataset again.",
        )
    if set(values) != {item.name for item in fields(DatasetCard)}:
        raise DataError("has a missing or an unknown field", where=str(path), fix=again)
    try:
        card: DatasetCard = TypeAdapter(DatasetCard).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise DataError(f"'{field_name}': {first['msg'].lower()}", where=str(path), fix=again) from None
    if foreign := [name for name in card.files if name != Path(name).name]:
        raise DataError(f"the file '{foreign[0]}' is not in the folder", where=str(path), fix=again)
    return card


def text_statistics(lengths: NDArray[np.uint32]) -> dict[str, dict[str, dict[str, float]]]:
    """Exact statistics over `RowStore.lengths`.

    Units: Unicode characters; words separated by white space.
    """
    names = (("input", "characters"), ("input", "words"), ("target", "characters"), ("target", "words"))
    result: dict[str, dict[str, dict[str, float]]] = {"input": {}, "target": {}}
    for column, (text, unit) in enumerate(names):
        values = lengths[:, column]
        figures = (values.min(), np.median(values), values.mean(), np.percentile(values, 95), values.max())
        result[text][unit] = {name: round(float(figure), 2) for name, figure in zip(STATISTICS, figures, strict=True)}
    return result


def card_warnings(rows: Mapping[str, int], collection: Mapping[str, int] | None, judged_in_test: int) -> Iterator[str]:
    """Warnings about a dataset with these `rows` per split and this `collection`."""
    for name, count in rows.items():
        if not count:
            yield f"the {name} split is empty"
    if collection is None:
        return
    if collection["judged documents missing"]:
        yield f"{collection['judged documents missing']} judged documents are not in the corpus"
    if not collection["judgments"]:
        yield "no judgment is for a record of this dataset; it cannot be evaluated by retrieval"
    elif judged_in_test < rows["test"]:
        yield f"{judged_in_test} of {rows['test']} test records are judged"


@dataclass(frozen=True)
class Dataset:
    """A built dataset: its folder and its card.

    Attributes:
        check: Validates the records that are read; None: they are any JSON objects.
    """

    folder: Path
    card: DatasetCard
    check: RecordCheck | None = None

    def records(self, split: str) -> list[Record]:
        """All records of a split. Raises `UsageError` for an unknown split."""
        return list(self.iter_records(split))

    def iter_records(self, split: str) -> Iterator[Record]:
        """The records of a split one at a time, for datasets that do not fit in memory."""
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'", fix=f"The splits are {', '.join(SPLITS)}.")
        path = self._file(f"{split}.jsonl")
        for number, line in numbered_lines(path):
            record = json_object(line, f"{path}, line {number}")
            if self.check is not None and (fault := self.check.fault(record)):
                raise DataError(
                    f"is not a record of the task '{self.card.task}' ({fault})",
                    where=f"{path}, line {number}",
                    fix="Build the dataset again.",
                )
            yield record

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of the task for this dataset, for `Task.bound`; None for the default settings."""
        if SETTINGS_FILE not in self.card.files:
            return None
        path = self._file(SETTINGS_FILE)
        return json_object(read_text(path), str(path))

    def documents(self) -> list[Document] | None:
        """The collection to retrieve from; None if the source has none."""
        return list(read_documents(self._file(CORPUS_FILE))) if self.card.collection is not None else None

    @property
    def relevant(self) -> int:
        """The lowest grade that counts as relevant in binary measures."""
        return (self.card.collection or {}).get("relevant from grade", 1)

    def qrels(self) -> Qrels | None:
        """The judgments of all splits; None if the source has none."""
        if self.card.collection is None or not self.card.collection["judgments"]:
            return None
        return read_qrels(self._file(QRELS_FILE))

    def sources(self, of: Literal["records", "judgments"], split: str) -> SourceCounts:
        """The numbers of the records or judgments of a split by source; unknown in a dataset that does not say it."""
        if SOURCES_FILE in self.card.files:
            return SourceCounts(json_file(self._file(SOURCES_FILE))[of].get(split, {}))
        return SourceCounts({UNKNOWN: self.card.rows[split]})

    @property
    def judgments_card(self) -> JudgmentsCard | None:
        """The card of the judgments; None: their source is unknown. Raises `DataError`."""
        return self._judgments_card(QRELS_FILE)

    @property
    def records_card(self) -> JudgmentsCard | None:
        """The card of the records' grades: their judges; None without one. Raises `DataError`."""
        return self._judgments_card(SOURCES_FILE)

    def _judgments_card(self, name: str) -> JudgmentsCard | None:
        path = self.folder / name
        card = card_path(path)
        if card.name not in self.card.files:
            if card.exists():
                raise DataError(
                    f"is not a file of the dataset: {CARD_FILE} does not list it",
                    where=str(card),
                    fix="Remove it, and build the dataset again from a file with its card.",
                )
            return None
        return read_judgments_card(path)

    def verify(self) -> None:
        """Raise `DataError` naming a file that is missing, was changed after the build, or is not on the card."""
        for name, expected in self.card.files.items():
            actual = file_sha256(self._file(name))
            if actual != expected:
                raise DataError(
                    f"was changed after it was built (sha256 {actual}, the card says {expected})",
                    where=str(self.folder / name),
                    fix="Build the dataset again.",
                )

        for file in sorted(self.folder.iterdir()):
            if file.name not in {CARD_FILE, *self.card.files} and not file.name.startswith("."):
                raise DataError(
                    f"the file is not on the card ({CARD_FILE}), so it was not there when the dataset was built",
                    where=str(file),
                    fix="Move it elsewhere, or build the dataset again.",
                )

    @property
    def fingerprint(self) -> str:
        """sha256 over the names and hashes of the files on the card."""
        return hashlib.sha256(json.dumps(dict(sorted(self.card.files.items()))).encode()).hexdigest()

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if name not in self.card.files:
            raise DataError(f"is not on the card ({CARD_FILE})", where=str(path), fix="Build the dataset again.")
        if not path.is_file():
            raise DataError("the file is missing", where=str(path), fix="Build the dataset again.")
        return path


def load_dataset(folder: str | Path, task: Task | None = None) -> Dataset:
    """Open a dataset folder.

    Args:
        task: The task of the dataset, by whose schema records are validated when they are read, unless another version
            of the task built them.

    Raises:
        DataError: if it is not a dataset, or a newer version of searchlora built it.
    """
    card = read_card(Path(folder))
    own = task is not None and (task.name, task.version) == (card.task, card.task_version)
    return Dataset(Path(folder), card, RecordCheck(task.record_schema) if task is not None and own else None)
