"""Dataset builder: reads a source, validates and splits its rows, checks for leaks, and writes a dataset folder."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unicodedata import category

from searchlora import prompts
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, write_collection
from searchlora.data.dataset import SETTINGS_FILE, DatasetCard, card_warnings, text_statistics
from searchlora.data.formats import formats_of
from searchlora.data.grade_sources import (
    DeclaredSources,
    SourceLog,
    total,
    write_judgments_card,
)
from searchlora.data.inputs import Inputs, SuppliedCollection
from searchlora.data.row_store import Leak, RowStore, leak_error, write_leaks
from searchlora.data.splits import ONLY_TEST, SPLITS, check_ratios
from searchlora.data.validation import REJECTED_FILE, RecordCheck, RejectedList, beside
from searchlora.errors import DataError, RejectedRows, RenderError, UnknownFormat, UsageError
from searchlora.eval.judge.rater_report import rater_file
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.sources import UNKNOWN, Source
from searchlora.eval.text_identity import fingerprint
from searchlora.eval.trec import write_qrels
from searchlora.files import (
    NOT_UTF8,
    FieldMap,
    ReadProgress,
    atomic_folder,
    file_sha256,
    reading_as,
    track_reads,
    tree_size,
)
from searchlora.files.json_text import value_fault
from searchlora.progress import Progress, silent
from searchlora.records import Collection, Format, Judgment, Record, RejectedRow, SourceReport, SourceRow
from searchlora.task import GenerationTask, Task, load_task

OnLeak = Literal["refuse", "drop"]

LEAKS_FILE = "leaks.jsonl"
LEAKS_IN_CARD = 100

#: Columns beside the fields of a task: counted, shown in the note, and characters of a name.
MAX_IGNORED, SHOWN_IGNORED, MAX_NAME = 200, 20, 60


def build(
    task: Task | str,
    source: str | Path,
    *,
    format: str,
    out: str | Path,
    options: Mapping[str, str] | None = None,
    seed: int = 13,
    split_ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    limit: int | None = None,
    allow_rejects: bool = False,
    on_leak: OnLeak = "refuse",
    corpus: str | Path | None = None,
    qrels: str | Path | None = None,
    topics: str | Path | None = None,
    relevant: int | None = None,
    fields: FieldMap | None = None,
    grades: str | None = None,
    thresholds: str | None = None,
    judgments_source: str | None = None,
    encoding: str | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> DatasetCard:
    """Build a dataset folder from a source, atomically.

    Rows are validated, split by group and checked for leaks. They are processed one at a time: 41 bytes per row and the
    fingerprint of its id stay in memory.

    Args:
        task: Task of the records, or the name of an installed task.
        source: A file or folder.
        format: One of the formats of the task.
        out: The folder to write. It must not exist, or be empty.
        options: Options of the reader of the format.
        seed: Seed of the split.
        split_ratios: Ratios of the groups that go to train, validation and test. Official splits take precedence.
            0, 0, 1 builds a dataset of test rows only.
        limit: Stop after this many valid rows; at least 1. None: no limit.
        allow_rejects: Build from the remaining rows if rows were rejected.
        on_leak: Rows whose input occurs in two splits: "refuse" stops the build, "drop" removes them from training
            and validation. With official splits they are always removed. In all cases they are listed.
        corpus, qrels: Documents (`id`, `text`, `title`) and judgments, for a source without them, or in place of its
            own; both or neither. Judgments name a record by its id, or by the text of its query (Quepid's ratings, or a
            table with `query`, `document` and `grade`). A card of the judgments, which says who judged, is kept. A
            format that reads documents, judgments or topics itself gets these files as its options.
        topics: File of queries, for a format with this option.
        relevant: Lowest grade of the judgments that counts as relevant in binary measures; None: 1.
        fields: Field of the format -> the columns of the source that hold it. `corpus.id`, `corpus.text` and
            `corpus.title` are of the corpus, as are `id`, `text` and `title` where the format has no such field.
        grades: Numbers of the source's grades, as "E=3,S=2,C=1,I=0", for a format with the option `grade_map`.
        thresholds: Rising numbers for ratings with decimals, as "0.5,1.5,2.5": a rating's grade is how many of them it
            reaches. For a format with the option `thresholds`, and for `qrels`.
        judgments_source: Who or what graded the records and the judgments, where no card says it: a word of
            `eval.judgments.sources.Source`. None: unknown.
        encoding: Of the text files that are read, such as "latin-1"; None: UTF-8. JSON and Parquet are always UTF-8.
        origin: What the source was made from, for the card: JSON values.
        progress: Called with bytes read, total bytes and the rows so far.

    Returns:
        The card, as stored in `dataset.json`.

    Raises:
        UnknownFormat, UsageError: for arguments that are unknown, out of range, or contradict each other.
        DataError: if the source cannot be read or has no usable row, `out` is in use, or the disk is full.
        RejectedRows: if rows were rejected and that is not allowed, or no other row is left; they are listed in
            `OUT.rejected.jsonl`.
        LeakError: if rows are in two splits; they are listed in `OUT.leaks.jsonl`.
    """
    task = load_task(task) if isinstance(task, str) else task
    source, out = Path(source), Path(out)
    formats = formats_of(task)
    if format not in formats:
        known = ", ".join(sorted(formats))
        raise UnknownFormat(f"task '{task.name}' reads no format '{format}'", fix=f"Known formats: {known}.")
    reader = formats[format]
    check_ratios(split_ratios)
    if on_leak not in ("refuse", "drop"):
        raise UsageError(f"on_leak is '{on_leak}'", fix="It is 'refuse' or 'drop'.")
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit}", where="--limit", fix="It is 1 or more; without it all rows are read.")
    if not source.exists():
        raise DataError("there is no such file or folder", where=str(source), fix="Check the path.")
    inputs = Inputs(corpus, qrels, topics, relevant, fields or {}, grades, thresholds)
    declared = DeclaredSources(source, reader, judgments_source)
    reader, given, supplied, judged_by = inputs.applied(task, reader, options or {})
    merged_options = {**(reader.implied(source, given) if reader.implied is not None else {}), **given}
    declared.check_collection(judged_by)
    with atomic_folder(out) as folder:
        builder = _Build(
            task,
            reader,
            source,
            folder,
            out,
            merged_options,
            seed,
            split_ratios,
            ReadProgress(progress=progress),
            declared,
            judged_by,
            supplied,
            encoding,
            origin,
        )
        with reading_as(encoding):
            try:
                card = builder.run(limit, allow_rejects, on_leak)
            except DataError as error:
                if NOT_UTF8 not in error.what or isinstance(error, RejectedRows):
                    raise
                fix = f"Give {'another' if encoding else 'the'} encoding, as --encoding cp1252, or convert the file."
                raise DataError(error.what, where=error.where, fix=fix) from None
    for leftover in (beside(out, REJECTED_FILE), beside(out, LEAKS_FILE)):
        leftover.unlink(missing_ok=True)
    return card


@dataclass
class _Build:
    task: Task
    format: Format
    source: Path
    folder: Path
    out: Path
    options: Mapping[str, str]
    seed: int
    split_ratios: tuple[float, float, float]
    reading: ReadProgress
    declared: DeclaredSources
    judged_by: JudgmentsCard | None = None
    supplied: SuppliedCollection | None = None
    encoding: str | None = None
    origin: Mapping[str, Any] | None = None
    judged_in_test: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    reports: list[SourceReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = RowStore(self.folder, self.seed, self.split_ratios)
        self.rejected = RejectedList(self.folder)
        self.cards: list[JudgmentsCard] = []
        self.sources = SourceLog()

    def run(self, limit: int | None, allow_rejects: bool, on_leak: OnLeak) -> DatasetCard:
        passes = self.format.passes + (self.format.collection is not None and self.supplied is None)
        self.reading.total = passes * tree_size(self.source)
        with track_reads(self.reading):
            try:
                self._read_rows(limit)
            finally:
                self.rows.close()
                self.rejected.close()
            self.cards = self.declared.check_cards(list(self.reading.files))
            self._check_rows(allow_rejects)
            leaks = self._remove_leaks(on_leak)
            self.rows.write()
            self.sources.count({split: self.rows.ids(split) for split in SPLITS})
            counts = self._write_collection()
            self.sources.write(self.folder, self.cards)
        self._copy_sidecars()
        warnings = self._write_settings()
        for report in self.reports:
            for name, text in report.files.items():
                (self.folder / Path(name).name).write_text(text, encoding="utf-8")
            for rater, qrels in report.ratings.items():
                write_qrels(rater_file(self.folder, rater), qrels)
        self.reading.done = self.reading.total
        self.reading.report()
        card = self._card(leaks, counts, warnings)
        card.write(self.folder)
        return card

    def _read_rows(self, limit: int | None) -> None:
        check = RecordCheck(self.task.record_schema)
        ids: dict[int, str | None] = {}  # fingerprint of an id -> split
        for row in self.format.read(self.source, self.options):
            if isinstance(row, SourceReport):
                self.reports.append(row)
            elif isinstance(row, RejectedRow):
                self.rejected.add(row)
            else:
                self._add(row, check, ids)
                if limit is not None and len(ids) >= limit:
                    return

    def _add(self, row: SourceRow, check: RecordCheck, ids: dict[int, str | None]) -> None:
        record = self._without_other_columns(row.data)
        fault = value_fault(record) or check.fault(record) or self.rows.problem(record)
        key = 0
        if fault is None:
            key, split = fingerprint(record["id"]), record.get("split")
            if ids.get(key, split) != split and not self._has_topics:
                # In another official split it is another row, so that the leak check can tell the two apart.
                record = {**record, "id": f"{split}-{record['id']}"}
                key = fingerprint(record["id"])
            fault = (
                f"field 'id': '{record['id']}' was used by an earlier row" if key in ids else _id_fault(record["id"])
            )
        if fault is None:
            try:
                input_text, target = prompts.input_text(self.task, record), _target(self.task, record)
            except RenderError as error:
                fault = error.what
        if fault is not None:
            self.rejected.add(RejectedRow(row.where, fault, row.data))
            return
        self.rows.add(record, row.where, input_text, target)
        self.sources.of_records[key] = row.source or self.declared.of_rows
        ids[key] = record.get("split")
        self.reading.rows += 1

    @property
    def _has_topics(self) -> bool:
        """Whether the ids of records are those of topics with judgments."""
        return self.supplied is not None or self.format.collection is not None or self.format.own_texts is not None

    def _without_other_columns(self, data: Record) -> Record:
        """The fields that the task's schema knows; further columns of a user's file are counted, not refused."""
        schema = self.task.record_schema
        if schema.get("additionalProperties") is not False:
            return data
        known = schema.get("properties", {})
        others = [name for name in data if name not in known]
        for name in others:
            if name in self.ignored or len(self.ignored) < MAX_IGNORED:
                self.ignored[name] = self.ignored.get(name, 0) + 1
        return {name: value for name, value in data.items() if name in known} if others else data

    def _notes(self) -> list[str]:
        notes = [note for report in self.reports for note in report.notes]
        if self.ignored:
            names = ", ".join(name[:MAX_NAME] for name in list(self.ignored)[:SHOWN_IGNORED])
            more = len(self.ignored) - SHOWN_IGNORED
            names += f" and {more} more" if more > 0 else ""
            notes.append(f"columns that are no field of the task were ignored: {names}")
        return notes

    def _check_rows(self, allow_rejects: bool) -> None:
        self.rejected.check(self.source, self.out, self.reading.rows, self.reports, allow_rejects)
        if not len(self.rows.rows["train"]) and self.split_ratios != ONLY_TEST:
            raise DataError(
                "no row is left for training",
                where=str(self.source),
                fix="Its official splits have none. Give one of its files, or name that file 'train'."
                if self.rows.official
                else "Use other ratios, another seed, or more data; --split-ratios 0,0,1 makes test rows only.",
            )

    def _remove_leaks(self, on_leak: OnLeak) -> list[Leak]:
        trained = len(self.rows.rows["train"])
        leaks = self.rows.remove_leaks()
        if leaks and on_leak == "refuse" and not self.rows.official:
            raise leak_error(leaks, beside(self.out, LEAKS_FILE))
        if leaks:
            write_leaks(leaks, self.folder / LEAKS_FILE)
        if trained and not len(self.rows.rows["train"]):
            raise DataError(
                "every training row shares its input or its group with another split",
                where=str(self.source),
                fix="Name another column for the group, if rows of one group may be in several splits.",
            )
        return leaks

    def _write_collection(self) -> dict[str, int] | None:
        if self.supplied is not None:
            queries = ((str(record["id"]), self.task.queries(record)) for record in self.rows.records())
            collection = self.supplied.collection(queries)
        elif self.format.own_texts is not None:
            collection = self.format.own_texts(self.rows.records)
        elif self.format.collection is not None:
            collection = self.format.collection(self.source, self.options)
        else:
            return None
        split_of = {topic: split for split in SPLITS for topic in self.rows.ids(split)}
        self.declared.check_collection(collection.judged_by)
        source_of = self._source_of(collection)
        by_split: dict[str, Counter[Source]] = {split: Counter() for split in SPLITS}

        def count(judgment: Judgment) -> None:
            by_split[split_of[fingerprint(judgment.topic)]][source_of(judgment)] += 1

        counts, judged = write_collection(collection, self.folder, split_of.keys(), count)
        if not counts["documents"]:  # records without documents, such as labelled texts
            for name in (CORPUS_FILE, QRELS_FILE):
                (self.folder / name).unlink()
            return None
        known = self.judged_by or collection.judged_by
        cards = self.declared.check_cards(list(self.reading.files)) if self.supplied is None else []
        self.sources.judgments = by_split
        write_judgments_card(self.folder / QRELS_FILE, total(by_split), [known] if known is not None else cards)
        self.judged_in_test = len(judged & self.rows.ids("test"))
        return counts

    def _source_of(self, collection: Collection) -> Callable[[Judgment], Source]:
        """Who or what gave a judgment, where neither its reader nor the card of its file says it."""
        if self.supplied is not None:
            default = self.declared.declared or UNKNOWN
        elif self.format.own_texts is not None:
            return lambda judgment: self.sources.of_records[fingerprint(judgment.topic)]
        else:
            default = collection.judged_by.source if collection.judged_by is not None else self.declared.of_rows
        return lambda judgment: judgment.source or default

    def _copy_sidecars(self) -> None:
        for name in self.format.sidecars:
            if not (self.source / name).is_file():
                raise DataError(f"there is no {name}", where=str(self.source), fix="Generate the source again.")
            shutil.copyfile(self.source / name, self.folder / name)
            self.reading.files[self.source / name] = None

    def _write_settings(self) -> list[str]:
        """Write the task's settings; what it warns about in the training rows.

        The settings are those of the training rows, or of the test rows if there is no training row.
        """
        trained = len(self.rows.rows["train"]) > 0
        settings = self.task.settings_of(self.options, self.rows.records("train" if trained else "test"))
        if settings != self.task.default_settings:
            text = json.dumps(settings, ensure_ascii=False, indent=1) + "\n"
            (self.folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
        return list(self.task.bound(settings).training_warnings(self.rows.records("train"))) if trained else []

    def _card(self, leaks: list[Leak], collection: dict[str, int] | None, warnings: Sequence[str]) -> DatasetCard:
        rows = {name: len(numbers) for name, numbers in self.rows.rows.items()}
        return DatasetCard(
            task=self.task.name,
            task_version=self.task.version,
            format=self.format.name,
            options={**self.options, **({} if self.encoding is None else {"encoding": self.encoding})},
            source={
                "name": self.source.name,
                "files": self._source_files(),
                **({} if self.origin is None else {"origin": dict(self.origin)}),
            },
            seed=self.seed,
            shares=self.split_ratios,
            official_splits=bool(self.rows.official),
            rows=rows,
            groups={name: self.rows.count_groups(name) for name in rows},
            files={path.name: file_sha256(path) for path in sorted(self.folder.iterdir())},
            text=text_statistics(self.rows.lengths),
            leaks={
                "found": len(leaks),
                "taken out": dict(Counter(leak.split for leak in leaks)),
                "rows": [vars(leak) for leak in leaks[:LEAKS_IN_CARD]],
            },
            rejected=dict(self.rejected.counts.most_common()),
            report={
                "rules": [rule for report in self.reports for rule in report.rules],
                "counts": {name: count for report in self.reports for name, count in report.counts.items()},
                "notes": self._notes(),
                "sources": self._source_counts(),
            },
            collection=collection,
            warnings=(*card_warnings(rows, collection, self.judged_in_test), *warnings),
            searchlora=version("searchlora"),
        )

    def _source_counts(self) -> dict[str, dict[str, int]]:
        """Numbers by source: of the judgments, and of the records unless nobody says who graded them."""
        records, judgments = total(self.sources.records), total(self.sources.judgments)
        counted = {"records": records} if records.source != UNKNOWN or not judgments.counts else {}
        counted |= {"judgments": judgments} if self.sources.judgments else {}
        return {name: {str(source): n for source, n in counts.counts.items()} for name, counts in counted.items()}

    def _source_files(self) -> dict[str, str]:
        base = self.source if self.source.is_dir() else self.source.parent
        return {os.path.relpath(path, base): file_sha256(path) for path in self.reading.files}


def _id_fault(record_id: str) -> str | None:
    """Ids become words of TREC files and lines of reports, so they hold no control character and no line break."""
    if record_id != record_id.strip() or any(category(letter) in ("Cc", "Zl", "Zp") for letter in record_id):
        return f"field 'id': {record_id!r} holds a control character, a line break, or white space at an end"
    return None


def _target(task: Task, record: Record) -> str:
    return task.target(record) if isinstance(task, GenerationTask) and task.has_target(record) else ""
