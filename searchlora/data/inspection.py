"""`searchlora data inspect`: the columns and faults of a file, and the commands that build from it.

Formats say which fields they need (`Format.needs`). Columns are matched to fields by their names.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from searchlora.data.formats import formats_of
from searchlora.errors import DataError
from searchlora.files import EXTENSIONS, RejectedRow, as_text, read_rows
from searchlora.records import Format
from searchlora.task import Task

#: Rows of a file that are read, distinct values of a column that are kept, and faults that are shown.
MAX_ROWS, MAX_VALUES, MAX_FAULTS = 100_000, 20, 20

#: Field -> names of columns that commonly hold it, in lower case with underscores, likeliest first.
NAMES: Mapping[str, str] = {
    "query": "query query_text search_query search_term keyword keywords search q term",
    "document": "document docid doc_id document_id product_id product_uid item_id sku asin doc pid",
    "grade": "grade rating relevance judgment judgement esci_label gain score stars label",
    "passage": "passage text body content description snippet overview abstract summary",
    "title": "title name headline",
    "rater": "rater rater_id annotator annotator_id assessor judge worker worker_id",
    "topic": "topic query_id qid topic_id",
    "rewrite": "rewrite rewritten_query rewritten reformulation corrected_query correction target",
    "text": "text utterance sentence phrase message query question",
    "label": "label intent category class",
    "session": "session session_id",
    "time": "time timestamp datetime date",
    "clicks": "clicks num_clicks click_count",
    "question": "question frage pregunta",
    "answer": "answer antwort respuesta response",
    "id": "id _id docid doc_id document_id product_id product_uid sku asin key document url",
}
_OPTIONAL = ("document", "passage", "title", "rater", "topic", "section", "negative", "user")
_RATER = re.compile(r"(^|_)(rater|rating|grade|judge|agent|annotator|assessor)s?(_|\d|$)")
_MERGED = re.compile(r"final|majority|mean|median|average|avg|gold|consensus")

#: Grades as words, from 0 to 3.
_WORDS = (
    "i irrelevant bad no false",
    "c complement fair",
    "s substitute good partial",
    "e exact perfect yes true relevant",
)
_NUMBERS = {word: number for number, words in enumerate(_WORDS) for word in words.split()}
_ESCI = ({"e", "s", "c", "i"}, {"exact", "substitute", "complement", "irrelevant"})
_ENOUGH = 0.3  # share of the judged documents that a file holds, to be taken for their corpus


@dataclass
class Column:
    """A column of a table, its values as text."""

    name: str
    filled: int = 0
    example: str = ""
    types: Counter[str] = field(default_factory=Counter)
    distinct: set[str] = field(default_factory=set)

    def add(self, value: Any) -> None:
        if not (text := as_text(value).strip()):
            return
        self.filled += 1
        self.example = self.example or text[:60]
        kind = type(value).__name__ if isinstance(value, bool | list | dict) else "text"
        self.types["number" if kind == "text" and _is_number(text) else kind] += 1
        self.distinct.add(text)

    @property
    def type(self) -> str:
        return self.types.most_common(1)[0][0] if self.types else "empty"

    @property
    def values(self) -> set[str]:
        return self.distinct if len(self.distinct) <= MAX_VALUES else set()

    @property
    def numbers(self) -> list[float]:
        return [float(text) for text in self.distinct if _is_number(text)]


@dataclass
class Table:
    path: Path
    rows: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    faults: list[RejectedRow] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"{self.path}: {self.rows:,} rows{' or more' if self.rows + len(self.faults) >= MAX_ROWS else ''}"
        width = max(len(column) for column in ("column", *self.columns))
        yield f"{'column':<{width}}  {'type':<9} {'filled':>9} {'distinct':>9}  example"
        for name, column in self.columns.items():
            example = json.dumps(column.example, ensure_ascii=False)[1:-1]
            yield f"{name:<{width}}  {column.type:<9} {column.filled:>9,} {len(column.distinct):>9,}  {example}"
        yield from (f"fault: {fault.where}: {fault.reason}" for fault in self.faults[:MAX_FAULTS])
        yield from (f"fault: and {len(self.faults) - MAX_FAULTS:,} more rows",) * (len(self.faults) > MAX_FAULTS)


@dataclass
class Command:
    """A command that reads the file; one that is not complete has a place for what the user must give."""

    purpose: str
    arguments: list[str]
    notes: list[str] = field(default_factory=list)
    complete: bool = True

    def __str__(self) -> str:
        return shlex.join(["searchlora", *self.arguments])

    def map(self, name: str, *columns: str) -> None:
        if columns != (name,):
            self.arguments += ["--map", f"{name}={','.join(columns)}"]

    def lacks(self, note: str, *arguments: str) -> None:
        self.arguments += arguments
        self.notes.append(note)
        self.complete = False


def inspect_file(path: Path, tasks: Sequence[Task] = ()) -> tuple[Table, list[Command]]:
    """The profile of a table, and the commands by which these tasks build from it. Raises `DataError`."""
    table = read_table(path)
    builds = (_build(table, task, format) for task in tasks for format in formats_of(task).values())
    return table, [*filter(None, builds), *_searches(table)]


def read_table(path: Path) -> Table:
    """The profile of a file that `read_rows` reads; a fault in it is noted. Raises `DataError` for another file."""
    table, rows = Table(path), read_rows(path)
    try:
        for row in islice(rows, MAX_ROWS):
            if isinstance(row, RejectedRow):
                table.faults.append(row)
                continue
            table.rows += 1
            for name, value in row.data.items():
                table.columns.setdefault(name, Column(name)).add(value)
    except DataError as error:
        table.faults.append(RejectedRow(str(error.where or ""), error.what))
    return table


def _build(table: Table, task: Task, format: Format) -> Command | None:
    """A build from columns that hold what a format needs."""
    columns: dict[str, tuple[str, ...]] = {}
    for name in (*format.needs, *(name for name in _OPTIONAL if name in format.options and name not in format.needs)):
        used = {column for names in columns.values() for column in names}
        if names := _columns(table, name, used):
            columns[name] = names
    is_judged = columns.keys() & {"document", "passage", "title"}  # else a table of queries and classes
    if not format.needs or not columns.keys() >= set(format.needs) or ("grade" in columns and not is_judged):
        return None
    purpose = f"dataset of the task {task.name}: {format.description}"
    command = Command(purpose, ["data", "build", task.name, str(table.path), "--format", format.name])
    for name, names in columns.items():
        command.map(name, *names)
    if "grade" in columns:
        _add_grades([table.columns[name] for name in columns["grade"]], format, command)
    if {"corpus", "grade_map"} <= set(format.options) and not columns.keys() & {"passage", "title"}:
        _add_corpus(table, columns["document"][0], command)
    for name, option in format.options.items():
        if option.required and name not in format.needs:
            command.lacks(f"give the option {name}: {option.meaning}", "--option", f"{name}=VALUE")
    command.arguments += ["--out", f"data/{task.name}"]
    return command


def _columns(table: Table, field_name: str, used: set[str]) -> tuple[str, ...]:
    """The columns that hold a field, by their names and contents."""
    least = table.rows / 2 if field_name in ("passage", "title") else 1
    free = [column for column in table.columns.values() if column.name not in used and column.filled >= max(1, least)]
    if field_name in ("grade", "clicked"):
        free = [column for column in free if column.values or (column.type == "number" and max(column.numbers) <= 10)]
    if field_name == "grade":
        raters = [column.name for column in free if _RATER.search(_plain(column.name))]
        if len(raters := [name for name in raters if not _MERGED.search(_plain(name))]) > 1:
            return tuple(raters)
    name = _named((column.name for column in free), field_name)
    return () if name is None else (name,)


def _named(names: Iterable[str], field_name: str) -> str | None:
    """The first name that commonly holds a field; for texts also one that ends in it ("short_description")."""
    plain, wanted = {_plain(name): name for name in names}, NAMES.get(field_name, field_name).split()
    exact = next((plain[want] for want in wanted if want in plain), None)
    if exact is not None or field_name not in ("passage", "title"):
        return exact
    return next((name for want in wanted for key, name in plain.items() if key.endswith(f"_{want}")), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _add_grades(columns: Sequence[Column], format: Format, command: Command) -> None:
    """Numbers for grades that are words, have decimals, or are of another scale than the format's."""
    values = {value.removesuffix(".0") for column in columns for value in column.values}
    numbers = [number for column in columns for number in column.numbers]
    folds = "grades" in format.options  # the grades are mapped to the scale 0 to 3
    whole = bool(values) and all(re.fullmatch(r"-?\d{1,9}", value) for value in values)
    if len(values) == 1 and folds:
        command.notes.append("all rows have one grade: a judge would learn to repeat it, and the build refuses")
    if whole and (not folds or (values <= {"0", "1", "2", "3"} and not values <= {"0", "1"})):
        return
    grades: dict[str, int | str]
    if whole:
        low, high = (0, 1) if values <= {"0", "1"} else (int(min(numbers)), int(max(numbers)))
        grades = {value: round((int(value) - low) / max(1, high - low) * 3) for value in values}
        command.notes += [] if values <= {"0", "1"} else ["check --grades: the grades are spread evenly over 0 to 3"]
    elif numbers and "thresholds" in format.options:
        command.arguments += ["--thresholds", "0.5,1.5,2.5" if max(numbers) > 1 else "0.2,0.5,0.8"]
        command.notes.append(f"check --thresholds: the ratings are from {min(numbers):g} to {max(numbers):g}")
        return
    else:
        grades = {value: _NUMBERS.get(value.lower(), "NUMBER") for value in values}
        if "NUMBER" in grades.values():
            command.lacks("say in --grades which number each grade has")
    ordered = sorted(grades.items(), key=lambda item: (str(item[1]), item[0]), reverse=True)
    command.arguments += ["--grades", ",".join(f"{value}={number}" for value, number in ordered)]
    if folds and len(set(grades.values())) == 2:
        command.arguments += ["--option", "grades=2"]
    elif folds and {value.lower() for value in values} in _ESCI:
        command.arguments += ["--option", "guideline=products"]


def _add_corpus(table: Table, key: str, command: Command) -> None:
    """The file beside this one with most of the judged documents."""
    judged, best, most = table.columns[key].distinct, None, 0.0
    for path in sorted(table.path.parent.iterdir()):
        if path != table.path and path.is_file() and path.name.lower().removesuffix(".gz").endswith(EXTENSIONS):
            beside = read_table(path) if path.stat().st_size else Table(path)
            fields = _document_fields(beside)
            known = len(judged & beside.columns[fields["id"]].distinct) if fields else 0
            if known > max(most, _ENOUGH * len(judged)):
                best, most = (path, fields), known
    if best is None:
        command.lacks("give the file of the documents, which is not beside this one", "--corpus", "FILE")
        return
    command.arguments += ["--corpus", str(best[0])]
    for name, column in best[1].items():
        if column != name:
            command.map(f"corpus.{name}", column)
    if most < len(judged):
        command.arguments.append("--allow-rejects")
        command.notes.append(f"{len(judged) - most:,} of the {len(judged):,} judged documents are not in it")


def _document_fields(table: Table) -> dict[str, str]:
    """Field -> column of a table that is a collection of documents; empty if it is none."""
    columns = table.columns.values()
    unique = _named((column.name for column in columns if table.rows > 1 and len(column.distinct) == table.rows), "id")
    texts = [column.name for column in columns if column.type == "text" and 2 * column.filled >= table.rows]
    title, text = _named(texts, "title"), _named((name for name in texts if name != unique), "passage")
    fields = {"id": unique, "title": title if text else None, "text": text or title}
    return {name: column for name, column in fields.items() if column} if unique and fields["text"] else {}


def _searches(table: Table) -> Iterator[Command]:
    if fields := _document_fields(table):
        query = " ".join(table.columns[fields.get("title", fields["text"])].example.split()[:2])
        command = Command("search these documents", ["search", "bm25", query, "--corpus", str(table.path)])
        for name, column in fields.items():
            command.map(name, column)
        yield command


def _is_number(text: str) -> bool:
    try:
        return len(text) < 40 and abs(float(text)) < float("inf")
    except ValueError:
        return False
