"""Profile of a file: its kind, rows, columns with their types, and the first faults with their places."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import split_files
from searchlora.errors import DataError
from searchlora.eval.formats import quepid, read_qrels, read_run, read_topics
from searchlora.eval.formats.trec import TREC
from searchlora.files import (
    EXTENSIONS,
    Head,
    ReadLimitReached,
    RejectedRow,
    as_text,
    check_file,
    read_head,
    read_rows,
)
from searchlora.files.json_text import value_fault
from searchlora.files.text import suffix_of
from searchlora.files.watched_reads import check_read_time

MAX_FAULTS = 20
MAX_COLUMNS = 500

#: Distinct values of a column that are counted, and those of them that are kept.
MAX_DISTINCT, MAX_VALUES = 100_000, 20

#: What is read of a file. The rest of a larger one is not looked at, and the output says so.
MAX_ROWS, MAX_CELLS, MAX_BYTES = 100_000, 2_000_000, 1 << 25

#: Seconds of reading, the files beside the file included.
MAX_SECONDS = 20.0

_EXCERPT = 60  # characters of an example
_COLUMNS_SHOWN, _NAME_WIDTH = 25, 30  # in the terminal
_PART = 200_000  # rows that are searched for ids of documents


@dataclass
class Column:
    """A column: the rows that have a value, its types, distinct values and mean length in characters.

    Attributes:
        values: The distinct values as text, while there are at most `MAX_VALUES`; else empty.
        low, high: The least and the greatest number.
    """

    name: str
    filled: int = 0
    types: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    example: str = ""
    values: dict[str, int] = field(default_factory=dict)
    distinct: int = 0
    low: float = math.inf
    high: float = -math.inf

    def __post_init__(self) -> None:
        self._seen: set[int] = set()
        self._many = False

    def add(self, value: Any) -> None:
        """Count a cell; one that is None or without text is empty."""
        text = as_text(value).strip()
        if not text:
            return
        self.filled += 1
        kind = _type_of(value, text)
        self.types[kind] += 1
        if kind == "number" and math.isfinite(number := float(text)):
            self.low, self.high = min(self.low, number), max(self.high, number)
        self.characters += len(text)
        if not self.example:
            self.example = text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"
        if len(self._seen) < MAX_DISTINCT:
            self._seen.add(hash(text))
            self.distinct = len(self._seen)
        if not self._many and text not in self.values and len(self.values) >= MAX_VALUES:
            self._many, self.values = True, {}
        if not self._many:
            self.values[text] = self.values.get(text, 0) + 1

    @property
    def type(self) -> str:
        """The commonest type."""
        return self.types.most_common(1)[0][0] if self.types else "empty"

    @property
    def mean_characters(self) -> float:
        """Mean length of the values that are not empty, in characters."""
        return self.characters / self.filled if self.filled else 0.0


@dataclass
class Profile:
    """What a file looks like.

    Attributes:
        kind: "table", "qrels", "run", "topics", "folder", or "other".
        description: One line for people.
        rows: Number of rows, judgments, ranked documents or topics.
        faults: The first rows that cannot be read; `faulty` is the number of all.
        encoding: How the text is read if it is not UTF-8; None: as UTF-8.
        sample_of: What was read of a file that is too large to be read whole: "the first 100,000 rows"; else empty.
    """

    path: Path
    kind: str
    description: str
    rows: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    faults: list[RejectedRow] = field(default_factory=list)
    faulty: int = 0
    sample_of: str = ""
    encoding: str | None = None

    def add_fault(self, where: str, reason: str) -> None:
        """Count a row that a build rejects; the first ones are kept."""
        self.faulty += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(RejectedRow(where, reason))

    def to_json(self) -> dict[str, Any]:
        """The profile as plain values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "description": self.description,
            "rows": self.rows,
            "encoding": self.encoding,
            "sample": self.sample_of or None,
            "columns": [
                {
                    "name": column.name,
                    "type": column.type,
                    "filled": column.filled,
                    "distinct": column.distinct,
                    "mean characters": round(column.mean_characters, 1),
                    "example": column.example,
                }
                for column in self.columns.values()
            ],
            "faults": [{"where": fault.where, "reason": fault.reason} for fault in self.faults],
            "faulty rows": self.faulty,
        }


def other_encodings(found: Profile) -> tuple[str, ...]:
    """Encodings that a file may have which is not UTF-8, likeliest first; none for one that is."""
    if not any("not UTF-8" in fault.reason for fault in found.faults):
        return ()
    return ("utf-16",) if any("UTF-16" in fault.reason for fault in found.faults) else ("cp1252", "latin-1")


def profile(path: Path) -> Profile:
    """Describe a file or folder; a fault in a file is reported, not raised.

    Raises:
        DataError: if there is no such file or folder, or the file is empty.
    """
    if path.is_dir():
        return _folder(path)
    check_file(path)
    if _is_case(path):
        return _case(path)
    if is_table(path):
        return _table(path)
    kind = _trec_kind(read_head(path))
    try:
        if kind != "other":
            return _trec(path, kind)
    except ReadLimitReached as error:
        return Profile(path, kind, f"TREC {kind} that is too large to be counted", sample_of=error.what)
    except DataError as error:
        if kind != "topics":  # prose with one tab in its first line looks like topics
            return Profile(path, kind, f"TREC {kind} with a fault", faults=[_fault(error)], faulty=1)
    return Profile(path, "other", "no table, and no TREC file")


def _is_case(path: Path) -> bool:
    try:
        return suffix_of(path) == ".json" and quepid.is_case(read_head(path))
    except DataError:  # which the reader of tables reports
        return False


def _case(path: Path) -> Profile:
    grades: set[str] = set()
    queries: Counter[str] = Counter()
    try:
        for row in quepid.case_rows(path):
            queries[str(row.topic)] += 1
            grades.add(str(row.value).removesuffix(".0"))
    except DataError as error:
        return Profile(path, "qrels", "a case of Quepid with a fault", faults=[_fault(error)], faulty=1)
    shown = ", ".join(sorted(grades)[:MAX_VALUES])
    rows, counted = queries.total(), _count(len(queries), "query")
    return Profile(
        path, "qrels", f"a case of Quepid: {_count(rows, 'judgment')} of {counted}, grades {shown}", rows=rows
    )


def _trec_kind(head: Head) -> str:
    """ "qrels", "run" or "topics" for the beginning of such a TREC file; "other" for another."""
    for kind in ("qrels", "run", "topics"):
        form = getattr(TREC, kind)
        if form is not None and form.recognises(head):
            return kind
    return "other"


def is_table(path: Path) -> bool:
    """Whether a file is read by rows; a TSV without a header is not."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(EXTENSIONS):
        return False
    return not (name.endswith(".tsv") and _has_no_header(read_head(path)))


def readable_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The first rows of a file that can be read, up to a fault of the whole file or the limit of what is read."""
    try:
        for row in islice(read_rows(path), _PART):
            if not isinstance(row, RejectedRow):
                yield row.data
    except DataError:
        return


def column_values(path: Path, column: str) -> set[str]:
    """The distinct values of a column, as text, in the first rows of a file."""
    return {text for row in readable_rows(path) if (text := as_text(row.get(column)))}


def _has_no_header(head: Head) -> bool:
    """A first line `id<tab>text`, as of TREC topics: the id is a number, or the text has several words."""
    fields = head.line.split("\t")
    if len(fields) != 2 or len(fields[0].split()) != 1:
        return False
    return fields[0].isdecimal() or len(fields[1].split()) > 1


def _table(path: Path) -> Profile:
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    profile = Profile(path, "table", "")
    cells = 0
    try:
        for number, row in enumerate(read_rows(path)):
            if number >= MAX_ROWS or cells >= MAX_CELLS:
                raise ReadLimitReached(f"the first {_count(number, 'row')}")
            check_read_time()
            if isinstance(row, RejectedRow):
                profile.add_fault(row.where, row.reason)
                continue
            if (fault := value_fault(row.data)) is not None:
                profile.add_fault(row.where, fault)
            profile.rows += 1
            cells += len(row.data)
            for name, value in row.data.items():
                column = profile.columns.get(name)
                if column is None and len(profile.columns) < MAX_COLUMNS:
                    column = profile.columns[name] = Column(name)
                if column is not None:
                    column.add(value)
    except ReadLimitReached as error:
        profile.sample_of = error.what
    except DataError as error:
        profile.faults.append(_fault(error))
        profile.faulty += 1
    names = {"jsonl": "JSON Lines", "ndjson": "JSON Lines", "json": "JSON", "csv": "CSV", "tsv": "TSV"}
    packed = ", gzip" if path.name.lower().endswith(".gz") else ""
    profile.description = f"{names.get(kind, 'Parquet')}{packed}: {_count(profile.rows, 'row')}"
    return profile


def _trec(path: Path, kind: str) -> Profile:
    if kind == "topics":
        rows = len(read_topics(path, "trec"))
        text = _count(rows, "query")
    elif kind == "run":
        run = read_run(path, "trec")
        rows = sum(map(len, run.values()))
        text = f"{_count(rows, 'document')} for {_count(len(run), 'topic')}"
    else:
        qrels = read_qrels(path, "trec")
        grades = sorted({grade for of_topic in qrels.values() for grade in of_topic.values()})
        rows, shown = sum(map(len, qrels.values())), ", ".join(map(str, grades[:10]))
        text = f"{_count(rows, 'judgment')} of {_count(len(qrels), 'topic')}, grades {shown}"
    return Profile(path, kind, f"TREC {kind}: {text}", rows=rows)


def _folder(path: Path) -> Profile:
    """A folder with a file per split is described by its file of training rows."""
    description = f"a folder of {_count(len(list(path.iterdir())), 'file')}"
    try:
        first = next((file for file, split in split_files(path) if split == "train"), None)
    except DataError:
        first = None
    if first is None:
        return Profile(path, "folder", description)
    profile = _table(first)
    profile.description = f"{description}, one for each split; {first.name} is {profile.description}"
    profile.path = path
    return profile


def _fault(error: DataError) -> RejectedRow:
    return RejectedRow(str(error.where or ""), error.what)


def _type_of(value: Any, text: str) -> str:
    if isinstance(value, bool):
        return "yes or no"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "object"
    return "number" if _is_number(text) else "text"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) < 40


def _count(number: int, noun: str) -> str:
    plural = {"query": "queries"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def lines_of(found: Profile) -> Iterator[str]:
    """The profile as lines for a terminal."""
    encoding = f", {found.encoding}" if found.encoding else ""
    yield f"{found.path}: {found.description}{encoding}"
    if found.sample_of:
        yield f"sample: {found.sample_of}; columns, faults and commands are of this part"
    if found.columns:
        listed = list(found.columns.values())[:_COLUMNS_SHOWN]
        width = max(len("column"), min(_NAME_WIDTH, max(len(column.name) for column in listed)))
        yield f"{'column':<{width}}  {'type':<9} {'filled':>9} {'distinct':>9}  example"
        for column in listed:
            distinct = f"{column.distinct:,}" + ("+" if column.distinct >= MAX_DISTINCT else "")
            name = column.name if len(column.name) <= width else f"{column.name[: width - 1]}…"
            example = json.dumps(column.example, ensure_ascii=False)[1:-1]
            yield f"{name:<{width}}  {column.type:<9} {column.filled:>9,} {distinct:>9}  {example}"
        if len(found.columns) > len(listed):
            yield f"and {len(found.columns) - len(listed):,} more columns; --json lists them"
    for fault in found.faults:
        yield f"fault: {fault.where}: {fault.reason}"
    if found.faulty > len(found.faults):
        yield f"fault: and {found.faulty - len(found.faults):,} more rows"
