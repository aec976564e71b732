"""Commands that build from a file, proposed from its columns and the files beside it.

Formats say which fields they need (`Format.needs`). Columns are matched to fields by their names; the names that people
commonly give to a field are listed in `NAMES`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.data.inspection.profiling import Column, Profile, column_values, is_table, readable_rows
from searchlora.errors import DataError
from searchlora.files.yaml_text import parse_yaml
from searchlora.records import Format
from searchlora.task import Task

_TABLE: Mapping[str, Any] = parse_yaml((Path(__file__).parent / "names.yaml").read_text(encoding="utf-8"))

#: Field -> names of columns that commonly hold it, likeliest first; and those that hold the text of a document.
NAMES: Mapping[str, Sequence[str]] = _TABLE["names"]
_BODY: Sequence[str] = _TABLE["body"]

#: Fields that are read if their columns are there.
_OPTIONAL = ("document", "passage", "title", "rater", "topic", "section", "negative", "user")

_RATER = re.compile(r"(^|_)(rater|rating|grade|judge|agent|annotator|assessor)s?(_|\d|$)")
_MERGED = re.compile(r"final|majority|mean|median|average|avg|gold|consensus")

#: Grades as words -> their numbers on the scale 0 to 3.
_WORDS: Mapping[str, int] = {word: grade for grade, words in _TABLE["words"].items() for word in words}
_ESCI = ({"e", "s", "c", "i"}, {"exact", "substitute", "complement", "irrelevant"})
_SCALE = (0, 1, 2, 3)
_LONG_GRADE = 10  # characters of a number that is no grade
_HIGHEST_RATING = 10  # of ratings with many values, such as means

_ENOUGH = 0.3  # share of the judged documents that a file holds, to be taken for their corpus
_MOST = 0.5  # share of the rows in which a column of texts is filled


@dataclass(frozen=True)
class Command:
    """A command line that reads the file.

    Attributes:
        purpose: What it does, one phrase.
        arguments: The words after `searchlora`.
        notes: What to know before it is run; a command with a missing part names it here.
        complete: Whether it runs as it is.
    """

    purpose: str
    arguments: tuple[str, ...]
    notes: tuple[str, ...] = ()
    complete: bool = True

    def __str__(self) -> str:
        return shlex.join(["searchlora", *self.arguments])


@dataclass
class _Parts:
    """Options of a command that are found one after another."""

    options: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True

    def map(self, name: str, *columns: str) -> None:
        if columns != (name,):
            self.options += ["--map", f"{name}={','.join(columns)}"]


#: A file of documents beside another: its path, field -> column, and how many of the other's documents it holds.
_Corpus: TypeAlias = tuple[Path, dict[str, str], int]


def propose(found: Profile, tasks: Sequence[Task]) -> list[Command]:
    """The commands that build from a file or use it, likeliest first.

    Args:
        found: The profile of the file.
        tasks: The tasks whose formats are considered.
    """
    commands: list[Command] = []
    if found.kind == "table":
        documents = cache(partial(_documents_beside, found.path))
        builds = (_from_columns(found, task, format, documents) for task in tasks for format in task.formats.values())
        commands += [command for command in builds if command is not None]
        if found.encoding is None and (corpus := _corpus_columns(found)) is not None:
            commands.append(_search(found, corpus))
    elif found.kind in ("qrels", "run", "topics") and not found.faulty:
        name = found.path.name.removesuffix(".gz").rpartition(".")[0] or found.path.name
        arguments = ("convert", found.kind, str(found.path), f"{name}.jsonl")
        commands.append(Command(f"convert the {found.kind} to JSON Lines", arguments))
    return commands


def _from_columns(
    found: Profile, task: Task, format: Format, documents: Callable[[str], tuple[_Corpus | None, int]]
) -> Command | None:
    """A build from columns that hold what a format needs."""
    if not format.needs or (columns := _matched(found, format)) is None:
        return None
    parts = _Parts()
    for name in (*format.needs, *(name for name in _OPTIONAL if name not in format.needs)):
        if name in columns:
            parts.map(name, *columns[name])
    if "grade" in columns:
        _add_grades(found, columns["grade"], format, parts)
    if {"corpus", "grade_map"} <= set(format.options) and not columns.keys() & {"passage", "title"}:
        _add_documents(columns.get("document", ("",))[0], documents, parts)
    for name, option in format.options.items():
        if option.required and name not in format.needs:
            parts.options += ["--option", f"{name}=VALUE"]
            parts.notes.append(f"give the option {name}: {option.meaning}")
            parts.complete = False
    if found.encoding is not None:
        parts.options += ["--encoding", found.encoding]
        parts.notes.append(f"the text is not UTF-8: check that letters with accents are right in {found.encoding}")
    arguments = ("data", "build", task.name, str(found.path), "--format", format.name, *parts.options)
    purpose = f"dataset of the task {task.name}: {format.description}"
    return Command(purpose, (*arguments, "--out", f"data/{task.name}"), tuple(parts.notes), parts.complete)


def _matched(found: Profile, format: Format) -> dict[str, tuple[str, ...]] | None:
    """Field -> its columns; None if a field that the format needs has none."""
    columns: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for name in (*format.needs, *(name for name in _OPTIONAL if name in format.options)):
        if name in columns:
            continue
        names = _raters(found) if name == "grade" else ()
        if not names and (one := _column(found, name, used)) is not None:
            names = (one.name,)
        if names:
            columns[name] = names
            used.update(names)
        elif name in format.needs:
            return None
    # A table of queries and classes is no table of judgments.
    judged = "grade" not in format.needs or columns.keys() & {"document", "passage", "title"}
    return columns if judged else None


def _column(found: Profile, field_name: str, used: set[str]) -> Column | None:
    """The column that holds a field, by its name and contents."""
    free = {column.name: column for column in found.columns.values() if column.name not in used}
    least = _MOST * found.rows if field_name in ("passage", "title") else 0
    fitting = [name for name, column in free.items() if _fits(column, field_name) and column.filled >= least]
    name = _named(fitting, NAMES.get(field_name, (field_name,)), endings=field_name in ("passage", "title"))
    return None if name is None else free[name]


def _fits(column: Column, field_name: str) -> bool:
    if field_name == "grade" and column.type == "number" and 0 <= column.low < column.high <= _HIGHEST_RATING:
        return True
    if field_name in ("grade", "clicked"):
        return bool(column.values) and column.type in ("number", "text", "yes or no")
    if field_name in ("query", "rewrite", "text", "question", "answer", "positive"):
        return column.filled > 0 and column.type in ("text", "number")
    return column.filled > 0


def _raters(found: Profile) -> tuple[str, ...]:
    """Columns with the grades of several raters; none if there are fewer than two."""
    names = [
        column.name
        for column in found.columns.values()
        if _RATER.search(_plain(column.name)) and not _MERGED.search(_plain(column.name)) and _fits(column, "grade")
    ]
    return tuple(names) if len(names) > 1 else ()


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _add_grades(found: Profile, columns: Sequence[str], format: Format, parts: _Parts) -> None:
    """Numbers for grades that are words, have decimals, or are of another scale than the format's."""
    values = {value.removesuffix(".0") for name in columns for value in found.columns[name].values}
    folds = "grades" in format.options  # the grades are mapped to the scale 0 to 3
    if folds and len(values) == 1:
        parts.notes.append("all rows have one grade: a judge would learn to repeat it, and the build refuses")
    whole = all(value.removeprefix("-").isdecimal() and len(value) < _LONG_GRADE for value in values)
    if whole and values and (not folds or (values <= set(map(str, _SCALE)) and not values <= {"0", "1"})):
        return
    if any(found.columns[name].type == "number" for name in columns) and not (whole and values):
        _add_thresholds([found.columns[name] for name in columns], format, folds, parts)
        return
    lower = {value.lower() for value in values}
    if whole:
        numbers = (
            {value: (3 if value == "1" else 0) for value in values} if values <= {"0", "1"} else _stretched(values)
        )
        if not values <= {"0", "1"}:
            parts.notes.append("check --grades: the source's grades are spread evenly over 0 to 3")
    elif all(value in _WORDS for value in lower):
        numbers = {value: _WORDS[value.lower()] for value in values}
    else:
        parts.notes.append("say in --grades which number each grade has")
        parts.complete = False
        parts.options += ["--grades", ",".join(f"{value}=NUMBER" for value in sorted(values)[:10])]
        return
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    parts.options += ["--grades", ",".join(f"{value}={number}" for value, number in ordered)]
    if folds and len(set(numbers.values())) == 2:
        parts.options += ["--option", "grades=2"]
    elif folds and lower in _ESCI:
        parts.options += ["--option", "guideline=products"]


def _add_thresholds(columns: Sequence[Column], format: Format, folds: bool, parts: _Parts) -> None:
    """Thresholds for ratings with decimals, such as means: ratings are rounded, or spread over the scale 0 to 3."""
    low, high = min(column.low for column in columns), max(column.high for column in columns)
    text = f"{low:g} to {high:g}"
    if "thresholds" not in format.options:
        parts.notes.append("grades are whole numbers: turn the ratings into grades")
        parts.complete = False
        return
    if low >= 0 and 1 < high <= (_SCALE[-1] if folds else _HIGHEST_RATING):
        low, width = 0.0, 1.0
        most = round(high)
    else:
        most, width = _SCALE[-1], (high - low) / _SCALE[-1] or 1.0
    thresholds = [low + width * (grade - 0.5) for grade in range(1, most + 1)]
    parts.options += ["--thresholds", ",".join(f"{threshold:g}" for threshold in thresholds)]
    parts.notes.append(f"check --thresholds: they make the ratings, {text}, grades 0 to {most}")


def _stretched(values: set[str]) -> dict[str, int]:
    lowest, highest = min(map(int, values)), max(map(int, values))
    width = max(1, highest - lowest)
    return {value: round((int(value) - lowest) / width * _SCALE[-1]) for value in values}


def _add_documents(key: str, documents: Callable[[str], tuple[_Corpus | None, int]], parts: _Parts) -> None:
    """The options that give the texts of judged documents, where the file has their ids only, in the column `key`."""
    corpus, judged = documents(key)
    if corpus is None:
        parts.options += ["--corpus", "FILE"]
        parts.notes.append("give the file of the documents, which is not beside this one: --corpus FILE")
        parts.complete = False
        return
    path, fields, known = corpus
    parts.options += ["--corpus", str(path)]
    for name, column in fields.items():
        if column != name:
            parts.options += ["--map", f"corpus.{name}={column}"]
    if known < judged:
        parts.options.append("--allow-rejects")
        missing = f"{judged - known:,} of the {judged:,} judged documents are not in {path.name}"
        parts.notes.append(f"{missing}; their rows are rejected")


def _documents_beside(path: Path, column: str) -> tuple[_Corpus | None, int]:
    """The file beside `path` with most of the documents that a column names, and the number of these documents."""
    ids = column_values(path, column) if column and path.is_file() else set()
    best: _Corpus | None = None
    for sibling in sorted(path.parent.iterdir()):
        if sibling == path or not sibling.is_file() or not _is_readable_table(sibling):
            continue
        row = next(readable_rows(sibling), {})
        name, texts = _named(row, NAMES["id"]), _texts(row)
        if name is None or texts is None:
            continue
        known = len(ids & column_values(sibling, name))
        if known > (best[2] if best else _ENOUGH * len(ids)):
            best = sibling, {"id": name, **texts}, known
    return best, len(ids)


def _is_readable_table(path: Path) -> bool:
    try:
        return is_table(path)
    except DataError:
        return False


def _named(names: Iterable[str], wanted: Sequence[str], *, endings: bool = True) -> str | None:
    """The first name that is one of the wanted, or else ends in one ("short_description")."""
    plain = {_plain(name): name for name in names}
    exact = next((plain[want] for want in wanted if want in plain), None)
    if exact is not None or not endings:
        return exact
    return next((name for want in wanted for key, name in plain.items() if key.endswith(f"_{want}")), None)


def _texts(names: Iterable[str]) -> dict[str, str] | None:
    """The columns with the title and the text of documents; None if there is none."""
    names = list(names)
    body, title = _named(names, _BODY), _named(names, NAMES["title"])
    if body is None:
        return None if title is None else {"text": title}
    return {"text": body} if title is None else {"title": title, "text": body}


def _corpus_columns(found: Profile) -> dict[str, str] | None:
    """Field -> column of a table that is a collection of documents; None if it is none."""
    columns = found.columns.values()
    unique = [column.name for column in columns if column.filled == column.distinct == found.rows]
    texts = _texts(column.name for column in columns if column.type == "text" and column.filled >= _MOST * found.rows)
    name = _named(unique, NAMES["id"])
    return None if name is None or texts is None or found.rows < 2 else {"id": name, **texts}


def _search(found: Profile, fields: Mapping[str, str]) -> Command:
    words = found.columns[fields.get("title", fields["text"])].example.rstrip("…").split()
    parts = _Parts()
    for name, column in fields.items():
        parts.map(name, column)
    query = " ".join(words[:2])
    arguments = ("search", "bm25", query, "--corpus", str(found.path), *parts.options)
    return Command("search these documents", arguments)
