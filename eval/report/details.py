"""The texts behind the figures, given by whoever ran the systems, and the choice of rows worth showing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from searchlora.eval.comparison import Comparison

#: Documents of each system that the report shows of a row.
SHOWN_DOCUMENTS = 5


@dataclass(frozen=True)
class Found:
    """A document that a system found, and how relevant it is (None: not judged)."""

    document: str
    title: str = ""
    grade: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one system did with one row.

    Args:
        output: Its output, or the raw text of one that did not parse.
        found: The first documents that it found, best first; `SHOWN_DOCUMENTS` of them are shown.
    """

    output: str
    found: tuple[Found, ...] = ()


@dataclass(frozen=True)
class Detail:
    """One row as a reader wants to see it.

    Args:
        query: The input, as short as it can be understood; line breaks are kept.
        answers: system -> what it did.
        reference: The output that was wanted, where there is one.
    """

    query: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    reference: str | None = None


def extremes(comparison: Comparison, a: str, b: str, count: int = 5) -> tuple[list[str], list[str]]:
    """Row ids of the biggest wins and of the biggest losses of system a against system b.

    They are those of the headline, or, where it has no value per row, of the first measure that has.

    Args:
        a, b: Two systems, for example one of `Comparison.main_pairs`.
        count: At most so many of each; rows without a difference are neither.
    """
    differences = comparison.gains(a, b) if comparison.row_measure is not None else {}
    order = sorted(differences, key=lambda row: differences[row], reverse=True)
    wins = [row for row in order[:count] if differences[row] > 0]
    losses = [row for row in reversed(order[-count:]) if differences[row] < 0]
    return wins, losses
