"""Sections of a comparison report with its figures; a section without content is None."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from searchlora.eval.comparison import Comparison, PairedComparison, SystemScore, WeightedPair
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.page import Section
from searchlora.eval.report.plots import difference_plot, interval_plot
from searchlora.eval.significance import CORRECTION_NAMES, LEVEL
from searchlora.eval.unjudged import AS_BEST, CONDENSED

#: Greatest number of plots that are not folded.
_OPEN = 4


def rules_section(results: Sequence[RuleResult], forced: str) -> Section | None:
    """The rules of the policy with their results."""
    return Section("policy", "Policy", "comparison.policy", {"results": results, "forced": forced}) if results else None


def systems_section(comparison: Comparison) -> Section:
    """Figures with intervals, as a table and as plots."""
    systems = [
        {
            "name": comparison.label(system),
            "role": _role(comparison, system),
            "ours": system == comparison.candidate,
            "rows": [comparison.find(system, measure) for measure in comparison.measures],
            "invalid": len(comparison.invalid.get(system, {})),
            "answered": comparison.answered[system],
        }
        for system in comparison.systems
    ]
    content = {
        "measures": comparison.measures,
        "systems": systems,
        "n": _common_n(comparison.rows),
        "groups": comparison.groups,
        "plots": [(measure, interval_plot(comparison, measure)) for measure in comparison.measures],
        "aggregates": comparison.aggregates,
        "less": [measure for measure in comparison.less_is_better if measure not in comparison.zero_is_best],
        "zero": comparison.zero_is_best,
    }
    return Section("systems", "Systems", "comparison.systems", content)


def pairs_section(comparison: Comparison) -> Section | None:
    """Paired comparisons, those of the headline first."""
    if not comparison.comparisons:
        return None
    tables = [(measure, _lines(comparison, measure)) for measure in comparison.measures]
    content = {
        "tables": [(measure, lines) for measure, lines in tables if lines],
        "correction": CORRECTION_NAMES[comparison.correction],
        "count": len(comparison.comparisons),
        "disagreements": comparison.disagreements(comparison.comparisons),
    }
    return Section("pairs", "Paired comparisons", "comparison.pairs", content)


def rows_section(comparison: Comparison) -> Section | None:
    """The difference of every row, for each main pair."""
    measure = comparison.row_measure
    if not comparison.main_pairs or measure is None:
        return None
    plots = []
    for a, b in comparison.main_pairs:
        differences = list(comparison.gains(a, b).values())
        plots.append(
            {
                "title": f"{comparison.label(a)} against {comparison.label(b)}",
                "plot": difference_plot(comparison, a, b),
                "n": len(differences),
                "wins": sum(each > 0 for each in differences),
                "losses": sum(each < 0 for each in differences),
                "most": max(differences),
                "least": min(differences),
            }
        )
    return Section(
        "rows", "Row by row", "comparison.rows", {"shown": plots[:_OPEN], "folded": plots[_OPEN:]},
        f"The difference in {measure} of every row, {comparison.gain_direction}: wins above the line, losses below.",
    )  # fmt: skip


def unjudged_section(comparison: Comparison) -> Section | None:
    """Share of judged documents, and figures under other assumptions about unjudged documents."""
    if not comparison.unjudged:
        return None
    figures = by_system(comparison.unjudged)
    depths = list(dict.fromkeys(row.measure for row in comparison.unjudged if row.measure.startswith("Judged@")))
    tables = [
        (
            measure,
            [
                (
                    comparison.label(system),
                    [
                        comparison.row(system, measure),
                        by_measure[f"{measure} {CONDENSED}"],
                        by_measure[f"{measure} {AS_BEST}"],
                    ],
                )
                for system, by_measure in figures.items()
                if f"{measure} {CONDENSED}" in by_measure and comparison.find(system, measure) is not None
            ],
        )
        for measure in comparison.measures
    ]
    content = {
        "depths": depths,
        "shares": [
            (comparison.label(name), [by_measure[depth] for depth in depths]) for name, by_measure in figures.items()
        ],
        "tables": [(measure, lines) for measure, lines in tables if lines],
    }
    return Section("unjudged", "Unjudged documents", "comparison.unjudged", content)


def traffic_section(comparison: Comparison) -> Section | None:
    """Means weighted by traffic."""
    figures = by_system(comparison.weighted)
    measures = [m for m in comparison.measures if figures and all(m in by_measure for by_measure in figures.values())]
    if not measures:
        return None
    content = {
        "measures": measures,
        "n": _common_n(row for row in comparison.weighted if row.measure in measures),
        "systems": [
            (
                comparison.label(name),
                name == comparison.candidate,
                [(by_measure[m], comparison.row(name, m)) for m in measures],
            )
            for name, by_measure in figures.items()
        ],
        "pairs": [_line(comparison, pair) for pair in comparison.weighted_pairs],
        "disagreements": comparison.disagreements(comparison.weighted_pairs),
        "correction": CORRECTION_NAMES[comparison.correction],
    }
    return Section(
        "traffic", "Weighted by traffic", "comparison.traffic", content,
        "Means weighted by the traffic of each topic, with 95% intervals; below each, the unweighted mean.",
    )  # fmt: skip


def costs_section(comparison: Comparison, base: str | None) -> Section | None:
    """Mean costs of a row, and their ratio to those of the base or baseline.

    Args:
        base: The system that costs are compared with; None: the baseline.
    """
    kinds = list(dict.fromkeys(kind for costs in comparison.costs.values() for kind in costs))
    if not kinds:
        return None
    reference = next((each for each in (base, comparison.baseline) if each in comparison.costs), None)
    against = comparison.costs[reference] if reference is not None else {}
    content = {
        "kinds": kinds,
        "systems": [
            (
                comparison.label(system),
                system == comparison.candidate,
                [(costs.get(kind), _ratio(costs.get(kind), against.get(kind), system == reference)) for kind in kinds],
            )
            for system, costs in comparison.costs.items()
        ],
        "reference": comparison.label(reference) if reference is not None else None,
    }
    return Section("costs", "Cost and speed", "comparison.costs", content)


def invalid_section(comparison: Comparison) -> Section | None:
    """Number of outputs of each system that did not parse, with the most frequent reasons."""
    if not any(comparison.invalid.values()):
        return None
    systems = []
    for system in comparison.systems:
        reasons: dict[str, int] = {}
        for reason in comparison.invalid[system].values():
            reasons[reason] = reasons.get(reason, 0) + 1
        frequent = sorted(reasons.items(), key=lambda item: -item[1])[:5]
        systems.append((comparison.label(system), sum(reasons.values()), comparison.answered[system], frequent))
    return Section("invalid", "Invalid outputs", "comparison.invalid", {"systems": systems})


def totals_section(comparison: Comparison) -> Section | None:
    """Figures without a value per row."""
    names = dict.fromkeys(name for totals in comparison.totals.values() for name in totals)
    if not names:
        return None
    content = {
        "systems": [comparison.label(system) for system in comparison.systems],
        "figures": [(name, [comparison.totals[system].get(name) for system in comparison.systems]) for name in names],
    }
    return Section(
        "totals",
        "Over all rows at once",
        "comparison.totals",
        content,
        "Figures without a value per row, so without an interval.",
    )


def notes_section(notes: Sequence[str]) -> Section | None:
    """Notes for the reader."""
    return Section("notes", "Notes", "macros.notes", {"notes": notes}) if notes else None


def by_system(rows: Iterable[SystemScore]) -> dict[str, dict[str, SystemScore]]:
    """System -> measure -> figure."""
    by_name: dict[str, dict[str, SystemScore]] = {}
    for row in rows:
        by_name.setdefault(row.system, {})[row.measure] = row
    return by_name


def _lines(comparison: Comparison, measure: str) -> list[dict[str, Any]]:
    return [_line(comparison, pair) for pair in comparison.comparisons if pair.measure == measure]


def _line(comparison: Comparison, pair: PairedComparison | WeightedPair) -> dict[str, Any]:
    """A pair with its printed names, and `good` or `bad` if the difference is significant."""
    verdict = ""
    if pair.p_corrected <= LEVEL:
        verdict = "good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad"
    return {"pair": pair, "a": comparison.label(pair.a), "b": comparison.label(pair.b), "verdict": verdict}


def _role(comparison: Comparison, system: str) -> str:
    return {comparison.candidate: "candidate", comparison.baseline: "baseline"}.get(system, "")


def _common_n(rows: Iterable[SystemScore]) -> int | None:
    """The number of rows if it is the same for all measures; it is then printed in one column."""
    counts = {row.n for row in rows}
    return counts.pop() if len(counts) == 1 else None


def _ratio(value: float | None, reference: float | None, is_reference: bool) -> float | None:
    if value is None or not reference or not math.isfinite(reference) or is_reference:
        return None
    return value / reference
