"""The tables of the results: each collection's methods with their costs, their differences, and the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import COSTS
from searchlora.eval.formatting import figure, markdown_table, p_value

#: Whether a claim is met -> the word in the table. None: the measurement shows neither.
_VERDICTS: Mapping[bool | None, str] = {True: "yes", False: "**no**", None: "not shown"}


def tables(
    rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]
) -> str:
    """Markdown.

    Args:
        rows: Figures with their `collection`; a collection's first measure is its quality.
        comparisons: Paired differences of quality, and ratios of inference times.
        claims: As the results file holds them.
    """
    parts = []
    for title in dict.fromkeys(row["collection"] for row in rows):
        own = [row for row in rows if row["collection"] == title]
        pairs = [pair for pair in comparisons if pair["collection"] == title]
        quality = own[0]["measure"]
        n = f"n = {own[0]['n']:,}; {quality} with its 95% interval."
        parts += [f"**{title}**: {n}", _methods(own, quality), _differences(pairs, quality), _times(pairs)]
    return "\n\n".join([*parts, _claims(claims)])


def _methods(rows: Sequence[Mapping[str, Any]], quality: str) -> str:
    cells = {(row["system"], row["measure"]): row for row in rows}
    lines = []
    for system in dict.fromkeys(row["system"] for row in rows):
        found = cells[system, quality]
        costs = [
            f"{row['value']:{form}}" if (row := cells.get((system, cost))) else "–" for cost, form in COSTS.items()
        ]
        lines.append([system, figure(found["value"], found["low"], found["high"]), *costs])
    return markdown_table(["", quality, *COSTS], lines)


def _differences(pairs: Sequence[Mapping[str, Any]], quality: str) -> str:
    lines = [
        [
            f"{pair['a']} − {pair['b']}",
            figure(pair["difference"], pair["low"], pair["high"], "+"),
            p_value(pair["p_corrected"]),
        ]
        for pair in pairs
        if pair["measure"] == quality
    ]
    return markdown_table([f"{quality}, paired", "difference", "p, corrected"], lines)


def _times(pairs: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            pair["a"],
            figure(pair["ratio"], pair["low"], pair["high"]),
            str(pair["n"]),
        ]
        for pair in pairs
        if pair["measure"] == "seconds"
    ]
    return markdown_table(["inference", "time, as a ratio to the base's, median", "repeats"], lines)


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    found: dict[str, dict[str, str]] = {}
    titles = list(dict.fromkeys(claim["collection"] for claim in claims))
    for claim in claims:
        found.setdefault(claim["claim"], {})[claim["collection"]] = f"{_VERDICTS[claim['met']]}: {claim['figure']}"
    lines = [[claim, *(by_title.get(title, "–") for title in titles)] for claim, by_title in found.items()]
    return markdown_table(["claim", *titles], lines, words=len(titles) + 1)
