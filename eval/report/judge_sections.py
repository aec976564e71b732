"""The sections of the page of judge cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.judge.card import SHOWN, WORDS, JudgeCard
from searchlora.eval.judge.comparison import JudgeComparison, JudgeDifference
from searchlora.eval.judge.system_order import SystemOrder
from searchlora.eval.report.grids import confusion
from searchlora.eval.report.judge_plots import curve_plot, order_plot
from searchlora.eval.report.page import Section
from searchlora.eval.report.sections import CORRECTIONS
from searchlora.eval.report.words import LEVEL
from searchlora.eval.resampling import Figure

#: More judges than this are folded away.
_OPEN = 5


def judge_name(card: JudgeCard) -> str:
    """The name as it is printed: `name (circular)` where the card is."""
    return f"{card.judge} (circular)" if card.circular else card.judge


def overview_section(ranked: Sequence[JudgeCard]) -> Section:
    """All judges in one table, with the interval of kappa drawn in each row."""
    people = next((card.people.pairs for card in ranked if card.people is not None), ())
    figures = [card.figures["kappa"] for card in ranked] + [two.kappa for two in people]
    ends = [end for each in figures for end in (each.value, each.low, each.high) if end == end]
    axis = _Axis(min(0.0, *ends), max(ends)) if ends else _Axis(0.0, 1.0)
    content = {
        "measures": [WORDS[name] for name in SHOWN],
        "axis": axis,
        "ceiling": [axis.place(two.kappa.value) for two in people],
        "people": [
            {
                "name": f"people: {two.a}, {two.b}",
                "bar": axis.bar(two.kappa),
                "figures": [getattr(two, name, None) for name in SHOWN],
                "n": two.kappa.n,
                "queries": two.kappa.queries,
            }
            for two in people
        ],
        "judges": [
            {
                "name": judge_name(card),
                "id": f"judge-{place}",
                "bar": axis.bar(card.figures["kappa"]),
                "figures": [card.figures[name] for name in SHOWN],
                "n": card.n,
                "queries": card.queries,
            }
            for place, card in enumerate(ranked, start=1)
        ],
        "names": SHOWN,
    }
    return Section("judges", "Judges" if len(ranked) > 1 else "Judge", "judges", content)


def apart_section(ranked: Sequence[JudgeCard], comparison: JudgeComparison) -> Section:
    """Which judges differ: each against the best, and how many it is better or worse than."""
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
        "measure": WORDS.get(comparison.measure, comparison.measure),
        "correction": CORRECTIONS[comparison.correction],
        "count": len(comparison.differences),
        "swaps": comparison.swaps,
        "n": first.n,
        "queries": first.queries,
        "left_out": comparison.left_out,
    }
    return Section("apart", "Which judges differ", "apart", content)


def card_sections(ranked: Sequence[JudgeCard], curves: Mapping[str, Sequence[CurvePoint]]) -> Section:
    """Each judge on its own, folded where there are many."""
    cards = [
        {"id": f"judge-{place}", "name": judge_name(card), "card": card, **_card(card, curves.get(card.judge, ()))}
        for place, card in enumerate(ranked, start=1)
    ]
    return Section("cards", "Judge by judge", "cards", {"cards": cards, "folded": len(cards) > _OPEN, "words": WORDS})


def _card(card: JudgeCard, points: Sequence[CurvePoint]) -> dict[str, Any]:
    return {
        "figures": [
            (name, WORDS[name], figure)
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
    """Each system with its place and mean under both sets of grades; equal means share a place."""
    places = [[1 + sum(other > value for other in side) for value in side] for side in (order.human, order.judge)]
    return [
        {"name": name, "human": a, "judge": b, "place": ours, "judged_place": theirs}
        for name, a, b, ours, theirs in zip(order.systems, order.human, order.judge, *places, strict=True)
    ]


class _Axis:
    """Where a value lies between the ends of the bars, in per cent of their width."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def place(self, value: float) -> float:
        return round(2 + 96 * (value - self.low) / ((self.high - self.low) or 1.0), 2)

    def bar(self, figure: Figure) -> dict[str, float] | None:
        """None for a figure that does not exist; without ends for one that has no interval."""
        if figure.value != figure.value:
            return None
        value = self.place(figure.value)
        known = figure.low == figure.low
        return {
            "value": value,
            "low": self.place(figure.low) if known else value,
            "high": self.place(figure.high) if known else value,
        }
