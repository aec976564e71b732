"""HTML page of judge cards: agreement of judges with people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.formatting import interval
from searchlora.eval.judge.card import HEADINGS, OVERVIEW_FIGURES, JudgeCard
from searchlora.eval.judge.comparison import JudgeComparison, JudgeDifference
from searchlora.eval.judge.system_order import SystemOrder
from searchlora.eval.report.heat_maps import confusion
from searchlora.eval.report.page import Alert, Section, write_page
from searchlora.eval.report.plots import curve_plot, order_plot
from searchlora.eval.resampling import Figure
from searchlora.eval.significance import CORRECTION_NAMES, LEVEL


def write_judge_card(
    path: str | Path,
    title: str,
    cards: Sequence[JudgeCard],
    provenance: Mapping[str, str],
    *,
    comparison: JudgeComparison | None = None,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    introduction: str = "",
) -> Path:
    """Write the cards of judges that were compared with the same people as one self-contained HTML file.

    Args:
        cards: One at least; shown by falling kappa over all grades.
        provenance: What they were made from, label -> value, for example a file and its sha256.
        comparison: Of every two judges, by `compare_judges`.
        curves: Judge -> its `calibration_curve`: mean human grade for each grade of the judge.
        introduction: A plain sentence or two shown below the title.

    Raises:
        DataError: when the file cannot be written.
    """
    ranked = sorted(cards, key=_kappa, reverse=True)
    reasons = tuple(f"{judge_name(card)}: {why}" for card in ranked for why in card.circular)
    return write_page(
        path,
        title,
        [
            overview_section(ranked),
            apart_section(ranked, comparison) if comparison is not None else None,
            card_sections(ranked, curves or {}),
        ],
        provenance,
        introduction=introduction,
        alerts=[Alert("Circular: a judge is evaluated on data that it had a part in", reasons)] if reasons else [],
        summary=_summary(ranked, comparison),
    )


def _kappa(card: JudgeCard) -> float:
    kappa = card.figures["kappa"].value
    return -math.inf if math.isnan(kappa) else kappa


def _summary(ranked: Sequence[JudgeCard], comparison: JudgeComparison | None) -> list[str]:
    best = ranked[0]
    kappa = best.figures["kappa"]
    if math.isnan(kappa.value):
        return [f"Kappa over all grades does not exist for {judge_name(best)}: chance alone would agree fully."]
    agreement = f"{judge_name(best)} agrees with people at kappa {kappa.value:.3f} {interval(kappa.low, kappa.high)}"
    sample = f"over {kappa.n} pairs of {kappa.queries} queries"
    sentences = [
        f"{agreement} {sample}." if len(ranked) == 1 else f"Of {len(ranked)} judges, {agreement} {sample}, the highest."
    ]
    for two in best.people.pairs if best.people else ():
        sentences.append(
            f"Between people ({two.a}, {two.b}) kappa is {two.kappa.value:.3f} "
            f"{interval(two.kappa.low, two.kappa.high)}, the ceiling."
        )
    if comparison is not None:
        differ = sum(each.p_corrected <= LEVEL for each in comparison.differences)
        rest = len(comparison.differences) - differ
        sentences.append(
            f"{differ} of {len(comparison.differences)} pairs of judges are shown to differ in "
            f"{comparison.measure} after correction"
            + ("; of the others, neither is known to be the better one." if rest else ".")
        )
    return sentences


#: Greatest number of judges that are not folded.
_OPEN = 5


def judge_name(card: JudgeCard) -> str:
    """The printed name: `name (circular)` if the card is circular."""
    return f"{card.judge} (circular)" if card.circular else card.judge


def overview_section(ranked: Sequence[JudgeCard]) -> Section:
    """All judges in one table, with the interval of kappa drawn in each row."""
    people = next((card.people.pairs for card in ranked if card.people is not None), ())
    figures = [card.figures["kappa"] for card in ranked] + [two.kappa for two in people]
    ends = [end for each in figures for end in (each.value, each.low, each.high) if end == end]
    axis = _Axis(min(0.0, *ends), max(ends)) if ends else _Axis(0.0, 1.0)
    content = {
        "measures": [HEADINGS[name] for name in OVERVIEW_FIGURES],
        "axis": axis,
        "ceiling": [axis.position(two.kappa.value) for two in people],
        "people": [
            {
                "name": f"people: {two.a}, {two.b}",
                "bar": axis.bar(two.kappa),
                "figures": [getattr(two, name, None) for name in OVERVIEW_FIGURES],
                "n": two.kappa.n,
                "queries": two.kappa.queries,
            }
            for two in people
        ],
        "judges": [
            {
                "name": judge_name(card),
                "id": f"judge-{rank}",
                "bar": axis.bar(card.figures["kappa"]),
                "figures": [card.figures[name] for name in OVERVIEW_FIGURES],
                "n": card.n,
                "queries": card.queries,
            }
            for rank, card in enumerate(ranked, start=1)
        ],
        "names": OVERVIEW_FIGURES,
    }
    return Section("judges", "Judges" if len(ranked) > 1 else "Judge", "judges.judges", content)


def apart_section(ranked: Sequence[JudgeCard], comparison: JudgeComparison) -> Section:
    """Differences between judges: each against the best, and how many it is better or worse than."""
    names = {card.judge: judge_name(card) for card in ranked}
    against: dict[str, dict[str, JudgeDifference]] = {}
    for each in comparison.differences:
        against.setdefault(each.a, {})[each.b] = each
        against.setdefault(each.b, {})[each.a] = each
    first = comparison.differences[0]
    # The better one of each two is a: the best is b of none.
    best = next(name for name in against if all(each.a == name for each in against[name].values()))
    lines = []
    for name in sorted(against, key=lambda name: abs(against[best][name].difference) if name != best else -1.0):
        shown = [each for each in against[name].values() if each.p_corrected <= LEVEL]
        lines.append(
            {
                "name": names.get(name, name),
                "difference": against[best].get(name),
                "better": sum(each.a == name for each in shown),
                "worse": sum(each.b == name for each in shown),
                "alike": len(against[name]) - len(shown),
            }
        )
    content = {
        "lines": lines,
        "best": names.get(best, best),
        "measure": HEADINGS.get(comparison.measure, comparison.measure),
        "correction": CORRECTION_NAMES[comparison.correction],
        "count": len(comparison.differences),
        "swaps": comparison.swaps,
        "n": first.n,
        "queries": first.queries,
        "left_out": comparison.left_out,
        "disagreements": comparison.disagreements,
    }
    return Section("apart", "Which judges differ", "judges.differences", content)


def card_sections(ranked: Sequence[JudgeCard], curves: Mapping[str, Sequence[CurvePoint]]) -> Section:
    """The card of each judge, folded if there are many."""
    cards = [
        {"id": f"judge-{rank}", "name": judge_name(card), "card": card, **_card(card, curves.get(card.judge, ()))}
        for rank, card in enumerate(ranked, start=1)
    ]
    return Section(
        "cards", "Judge by judge", "judges.cards", {"cards": cards, "folded": len(cards) > _OPEN, "words": HEADINGS}
    )


def _card(card: JudgeCard, points: Sequence[CurvePoint]) -> dict[str, Any]:
    return {
        "figures": [
            (name, HEADINGS[name], figure)
            for name, figure in card.figures.items()
            if card.invalid or not name.endswith("_valid")
        ],
        "grid": confusion(
            [str(grade) for grade in card.scale],
            [*map(str, card.scale), "invalid"],
            card.confusion,
            "people \\ judge",
        ),
        "points": points,
        "curve": curve_plot(points, judge_name(card)) if points else None,
        "order": _order(card.order) if card.order is not None else None,
        "order_plot": order_plot(card.order, judge_name(card)) if card.order is not None else None,
    }


def _order(order: SystemOrder) -> list[dict[str, Any]]:
    """Each system with its rank and mean under both sets of grades; equal means share a rank."""
    places = [[1 + sum(other > value for other in side) for value in side] for side in (order.human, order.judge)]
    return [
        {"name": name, "human": a, "judge": b, "place": ours, "judged_place": theirs}
        for name, a, b, ours, theirs in zip(order.systems, order.human, order.judge, *places, strict=True)
    ]


class _Axis:
    """Axis of the bars: positions in per cent of their width."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def position(self, value: float) -> float:
        return round(2 + 96 * (value - self.low) / ((self.high - self.low) or 1.0), 2)

    def bar(self, figure: Figure) -> dict[str, float] | None:
        """Position and interval of a figure; None if it is undefined, without width if it has no interval."""
        if figure.value != figure.value:
            return None
        value = self.position(figure.value)
        known = figure.low == figure.low
        return {
            "value": value,
            "low": self.position(figure.low) if known else value,
            "high": self.position(figure.high) if known else value,
        }
