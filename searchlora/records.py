"""The plain values that travel between the rooms of searchlora."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.files.rows import RejectedRow as RejectedRow
from searchlora.files.rows import SourceRow as SourceRow

#: One validated input row of a task: a JSON object with `id` and `group`.
Record: TypeAlias = Mapping[str, Any]

#: What a pipeline knows of one search so far: `id`, `query`, and whatever its stages added (`history`, `hits`, ...).
SearchContext: TypeAlias = Mapping[str, Any]

#: Options given to a reader as `--option key=value`.
Options: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Document:
    """A thing that can be found."""

    id: str
    text: str
    title: str = ""

    @property
    def searchable(self) -> str:
        """Title and text as one, the text that an index sees."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True)
class Judgment:
    """A line of a qrels file: how relevant a document is for a topic (a record's id)."""

    topic: str
    document: str
    grade: int


@dataclass(frozen=True)
class Hit:
    """A retrieved document; `score` is comparable within one ranking only."""

    document: str
    score: float


@dataclass(frozen=True)
class Collection:
    """Documents and judgments that come with a source and let its records be evaluated by retrieval.

    `relevant` is the grade from which on a document counts as relevant in binary measures (MRR, Recall). `judged_by`
    is the card (`eval.judgments.card.JudgmentsCard`) that says who judged, where that was not people.
    """

    documents: Iterable[Document]
    judgments: Iterable[Judgment]
    relevant: int = 1
    judged_by: Any = None


@dataclass(frozen=True)
class Format:
    """A public or native format of a task's source data.

    Args:
        name: As given to `--format`.
        description: One line for `searchlora data formats`.
        read: Yields rows in file order, lazily; raises `RowError` only for what makes the rest unreadable.
        collection: Documents and judgments found in the same source, where there are any.
        options: Name -> meaning of each `--option` that the reader understands.
        sidecars: Names of further files in the source folder that go into the dataset folder as they are.
        passes: How often `read` goes through its source, for the estimate of the time left.
        implied: Options that a source brings along (a schema that lies in its folder), unless the user gives others.
    """

    name: str
    description: str
    read: Callable[[Path, Options], Iterator[SourceRow | RejectedRow | SourceReport]]
    collection: Callable[[Path, Options], Collection] | None = None
    options: Mapping[str, str] | None = None
    sidecars: tuple[str, ...] = ()
    passes: int = 1
    implied: Callable[[Path], Options] | None = None


@dataclass(frozen=True)
class SourceReport:
    """What a reader has to say of a whole source: the rules by which it chose rows, and how many fell to each."""

    rules: tuple[str, ...]
    counts: Mapping[str, int]
