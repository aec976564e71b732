"""The biggest wins and losses, the documents of the two systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.comparison import Comparison
from searchlora.eval.report.details import SHOWN_DOCUMENTS, Detail, extremes
from searchlora.eval.report.page import Section

#: With more pairs than this, each is folded and shows fewer rows.
_MANY, _FEWER = 5, 2


def examples_section(comparison: Comparison, details: Mapping[str, Detail], count: int) -> Section | None:
    """For each pair that is looked at first, so many wins and losses; rows without texts are passed over."""
    if comparison.row_measure is None:
        return None
    many = len(comparison.main_pairs) > _MANY
    blocks = []
    for a, b in comparison.main_pairs:
        wins, losses = extremes(comparison, a, b, min(count, _FEWER) if many else count)
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
        "examples", "Wins and losses", "examples", {"blocks": blocks, "folded": many},
        f"The rows on which {comparison.row_measure} of two systems differs most.",
    )  # fmt: skip


def _cards(
    comparison: Comparison, details: Mapping[str, Detail], rows: Sequence[str], systems: tuple[str, str]
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


def _side(comparison: Comparison, detail: Detail, row: str, system: str) -> dict[str, Any]:
    answer = detail.answers.get(system)
    return {
        "name": comparison.label(system),
        "ours": system == comparison.candidate,
        "value": comparison.values[str(comparison.row_measure)][system][row],
        "output": answer.output if answer is not None else "",
        "found": answer.found[:SHOWN_DOCUMENTS] if answer is not None else (),
        "invalid": comparison.invalid.get(system, {}).get(row),
    }
