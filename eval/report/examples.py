"""Wins and losses: the rows with the largest differences, with the documents of both systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchlora.eval.comparison import Comparison
from searchlora.eval.report.blocks import Section

#: Number of documents of each system shown for a row.
SHOWN_DOCUMENTS = 5


@dataclass(frozen=True)
class RetrievedDocument:
    """A retrieved document and its grade (None: not judged)."""

    document: str
    title: str = ""
    grade: int | None = None


@dataclass(frozen=True)
class SystemOutput:
    """The output of a system for a row (the raw text of one that did not parse), and its documents, best first."""

    output: str
    documents: tuple[RetrievedDocument, ...] = ()


@dataclass(frozen=True)
class RowTexts:
    """The texts of one row: its input, the answer of each system, and the reference output, if there is one."""

    query: str
    answers: Mapping[str, SystemOutput] = field(default_factory=dict)
    reference: str | None = None


def extremes(comparison: Comparison, a: str, b: str, count: int = 5) -> tuple[list[str], list[str]]:
    """Row ids of the `count` largest wins and losses of system a against b, in the comparison's `row_measure`."""
    differences = comparison.gains(a, b) if comparison.row_measure is not None else {}
    order = sorted(differences, key=lambda row: differences[row], reverse=True)
    wins = [row for row in order[:count] if differences[row] > 0]
    losses = [row for row in reversed(order[-count:]) if differences[row] < 0]
    return wins, losses


#: Wins, and losses, shown for each pair; with more pairs than `_MANY`, each is folded and shows fewer rows.
_ROWS, _MANY, _FEWER = 5, 5, 2


def examples_section(comparison: Comparison, details: Mapping[str, RowTexts]) -> Section | None:
    """For each main pair a few wins and losses; rows without texts are skipped."""
    if comparison.row_measure is None:
        return None
    many = len(comparison.main_pairs) > _MANY
    blocks = []
    for a, b in comparison.main_pairs:
        wins, losses = extremes(comparison, a, b, _FEWER if many else _ROWS)
        groups = [
            (heading, _cards(comparison, details, rows, (a, b)))
            for heading, rows in (("Biggest wins", wins), ("Biggest losses", losses))
        ]
        if any(cards for _, cards in groups):
            title = f"{comparison.label(a)} against {comparison.label(b)}"
            blocks.append({"title": title, "groups": [(heading, cards) for heading, cards in groups if cards]})
    if not blocks:
        return None
    return Section(
        "examples",
        "Wins and losses",
        lead=f"The rows on which {comparison.row_measure} of two systems differs most.",
        macro="examples",
        content={"blocks": blocks, "folded": many},
    )


def _cards(
    comparison: Comparison, details: Mapping[str, RowTexts], rows: Sequence[str], systems: tuple[str, str]
) -> list[dict[str, Any]]:
    values, gains = comparison.values[str(comparison.row_measure)], comparison.gains(*systems)
    return [
        {
            "id": row,
            "query": details[row].query,
            "reference": details[row].reference,
            "difference": values[systems[0]][row] - values[systems[1]][row],
            "better": gains[row] > 0,
            "sides": [_side(comparison, details[row], row, system) for system in systems],
        }
        for row in rows
        if row in details
    ]


def _side(comparison: Comparison, detail: RowTexts, row: str, system: str) -> dict[str, Any]:
    answer = detail.answers.get(system)
    return {
        "name": comparison.label(system),
        "ours": system == comparison.candidate,
        "value": comparison.values[str(comparison.row_measure)][system][row],
        "output": answer.output if answer is not None else "",
        "documents": answer.documents[:SHOWN_DOCUMENTS] if answer is not None else (),
        "invalid": comparison.invalid.get(system, {}).get(row),
    }
