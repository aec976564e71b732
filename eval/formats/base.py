"""Description of a file format: how its files are recognised, and how qrels, runs and topics are read.

A format module describes its format as data, a `Format` with up to three forms; the package does the rest.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from searchlora.files import Head, open_bytes, parse_json, strict
from searchlora.files.rows import delimited_rows, json_lines

#: topic id -> its fields: `query`, and any other, as text or a number
Topics: TypeAlias = Mapping[str, Mapping[str, str | float]]

Kind: TypeAlias = Literal["qrels", "run", "topics"]


class TripleRow(NamedTuple):
    """A judgment or a ranked document as read, not yet validated; `where` is the file and the place in it."""

    where: str
    topic: object
    document: object
    value: object


class TopicRow(NamedTuple):
    """A topic as read, not yet validated."""

    where: str
    topic: object
    fields: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Form:
    """The files of one kind (qrels, run or topics) in a format.

    Attributes:
        shape: Description of a row, for messages.
        recognises: Whether the head of a file has this form.
        read: The rows of a file of qrels or topics, as `TripleRow` or `TopicRow`; a run as topic -> document -> score.
        suffixes: File name suffixes that select this form if the head does not; `""` is a name without a suffix.
        by_query: Whether a file identifies a topic by the text of its query, not by an id.
    """

    shape: str
    recognises: Callable[[Head], bool]
    read: Callable[[Path], Any]
    suffixes: tuple[str, ...] = ()
    by_query: bool = False


@dataclass(frozen=True, kw_only=True)
class Format:
    """A named format and its forms."""

    name: str
    qrels: Form | None = None
    run: Form | None = None
    topics: Form | None = None


def json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON Lines file, each with its place."""
    with open_bytes(path) as file:
        for row in strict(json_lines(file, str(path))):
            yield row.where, row.data


def table_rows(
    path: Path, delimiter: str, required: Sequence[str], *, quoted: bool = True
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The rows of a table with a header as column -> field, each with its place.

    Args:
        quoted: Fields may be quoted, as in CSV; else a quote is a character like any other.
    """
    with open_bytes(path) as file:
        for row in strict(delimited_rows(file, str(path), required, delimiter, quoted=quoted)):
            yield row.where, row.data


def has_keys(head: Head, *keys: str) -> bool:
    """Whether the first line of a file is a JSON object with these keys."""
    try:
        row = parse_json(head.line)
    except ValueError:
        return False
    return isinstance(row, dict) and all(key in row for key in keys)


def first_fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line of a table; empty if it cannot be parsed."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
