"""Writing the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.compare import Comparison, Pair, Row
from searchlora.eval.files import atomic_text
from searchlora.eval.report.details import Detail, extremes
from searchlora.eval.report.plots import difference_plot, interval_plot
from searchlora.eval.report.words import summary
from searchlora.eval.tables import chance, interval

#: Documents shown per answer.
_FOUND = 3


def write_report(
    path: str | Path,
    title: str,
    comparison: Comparison,
    details: Mapping[str, Detail],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
    examples: int = 5,
) -> Path:
    """Write a comparison as one HTML file without any outside part, at once or not at all.

    Args:
        details: row id -> its texts; only the rows with the biggest wins and losses are shown, those without texts
            are passed over. `extremes` names them, for a caller who does not want to make all.
        provenance: What the figures were made from and with, label -> value, in the order shown.
        introduction: A plain sentence or two on what was compared, shown below the title.
        examples: How many wins and how many losses are shown for each system set against.

    Raises:
        DataError: when the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    # Everything is escaped but the plots, which are ours.
    environment = Environment(
        loader=PackageLoader("searchlora.eval.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"chance": chance, "interval": interval}
    page = environment.get_template("report.html.jinja").render(
        title=title,
        introduction=introduction,
        comparison=comparison,
        summary=summary(comparison),
        table=_table(comparison),
        n=_common_n(comparison),
        pairs=_pairs(comparison),
        plot=interval_plot(comparison),
        differences=[(a, b, difference_plot(comparison, a, b)) for a, b in comparison.met],
        slices=_slices(comparison),
        examples=_examples(comparison, details, examples),
        invalid=_invalid(comparison),
        totals=_totals(comparison),
        provenance=provenance,
        found=_FOUND,
        correction={"holm": "Holm", "bh": "Benjamini–Hochberg"}[comparison.correction],
    )
    with atomic_text(Path(path)) as out:
        out.write(page)
    return Path(path)


def _table(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    return [(system, [comparison.row(system, m) for m in comparison.measures]) for system in comparison.systems]


def _common_n(comparison: Comparison) -> int | None:
    """The number of rows where all measures have the same; it then stands in one column."""
    counts = {row.n for row in comparison.rows}
    return counts.pop() if len(counts) == 1 else None


def _pairs(comparison: Comparison) -> list[tuple[str, list[Pair]]]:
    return [
        (measure, [pair for pair in comparison.comparisons if pair.measure == measure])
        for measure in comparison.measures
    ]


def _slices(comparison: Comparison) -> list[tuple[str, float, list[tuple[str, list[Row]]]]]:
    """slice, its greatest mean, and its values with a row of each system, in the headline measure."""
    tables: dict[str, dict[str, list[Row]]] = {}
    for each in comparison.slices:
        if each.row.measure == comparison.measures[0]:
            tables.setdefault(each.slice, {}).setdefault(each.value, []).append(each.row)
    return [
        (name, max(row.value for rows in values.values() for row in rows), list(values.items()))
        for name, values in tables.items()
    ]


def _examples(comparison: Comparison, details: Mapping[str, Detail], count: int) -> list[dict[str, Any]]:
    shown = []
    for a, b in comparison.met:
        wins, losses = extremes(comparison, a, b, count)
        groups = [
            (heading, _cards(comparison, details, rows))
            for heading, rows in (("Biggest wins", wins), ("Biggest losses", losses))
        ]
        if any(cards for _, cards in groups):
            shown.append({"a": a, "b": b, "groups": groups})
    return shown


def _cards(comparison: Comparison, details: Mapping[str, Detail], rows: Sequence[str]) -> list[dict[str, Any]]:
    values = comparison.values[comparison.measures[0]]
    return [
        {"id": row, "detail": details[row], "values": {system: values[system][row] for system in comparison.systems}}
        for row in rows
        if row in details
    ]


def _invalid(comparison: Comparison) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """system, how many of its outputs did not parse, and the reasons, most frequent first."""
    table = []
    for system in comparison.systems:
        reasons: dict[str, int] = {}
        for reason in comparison.invalid[system].values():
            reasons[reason] = reasons.get(reason, 0) + 1
        table.append((system, sum(reasons.values()), sorted(reasons.items(), key=lambda item: -item[1])[:5]))
    return table


def _totals(comparison: Comparison) -> list[tuple[str, list[float | None]]]:
    names = dict.fromkeys(name for totals in comparison.totals.values() for name in totals)
    return [(name, [comparison.totals[system].get(name) for system in comparison.systems]) for name in names]
