"""Judge cards as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from searchlora.eval.judge.card import JudgeCard
from searchlora.eval.judge.comparing import JudgeComparison
from searchlora.eval.judge.order import SystemOrder
from searchlora.eval.judge.people import People
from searchlora.eval.judge.stability import Stability
from searchlora.eval.printed import chance, figure, markdown_table
from searchlora.eval.resampling import Figure

#: Figures of the table of all judges.
SHOWN = ("kappa", "kappa_binary", "kappa_quadratic", "mae", "bias", "invalid")

WORDS = {
    "kappa": "kappa, all grades",
    "kappa_binary": "kappa, relevant or not",
    "kappa_linear": "kappa, linear weights",
    "kappa_quadratic": "kappa, quadratic weights",
    "alpha": "Krippendorff's alpha, ordinal",
    "agreement": "same grade",
    "mae": "mean absolute error",
    "bias": "bias (judge − human)",
    "invalid": "invalid answers",
    "kappa_valid": "kappa, valid answers only",
    "kappa_binary_valid": "kappa, relevant or not, valid answers only",
    "mae_valid": "mean absolute error, valid answers only",
}


def cards_markdown(cards: Sequence[JudgeCard], comparison: JudgeComparison | None) -> str:
    """All cards in one table by kappa, the differences of the best to the others, and each card."""
    ranked = sorted(cards, key=_kappa, reverse=True)
    parts = [*(_overview(ranked) if len(ranked) > 1 else ()), *(_differences(comparison) if comparison else ())]
    for card in ranked:
        parts += [f"## {card.judge}", *_card(card)]
    return "\n\n".join(["# Judge cards", *parts]) + "\n"


def _overview(cards: Sequence[JudgeCard]) -> Iterator[str]:
    rows = [
        [_name(card), *(_named(name, card.figures[name]) for name in SHOWN), str(card.n), str(card.queries)]
        for card in cards
    ]
    yield markdown_table(["judge", *(WORDS[name] for name in SHOWN), "n", "queries"], rows)


def _differences(comparison: JudgeComparison) -> Iterator[str]:
    losers = {each.b for each in comparison.differences}
    best = next(each.a for each in comparison.differences if each.a not in losers)
    of_best = [each for each in comparison.differences if each.a == best]
    rows = [
        [f"{each.a} − {each.b}", figure(each.difference, each.low, each.high, "+"), chance(each.p_corrected)]
        for each in of_best
    ]
    over = f"{of_best[0].n} pairs of {of_best[0].queries} queries"
    yield f"Differences of {comparison.measure} to the best, paired over {over}:"
    yield markdown_table(["", "difference", f"p, corrected ({comparison.correction})"], rows)
    apart = sum(each.p_corrected <= 0.05 for each in comparison.differences)
    yield f"{apart} of {len(comparison.differences)} pairs of judges differ at 0.05 after correction."


def _card(card: JudgeCard) -> Iterator[str]:
    for reason in card.circular:
        yield f"**Circular**: {reason}."
    yield f"{card.n} pairs of {card.queries} queries; 95% intervals by query; relevant from grade {card.relevant} on."
    yield markdown_table(
        ["", "value", "n"],
        [
            [WORDS[name], _named(name, found), str(found.n)]
            for name, found in card.figures.items()
            if card.invalid or not name.endswith("_valid")
        ],
    )
    header = ["human \\ judge", *map(str, card.scale), "invalid", "precision", "recall"]
    yield markdown_table(
        header,
        [
            [str(grade.grade), *map(str, row), _figure(grade.precision), _figure(grade.recall)]
            for grade, row in zip(card.grades, card.confusion, strict=True)
        ],
    )
    if card.people:
        yield from _people(card.people)
    if card.order:
        yield from _order(card.order)
    if card.stability:
        yield from _stability(card.stability)
    if card.needs:
        yield "How many queries, of as many pairs as here, for an interval of ± so much:"
        yield markdown_table(
            ["", *(f"± {width:g}" for width, _ in card.needs[0].wanted)],
            [
                [WORDS[need.measure], *(str(count or "over a million") for _, count in need.wanted)]
                for need in card.needs
            ],
        )
    if card.notes:
        yield "\n".join(f"* {note}" for note in card.notes)


def _people(people: People) -> Iterator[str]:
    yield f"Agreement between people, the ceiling (alpha of all: {_figure(people.alpha)}, n = {people.alpha.n}):"
    rows = []
    for two in people.pairs:
        figures = (two.kappa, two.kappa_binary, two.kappa_quadratic, two.mae)
        rows.append([f"{two.a}, {two.b}", *map(_figure, figures), str(two.kappa.n)])
    head = ["", *(WORDS[name] for name in ("kappa", "kappa_binary", "kappa_quadratic", "mae")), "n"]
    yield markdown_table(head, rows)


def _order(order: SystemOrder) -> Iterator[str]:
    yield f"Order of {len(order.systems)} systems by {order.measure} over {order.tau.queries} topics:"
    rows = [
        ["all", _figure(order.tau), _figure(order.tau_ap)],
        [f"the best {order.top}", _figure(order.tau_top), _figure(order.tau_ap_top)],
    ]
    yield markdown_table(["", "Kendall's tau", "tau-ap"], rows)
    systems = zip(order.systems, order.human, order.judge, strict=True)
    yield markdown_table(["system", "people", "judge"], [[name, f"{a:.3f}", f"{b:.3f}"] for name, a, b in systems])
    if order.notes:
        yield "\n".join(f"* {note}" for note in order.notes)


def _stability(stability: Stability) -> Iterator[str]:
    yield (
        f"Asked in {len(stability.variants) + 1} ways, the judge gave the same grade in all of them for"
        f" {_figure(stability.unchanged)} of {stability.unchanged.n} pairs (alpha {_figure(stability.alpha)}); worst:"
        f" {stability.worst}. Against {stability.reference}:"
    )
    rows = [
        [each.name, *map(_figure, (each.unchanged, each.kappa, each.alpha, each.shift, each.invalid))]
        for each in stability.variants
    ]
    yield markdown_table(["variant", "unchanged", "kappa", "alpha", "shift of the mean", "invalid"], rows)
    if stability.left_out:
        yield f"* {stability.left_out} pairs that not all variants have are left out."


def _kappa(card: JudgeCard) -> float:
    kappa = card.figures["kappa"].value
    return -math.inf if math.isnan(kappa) else kappa


def _name(card: JudgeCard) -> str:
    return f"{card.judge} (circular)" if card.circular else card.judge


def _figure(found: Figure) -> str:
    return figure(found.value, found.low, found.high)


def _named(name: str, found: Figure) -> str:
    """Invalid answers are few: in hundredths."""
    if name != "invalid":
        return _figure(found)
    return f"{found.value:.2%} ({found.low:.2%} to {found.high:.2%})"
