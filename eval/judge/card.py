"""The judge card: how far a judge agrees with people, every figure with its n and its interval by query.

**Invalid answers** never become a grade. In the headline figures, which are over all pairs, they count as the worst:
they agree with no grade, and for weighted kappa and the absolute error they are as far off as the scale allows. The
figures over valid answers only stand beside them and are named so (`kappa_valid`, `kappa_binary_valid`, `mae_valid`);
alpha and signed bias, which have no place for an answer without a grade, are over the valid ones too.

**Intervals** are studentised, by query: the variant that held its coverage with 25 queries (`resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from searchlora.eval.formatting import figure, markdown_table, p_value, to_plain
from searchlora.eval.judge.agreement import confusion, disagreement, kappa
from searchlora.eval.judge.comparison import JudgeComparison
from searchlora.eval.judge.labels import Labels, Paired, pair
from searchlora.eval.judge.measures import (
    BINARY,
    KAPPA,
    MAE,
    JudgeMeasure,
    grade_measures,
    invalid_figure,
    judge_measures,
)
from searchlora.eval.judge.rater_agreement import People, people_agreement
from searchlora.eval.judge.sample_size import LabelNeed, label_need
from searchlora.eval.judge.stability import Stability
from searchlora.eval.judge.system_order import SystemOrder
from searchlora.eval.resampling import Figure
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class GradeFigures:
    """One grade of the scale: how often people and the judge gave it, and how far they mean the same pairs."""

    grade: int
    human: int
    judge: int
    precision: Figure
    recall: Figure


@dataclass(frozen=True)
class JudgeCard:
    """What `judge_card` found.

    Attributes:
        judge: The judge's name.
        scale: The grades there are, rising.
        relevant: From this grade on a pair is relevant, in the binary figures.
        n, queries: Pairs that both people and the judge labelled, and the queries they are of.
        figures: name -> figure, the names those of `measures.judge_measures`, kappa first, and `invalid`.
        grades: Each grade of the scale.
        confusion: Rows are the human grades, columns the judge's, invalid last.
        invalid: What was no grade -> how often.
        missing: Pairs that people graded and the judge has no label for; they are in no figure.
        extra: Pairs that only the judge has.
        people: How far people agree with each other, the ceiling; None where there is one label of each pair only.
        order: How far systems are ordered alike; None where no runs were given.
        stability: None where the judge was asked in one way only.
        needs: For kappa, binary kappa and absolute error, how many labels a narrower interval takes.
        circular: Why the figures are circular, law 6; shown wherever they are.
        notes: What a reader must know.
    """

    judge: str
    scale: tuple[int, ...]
    relevant: int
    n: int
    queries: int
    figures: Mapping[str, Figure]
    grades: tuple[GradeFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    invalid: Mapping[str, int]
    missing: int
    extra: int
    people: People | None = None
    order: SystemOrder | None = None
    stability: Stability | None = None
    needs: tuple[LabelNeed, ...] = ()
    circular: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge_card(
    human: Qrels,
    judged: Labels,
    *,
    name: str = "judge",
    scale: Sequence[int] = (0, 1, 2, 3),
    relevant: int = 2,
    raters: Mapping[str, Qrels] | None = None,
    order: SystemOrder | None = None,
    stability: Stability | None = None,
    circular: Sequence[str] = (),
    notes: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCard:
    """Hold a judge's labels against those of people.

    Args:
        human: topic -> document -> grade.
        judged: topic -> document -> grade; None where the judge's answer was no grade. A grade outside the scale is
            invalid as well.
        name: Of the judge.
        scale: The grades there are.
        relevant: The lowest grade that counts as relevant.
        raters: name -> qrels of each person, where pairs were labelled by several.
        order: Of systems under both sets of grades, by `order_agreement`.
        stability: Of the judge, by `stability`.
        circular: Why the figures are circular, by `judgments.lineage`.
        notes: More for the reader.

    Raises:
        UsageError: when the scale has fewer than two grades, or `relevant` leaves one side without a grade.
        DataError: when a human grade is outside the scale, or no pair is common.
    """
    paired = pair(human, judged, scale)
    tables, total = paired.tables, paired.tables.sum(axis=0)
    measures = judge_measures(paired.scale, relevant)
    needs = [label_need(measures[measure], tables) for measure in (KAPPA, BINARY, MAE)]
    return JudgeCard(
        judge=name,
        scale=paired.scale,
        relevant=relevant,
        n=paired.n,
        queries=len(tables),
        figures=_figures(paired, measures, resamples, seed),
        grades=tuple(_grade(paired, index, resamples, seed) for index in range(len(paired.scale))),
        confusion=tuple(tuple(map(int, row)) for row in total),
        invalid=paired.invalid,
        missing=paired.missing,
        extra=paired.extra,
        people=people_agreement(raters, paired.scale, relevant, resamples=resamples, seed=seed) if raters else None,
        order=order,
        stability=stability,
        needs=tuple(need for need in needs if need is not None),
        circular=tuple(circular),
        notes=(*_notes(human, paired), *notes),
    )


def to_json(card: JudgeCard) -> dict[str, Any]:
    """The card as JSON holds it; what is not known is None, never NaN."""
    found: dict[str, Any] = to_plain(asdict(card))
    return found


def _figures(paired: Paired, measures: Mapping[str, JudgeMeasure], resamples: int, seed: int) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name, measure in measures.items():
        headline = name.removesuffix("_valid")
        if headline != name and not paired.invalid:
            found[name] = found[headline]  # the same pairs
        else:
            found[name] = measure.figure(paired.tables, resamples=resamples, seed=seed)
    return {**found, "invalid": invalid_figure(paired.tables)}


def _grade(paired: Paired, index: int, resamples: int, seed: int) -> GradeFigures:
    precision, recall = (
        measure.figure(paired.tables, resamples=resamples, seed=seed)
        for measure in grade_measures(paired.scale, index)
    )  # fmt: skip
    return GradeFigures(paired.scale[index], recall.n, precision.n, precision, recall)


def _notes(human: Qrels, paired: Paired) -> list[str]:
    notes = []
    if paired.invalid:
        said = ", ".join(f"{label} ({count})" for label, count in paired.invalid.items())
        notes.append(
            f"{sum(paired.invalid.values())} of {paired.n} answers are no grade of the scale and count as the worst:"
            f" {said}."
        )
    if paired.missing:
        grades = [grade for row in human.values() for grade in row.values()]
        lacking = paired.tables.sum(axis=0)
        # Were the lacking labels failures that the judge's file does not tell, this would be its kappa.
        lacking[:, -1] += confusion(grades, grades, paired.scale)[:, :-1].sum(axis=1) - lacking.sum(axis=1)
        worst = float(kappa(lacking, disagreement(paired.scale)))
        notes.append(
            f"{paired.missing} of {paired.missing + paired.n} pairs that people graded have no label of the judge and"
            f" are in no figure. If those were answers that failed, kappa would be {worst:.3f}."
        )
    if paired.extra:
        notes.append(f"{paired.extra} labels of the judge are of pairs that people did not grade and are left out.")
    if len(paired.tables) < 10:
        notes.append(f"The pairs are of {len(paired.tables)} queries only: intervals by query say little.")
    return notes


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
        [f"{each.a} − {each.b}", figure(each.difference, each.low, each.high, "+"), p_value(each.p_corrected)]
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
