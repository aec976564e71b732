"""Plain data classes shared by all packages: records, documents, judgments, hits, evidence and dataset formats."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from searchlora.files.rows import RejectedRow as RejectedRow
from searchlora.files.rows import SourceRow as SourceRow

T = TypeVar("T")

#: One validated input row of a task: a JSON object with `id` and `group`.
Record: TypeAlias = Mapping[str, Any]

#: State of one search in a pipeline: `id`, `query`, and the fields that its stages added (`history`, `hits`, ...).
SearchContext: TypeAlias = Mapping[str, Any]

#: Options given to a reader as `--option key=value`.
Options: TypeAlias = Mapping[str, str]


def drawn(items: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most `count` items at random, in their order; all if `count` is None.

    The first rows of a split are often those of few groups, such as the passages of two queries.

    Examples:
        >>> drawn("abcdef", 3, seed=13)
        ['b', 'c', 'f']
        >>> drawn("ab", 3, seed=13)
        ['a', 'b']
    """
    if count is None or count >= len(items):
        return list(items)
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]


@dataclass(frozen=True)
class Document:
    """A document of a collection.

    Attributes:
        metadata: Further fields of the source, as text.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def searchable(self) -> str:
        """Title and text joined: the text that is indexed."""
        return f"{self.title} {self.text}" if self.title else self.text

    def field(self, name: str) -> str:
        """The text of a field: `title`, `text`, or one of the metadata; empty if the document does not have it."""
        return {"title": self.title, "text": self.text}.get(name, self.metadata.get(name, ""))


@dataclass(frozen=True)
class Judgment:
    """A line of a qrels file: the relevance grade of a document for a topic (the id of a record).

    Attributes:
        source: Who or what graded (`eval.judgments.sources.Source`); None: the reader does not know.
    """

    topic: str
    document: str
    grade: int
    source: Any = None


@dataclass(frozen=True)
class Hit:
    """A retrieved document.

    Attributes:
        document: Its id.
        score: Comparable within one ranking only.
        fetched: The document, if the search engine returned it with the hit.
    """

    document: str
    score: float
    fetched: Document | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class PassageSpan:
    """A part of a passage.

    Attributes:
        passage: Number of the passage, from 1.
        start, end: Of the part in the text of the passage, in characters.
    """

    passage: int
    start: int
    end: int


@dataclass(frozen=True)
class Evidence:
    """A sentence of an answer, and what supports it.

    Attributes:
        sentence: Without citation marks.
        citations: Numbers of the passages that it cites.
        supported: Whether a passage that it cites supports it, or, without citations, any passage; None where there
            is nothing to support.
        spans: Where cited passages support it; none in a passage that does so by its title.
        support: Whether the passage of each citation supports it by itself; None where there is nothing to support, or
            no such passage.
    """

    sentence: str
    citations: tuple[int, ...]
    supported: bool | None
    spans: tuple[PassageSpan, ...] = ()
    support: tuple[bool | None, ...] = ()


@dataclass(frozen=True)
class GradedTarget:
    """Training target of a record whose completion is a grade.

    Attributes:
        group: Rows of one group, such as the passages of a query, are ranked against each other.
        completions: The completion of each grade, shape (grades,).
        grades: Value of each grade in ascending order.
        shares: Share of the raters who gave each grade; they add up to 1, or are 0 for a record without a grade.
        teacher: Score of a teacher, comparable within the group; None: there is none.
        relevant: Number of grades below the lowest relevant one.

    Examples:
        >>> GradedTarget("q1", ("0", "1", "3"), (0.0, 1.0, 3.0), (0.0, 0.5, 0.5)).expected
        2.0
    """

    group: str
    completions: tuple[str, ...]
    grades: tuple[float, ...]
    shares: tuple[float, ...]
    teacher: float | None = None
    relevant: int = 1

    @property
    def expected(self) -> float:
        """The mean grade of the raters."""
        return math.fsum(grade * share for grade, share in zip(self.grades, self.shares, strict=True))


@dataclass(frozen=True)
class Collection:
    """Documents and judgments of a source, for evaluation by retrieval.

    Attributes:
        relevant: Smallest grade that counts as relevant in binary measures (MRR, Recall).
        judged_by: Card of the judgments (`eval.judgments.card.JudgmentsCard`), if the format knows who or what graded.
    """

    documents: Iterable[Document]
    judgments: Iterable[Judgment]
    relevant: int = 1
    judged_by: Any = None


@dataclass(frozen=True)
class Option:
    """An option of a format's reader, given as `--option NAME=VALUE`.

    Args:
        meaning: One phrase.
        type: What the value is: `text`, `file`, `column`, `yes or no`, a number with its bounds, or the allowed values.
        default: The default as it would be typed, or described; None: there is none.
        required: Whether the reader needs it.

    Examples:
        >>> print(Option("number of passages per row", "whole number ≥ 1", "5"))
        number of passages per row (whole number ≥ 1; default: 5)
        >>> print(Option("the documents of the log", "file", required=True))
        the documents of the log (file; required)
    """

    meaning: str
    type: str = "text"
    default: str | None = None
    required: bool = False

    def __str__(self) -> str:
        end = "; required" if self.required else "" if self.default is None else f"; default: {self.default}"
        return f"{self.meaning} ({self.type}{end})"


@dataclass(frozen=True)
class Format:
    """A public or native format of a task's source data.

    Args:
        name: Value of `--format`.
        description: One line for `searchlora data formats`.
        read: Yields rows lazily in file order; raises `RowError` only if the rest of the source cannot be read.
        collection: Returns the documents and judgments of the source; None if the format has none.
        options: Name -> `Option` of the reader; a plain description is taken as an option of text.
        sidecars: Names of files in the source folder that are copied into the dataset folder unchanged.
        passes: Number of times that `read` reads its source, for the estimate of the remaining time.
        implied: Returns options found in the source (such as a schema in its folder), from the source and the user's
            options, which override them.
        needs: Fields from `options` without which nothing is read, for `searchlora data inspect`.
        graded_by: Who or what graded every row and judgment (`eval.judgments.sources.Source`), where that is a property
            of the format, such as `clicks`; None: a card or the user says it.
        own_texts: Returns the documents and judgments of the accepted records, where the documents are texts in them.
            Each call of its argument yields all records.

    Examples:
        >>> own = Format("own", "our export", lambda path, options: iter(()), options={"language": "the one to keep"})
        >>> own.options["language"]
        Option(meaning='the one to keep', type='text', default=None, required=False)
    """

    name: str
    description: str
    read: Callable[[Path, Options], Iterator[SourceRow | RejectedRow | SourceReport]]
    collection: Callable[[Path, Options], Collection] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    sidecars: tuple[str, ...] = ()
    passes: int = 1
    implied: Callable[[Path, Options], Options] | None = None
    needs: tuple[str, ...] = ()
    own_texts: Callable[[Callable[[], Iterator[Record]]], Collection] | None = None
    graded_by: Any = None

    def __post_init__(self) -> None:
        options = {name: Option(o) if isinstance(o, str) else o for name, o in (self.options or {}).items()}
        object.__setattr__(self, "options", options)


@dataclass(frozen=True)
class SourceReport:
    """Report of a reader about a whole source.

    Attributes:
        rules: Its selection rules, as sentences.
        counts: What was counted -> the number of rows, such as those that a rule removed.
        notes: What a user should read after the build, one line each.
        files: Name -> text of files for the dataset folder, such as the agreement of raters.
        ratings: Rater -> topic -> document -> grade. The builder writes `qrels.RATER.txt` for each.
    """

    rules: tuple[str, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    ratings: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
