"""`searchlora data build`: a source becomes a dataset folder, or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from searchlora import prompts
from searchlora.data.card import SETTINGS_FILE, DatasetCard, card_warnings, text_statistics
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents, read_judgments, write_collection
from searchlora.data.leaks import Leak, find_leaks, refuse, write_leaks
from searchlora.data.refusals import REJECTED_FILE, Refusals, beside
from searchlora.data.schema import RecordCheck
from searchlora.data.splits import Splitter, check_shares
from searchlora.data.spool import Spool
from searchlora.errors import DataError, RenderError, UnknownFormat, UsageError
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.card import read_card as read_judgments_card
from searchlora.eval.judgments.card import write_card as write_judgments_card
from searchlora.eval.text_identity import fingerprint
from searchlora.files import ReadProgress, atomic_folder, file_sha256, track_reads, tree_size
from searchlora.progress import Progress, silent
from searchlora.records import Collection, Format, Record, RejectedRow, SourceReport, SourceRow
from searchlora.task import PromptedTask, Task, load_task

OnLeak = Literal["refuse", "drop"]

LEAKS_FILE = "leaks.jsonl"
LEAKS_IN_CARD = 100


def build(
    task: Task | str,
    source: str | Path,
    *,
    format: str,
    out: str | Path,
    options: Mapping[str, str] | None = None,
    seed: int = 13,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    limit: int | None = None,
    allow_rejects: bool = False,
    on_leak: OnLeak = "refuse",
    corpus: str | Path | None = None,
    qrels: str | Path | None = None,
    relevant: int | None = None,
    progress: Progress = silent,
) -> DatasetCard:
    """Read, validate, split by group, check for leaks, and write a dataset folder, all of it or nothing.

    Rows go through one at a time; per row 48 bytes and the fingerprint of its id stay in memory.

    Args:
        task: Whose records to build; a task, or the name of one that is installed.
        source: A file or folder.
        format: One of the task's formats.
        out: The folder to make. It must not exist, or be empty.
        options: For the format's reader.
        seed: Of the split.
        shares: Of the groups that go to train, validation and test. Official splits of a source come before it.
        limit: Stop after so many valid rows.
        allow_rejects: Build from the rest when rows were refused.
        on_leak: What to do with rows whose input stands in two splits: refuse to build, or take them out of training
            and validation. Under official splits they are always taken out. Either way they are listed.
        corpus, qrels: Documents (`id`, `text`, `title`) and TREC judgments of the records' ids, for a source that has
            none of its own (or instead of its own); both or neither. A card beside the judgments, which says who
            judged, goes along.
        relevant: Of those judgments, the grade from which on a document counts in binary measures; None: 1.
        progress: Told bytes read, bytes in all, and the rows so far.

    Returns:
        The card, as it stands in `dataset.json`.

    Raises:
        UnknownFormat, UsageError: when the call makes no sense.
        DataError: when the source cannot be read or no row is usable, `out` is in use, or the disk is full.
        RejectedRows: when rows were refused, and this was not allowed or no other was left; they are listed in
            `OUT.rejected.jsonl`.
        LeakError: when rows stand in two splits; they are listed in `OUT.leaks.jsonl`.
    """
    task = load_task(task) if isinstance(task, str) else task
    source, out = Path(source), Path(out)
    reader = _format(task, format)
    _check_options(reader, options or {})
    check_shares(shares)
    if on_leak not in ("refuse", "drop"):
        raise UsageError(f"on_leak is '{on_leak}'", fix="It is 'refuse' or 'drop'.")
    if not source.exists():
        raise DataError("there is no such file or folder", where=str(source), fix="Check the path.")
    judged_by = None
    if corpus is not None and qrels is not None:
        own = Collection(read_documents(Path(corpus)), read_judgments(Path(qrels)), relevant or 1)
        reader = replace(reader, collection=lambda *_: own)
        judged_by = read_judgments_card(qrels)
    elif corpus is not None or qrels is not None:
        raise UsageError("a corpus wants judgments and judgments want a corpus", fix="Give both, or neither.")
    elif relevant is not None:
        raise UsageError(
            "a grade to be relevant from wants judgments of your own", fix="Give --corpus and --qrels too."
        )
    given = {**(reader.implied(source) if reader.implied is not None else {}), **(options or {})}
    with atomic_folder(out) as folder:
        work = _Build(task, reader, source, folder, out, given, seed, shares, ReadProgress(progress=progress))
        work.judged_by = judged_by
        card = work.run(limit, allow_rejects, on_leak)
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
    shares: tuple[float, float, float]
    meter: ReadProgress
    judged_by: JudgmentsCard | None = None
    judged_in_test: int = 0
    reports: list[SourceReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.refusals = Refusals(self.folder)

    def run(self, limit: int | None, allow_rejects: bool, on_leak: OnLeak) -> DatasetCard:
        passes = self.format.passes + (self.format.collection is not None)
        self.meter.total = passes * tree_size(self.source)
        splitter = Splitter(self.folder, self.seed, self.shares)
        with track_reads(self.meter):
            try:
                self._deal_out(splitter, limit)
            finally:
                spools = splitter.close()
                self.refusals.close()
            self._check_rows(spools, allow_rejects)
            leaks = self._check_leaks(spools, bool(splitter.official), on_leak)
            counts = self._write_collection(spools)
        self._copy_sidecars()
        self._write_settings(spools["train"])
        for spool in spools.values():
            spool.discard_places()
        self.meter.done = self.meter.total
        self.meter.report()
        card = self._card(spools, bool(splitter.official), leaks, counts)
        card.write(self.folder)
        return card

    def _deal_out(self, splitter: Splitter, limit: int | None) -> None:
        check = RecordCheck(self.task.record_schema)
        ids: set[int] = set()
        for row in self.format.read(self.source, self.options):
            if isinstance(row, SourceReport):
                self.reports.append(row)
            elif isinstance(row, RejectedRow):
                self.refusals.add(row)
            else:
                self._take(row, check, ids, splitter)
                if limit is not None and len(ids) >= limit:
                    return

    def _take(self, row: SourceRow, check: RecordCheck, ids: set[int], splitter: Splitter) -> None:
        record = row.data
        problem = check.problem(record) or splitter.problem(record)
        key = 0
        if problem is None:
            key = fingerprint(record["id"])
            problem = f"field 'id': '{record['id']}' was used by an earlier row" if key in ids else None
        if problem is None:
            try:
                seen, target = prompts.input_text(self.task, record), _target(self.task, record)
            except RenderError as error:
                problem = error.what
            else:
                problem = splitter.add(record, row.where, seen, target)
        if problem is not None:
            self.refusals.add(RejectedRow(row.where, problem, record))
            return
        ids.add(key)
        self.meter.rows += 1

    def _check_rows(self, spools: Mapping[str, Spool], allow_rejects: bool) -> None:
        self.refusals.check(self.source, self.out, self.meter.rows, self.reports, allow_rejects)
        if not len(spools["train"]):
            raise DataError(
                "no row is left to train on",
                where=str(self.source),
                fix="Take other shares, another seed, or more data.",
            )

    def _check_leaks(self, spools: Mapping[str, Spool], official: bool, on_leak: OnLeak) -> list[Leak]:
        leaks, kept = find_leaks(spools)
        if leaks and on_leak == "refuse" and not official:
            raise refuse(leaks, beside(self.out, LEAKS_FILE))
        for name, spool in spools.items():
            spool.keep_only(kept[name])
        if leaks:
            write_leaks(leaks, self.folder / LEAKS_FILE)
        if not len(spools["train"]):
            raise DataError("every training row has its like in another split", where=str(self.source))
        return leaks

    def _write_collection(self, spools: Mapping[str, Spool]) -> dict[str, int] | None:
        if self.format.collection is None:
            return None
        topics = {int(key) for spool in spools.values() for key in spool.ids}
        found = self.format.collection(self.source, self.options)
        counts, judged = write_collection(found, self.folder, topics)
        if not counts["documents"]:  # records of a kind that has none, such as labelled texts
            for name in (CORPUS_FILE, QRELS_FILE):
                (self.folder / name).unlink()
            return None
        if (judged_by := self.judged_by or found.judged_by) is not None:
            write_judgments_card(self.folder / QRELS_FILE, judged_by)
        self.judged_in_test = sum(int(key) in judged for key in spools["test"].ids)
        return counts

    def _copy_sidecars(self) -> None:
        for name in self.format.sidecars:
            if not (self.source / name).is_file():
                raise DataError(f"there is no {name}", where=str(self.source), fix="Make the source again.")
            shutil.copyfile(self.source / name, self.folder / name)
            self.meter.files[self.source / name] = None

    def _write_settings(self, training: Spool) -> None:
        settings = self.task.settings_of(self.options, training.records())
        if settings != self.task.default_settings:
            text = json.dumps(settings, ensure_ascii=False, indent=1) + "\n"
            (self.folder / SETTINGS_FILE).write_text(text, encoding="utf-8")

    def _card(
        self, spools: Mapping[str, Spool], official: bool, leaks: list[Leak], collection: dict[str, int] | None
    ) -> DatasetCard:
        rows = {name: len(spool) for name, spool in spools.items()}
        return DatasetCard(
            task=self.task.name,
            task_version=self.task.version,
            format=self.format.name,
            options=self.options,
            source={"name": self.source.name, "files": self._source_files()},
            seed=self.seed,
            shares=self.shares,
            official_splits=official,
            rows=rows,
            groups={name: len(np.unique(spool.groups)) for name, spool in spools.items()},
            files={path.name: file_sha256(path) for path in sorted(self.folder.iterdir())},
            text=text_statistics([spool.lengths for spool in spools.values()]),
            leaks={
                "found": len(leaks),
                "taken out": dict(Counter(leak.split for leak in leaks)),
                "rows": [vars(leak) for leak in leaks[:LEAKS_IN_CARD]],
            },
            rejected=dict(self.refusals.counts.most_common()),
            report={
                "rules": [rule for report in self.reports for rule in report.rules],
                "counts": {name: count for report in self.reports for name, count in report.counts.items()},
            },
            collection=collection,
            warnings=tuple(card_warnings(rows, collection, self.judged_in_test)),
            searchlora=version("searchlora"),
        )

    def _source_files(self) -> dict[str, str]:
        base = self.source if self.source.is_dir() else self.source.parent
        return {os.path.relpath(path, base): file_sha256(path) for path in self.meter.files}


def _format(task: Task, name: str) -> Format:
    if name not in task.formats:
        raise UnknownFormat(
            f"task '{task.name}' reads no format '{name}'", fix=f"Known formats: {', '.join(sorted(task.formats))}."
        )
    return task.formats[name]


def _check_options(format: Format, options: Mapping[str, str]) -> None:
    known = format.options or {}
    for name in options:
        if name not in known:
            raise UsageError(
                f"format '{format.name}' has no option '{name}'", fix=f"Known options: {', '.join(known) or 'none'}."
            )


def _target(task: Task, record: Record) -> str:
    return task.target(record) if isinstance(task, PromptedTask) else ""
