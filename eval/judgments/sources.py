"""Sources of grades: who or what gave each of them.

`human` is only what a card or a user declares. Without a declaration the source is `unknown`, which is a source of its
own: nothing is derived from names, columns or values.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeAlias, get_args

from searchlora.errors import DataError, UsageError
from searchlora.files import atomic_text, numbered_lines, parse_json

#: `mixed`: of people and of others, not known which; `synthetic`: by a rule, as of generated data.
Source: TypeAlias = Literal["human", "llm", "clicks", "mixed", "synthetic", "unknown"]

SOURCES: tuple[Source, ...] = get_args(Source)
UNKNOWN: Source = "unknown"

#: Identifies a grade: the topic and the document of a qrels file, or the id of a record.
Key: TypeAlias = tuple[str, ...]

_AGAIN = "Write the file and its card again."
_WITH_HUMAN = {"human", "llm", "clicks", "mixed"}


@dataclass(frozen=True)
class GradeSources:
    """The source of each grade of a file or a dataset.

    Attributes:
        all: The source of every grade; None: see `each`.
        each: Key of a grade -> its source. A grade without one is of unknown source.
    """

    all: Source | None = UNKNOWN
    each: Mapping[Key, Source] = field(default_factory=dict)

    def of(self, *key: str) -> Source:
        """The source of a grade."""
        return self.all or self.each.get(key, UNKNOWN)

    @property
    def whole(self) -> Source:
        """One source for all grades together."""
        return self.all or merged_source(self.each.values()) or UNKNOWN

    def count(self, keys: Iterable[Key]) -> SourceCounts:
        """The numbers of grades by source."""
        counts: Counter[Source] = Counter()
        examples: dict[Source, Key] = {}
        for key in keys:
            source = self.of(*key)
            counts[source] += 1
            examples.setdefault(source, key)
        return SourceCounts(dict(sorted(counts.items())), examples)


@dataclass(frozen=True)
class SourceCounts:
    """Numbers of grades by source, and the key of the first grade of each.

    Examples:
        >>> print(SourceCounts({"human": 12, "llm": 3}))
        12 human, 3 llm
    """

    counts: Mapping[Source, int]
    examples: Mapping[Source, Key] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The source of all grades in a word.

        Grades of people beside those of a judge or of clicks are `mixed`. One grade of unknown source makes the whole
        unknown. Other combinations have no word of their own and are named as they are, such as `clicks and llm`.

        Examples:
            >>> [SourceCounts(dict.fromkeys(each, 1)).source for each in (["llm"], ["human", "llm"], ["clicks", "llm"])]
            ['llm', 'mixed', 'clicks and llm']
        """
        found = set(self.counts)
        if not found or UNKNOWN in found:
            return UNKNOWN
        if len(found) > 1 and found & {"human", "mixed"} and found <= _WITH_HUMAN:
            return "mixed"
        return " and ".join(sorted(found))

    def outside(self, accepted: Iterable[str]) -> str:
        """The grades that are of no accepted source, in words, with the first of each source; empty: there are none."""
        others = [source for source in self.counts if source not in set(accepted)]
        return ", ".join(
            f"{self.counts[source]:,} {source} (the first: {_named(self.examples[source])})" for source in others
        )

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {source}" for source, number in self.counts.items()) or "no grade"


def merged_source(sources: Iterable[Source | None]) -> Source | None:
    """The source of grades that become one; None if none of them is known.

    Examples:
        >>> merged_source(["human", "human"]), merged_source(["human", "llm"]), merged_source(["human", None])
        ('human', 'mixed', 'unknown')
    """
    found = set(sources)
    if found <= {None}:
        return None
    word = SourceCounts({source or UNKNOWN: 1 for source in found}).source
    return next((source for source in SOURCES if source == word), UNKNOWN)


def check_source(name: str, where: str) -> Source:
    """A source that a user named. Raises `UsageError` for another word."""
    for source in SOURCES:
        if source == name:
            return source
    raise UsageError(f"'{name}' is no source of judgments", where=where, fix=f"Allowed: {', '.join(SOURCES)}.")


def sources_path(path: str | Path) -> Path:
    """The file beside a qrels file with the source of each grade, where there are several."""
    return Path(f"{path}.sources.jsonl")


class SourceWriter:
    """Writes the source of each grade while grades are written; `open_sources` opens one.

    A line is a JSON list: the key of a grade and its source.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._counts: Counter[Source] = Counter()

    def add(self, key: Key, source: Source) -> None:
        """Add a grade."""
        self._counts[source] += 1
        self._file.write(json.dumps([*key, source], ensure_ascii=False) + "\n")

    @property
    def counts(self) -> SourceCounts:
        """The numbers of grades until now."""
        return SourceCounts(dict(sorted(self._counts.items())))


@contextmanager
def open_sources(path: Path) -> Iterator[SourceWriter]:
    """A writer of `path`. Raises `DataError` if it cannot be written."""
    with atomic_text(path) as file:
        yield SourceWriter(file)


def write_source(path: Path, source: Source) -> None:
    """Write a file that says that every grade has this source. Raises `DataError`."""
    with atomic_text(path) as file:
        file.write(json.dumps([source]) + "\n")


def read_sources(path: Path) -> GradeSources:
    """Read a file of sources: a line for each grade, or a single line for all. Raises `DataError` naming the line."""
    each: dict[Key, Source] = {}
    everywhere: Source | None = None
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            values = parse_json(line)
        except ValueError:
            values = None
        if not (isinstance(values, list) and values and all(isinstance(value, str) for value in values)):
            raise DataError("is not a list of texts", where=where, fix=_AGAIN)
        *key, name = values
        if name not in SOURCES:
            raise DataError(f"'{name}' is no source of judgments", where=where, fix=f"Allowed: {', '.join(SOURCES)}.")
        if everywhere is not None or (each and not key):
            raise DataError("a source for all grades is not alone in the file", where=where, fix=_AGAIN)
        if key:
            each[tuple(key)] = name
        else:
            everywhere = name
    return GradeSources(everywhere, each)


def _named(key: Key) -> str:
    return f"topic {key[0]}, document {key[1]}" if len(key) > 1 else f"record {key[0]}"
