"""Sources of grades: who or what gave those of a file.

`human` is only what a card or a user declares. Without a declaration the source is `unknown`, which is a source of its
own: nothing is derived from names, columns or values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from searchlora.errors import UsageError

#: `mixed`: of people and of others, not known which; `synthetic`: by a rule, as of generated data.
Source: TypeAlias = Literal["human", "llm", "clicks", "mixed", "synthetic", "unknown"]

SOURCES: tuple[Source, ...] = get_args(Source)
UNKNOWN: Source = "unknown"

_WITH_HUMAN = {"human", "llm", "clicks", "mixed"}


@dataclass(frozen=True)
class SourceCounts:
    """Numbers of grades by source.

    Examples:
        >>> print(SourceCounts({"human": 12, "llm": 3}))
        12 human, 3 llm
    """

    counts: Mapping[Source, int]

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
        """The grades that are of no accepted source, in words; empty: there are none."""
        others = {source: number for source, number in self.counts.items() if source not in set(accepted)}
        return str(SourceCounts(others)) if others else ""

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
