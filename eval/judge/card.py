"""Judge card: agreement of an LLM judge with human judgments, every figure with its n and 95% interval by query.

**Invalid answers** never become a grade. In the headline figures, which are over all pairs, they count as the worst:
they agree with no grade, and for weighted kappa and the absolute error they are as far off as the scale allows. The
figures over valid answers only are listed too (`kappa_valid`, `kappa_binary_valid`, `mae_valid`). Alpha and signed
bias, which are undefined for an answer without a grade, are over the valid answers.

**Intervals** are studentised bootstrap intervals by query, which kept their coverage with 25 queries (`resampling`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from searchlora.eval.formatting import figure, markdown_table, markdown_text, p_value, to_plain
from searchlora.eval.judge.agreement import confusion, disagreement, kappa
from searchlora.eval.judge.comparison import JudgeComparison
from searchlora.eval.judge.labels import Labels, Paired, check_grades, common_pairs, pair, restrict
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
    """One grade of the scale: its counts by humans and by the judge, its precision and its recall."""

    grade: int
    human: int
    judge: int
    precision: Figure
    recall: Figure


@dataclass(frozen=True)
class JudgeCard:
    """Result of `judge_card`.

    Attributes:
        judge: Name of the judge.
        scale: The grades, ascending.
        relevant: The lowest grade that counts as relevant in binary figures.
        n, queries: Number of pairs labelled by humans and the judge, and of their queries.
        figures: name -> figure; names of `measures.judge_measures`, kappa first, and `invalid`.
        grades: Each grade of the scale.
        confusion: Counts; rows are human grades, columns judge grades, invalid last.
        invalid: Invalid label -> count.
        missing: Number of human-graded pairs without a label of the judge; they are in no figure.
        extra: Number of pairs labelled by the judge only.
        people: Agreement of human raters with each other, the ceiling; None with one rater per pair.
        order: Correlation of system orders; None without runs.
        stability: Agreement of prompt variants; None with one variant.
        needs: Sample-size advice for kappa, binary kappa and absolute error.
        circular: Reasons why the figures are circular (the judge is part of what it is compared with).
        notes: Notes for the reader.
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
    """Compare a judge's labels with human grades.

    Args:
        human: topic -> document -> grade.
        judged: topic -> document -> grade; None and grades outside the scale are invalid answers.
        name: Name of the judge.
        scale: The grades of the scale.
        relevant: The lowest grade that counts as relevant.
        raters: name -> qrels of each human rater, if pairs have several raters.
        order: Result of `order_agreement` or `order_of_runs`.
        stability: Result of `stability`.
        circular: Reasons of circularity, from `judgments.lineage`.
        notes: Further notes for the reader.

    Raises:
        UsageError: when the scale has fewer than two grades, or all grades or none are relevant.
        DataError: when a human grade is outside the scale, or no pair has both a human grade and a label.

    Examples:
        >>> human = {f"q{q}": {"d1": 3, "d2": q % 3, "d3": 0} for q in range(12)}
        >>> judged = {**human, "q0": {"d1": 2, "d2": None, "d3": 0}}
        >>> card = judge_card(human, judged, name="tiny@1", resamples=200)
        >>> card.n, card.invalid, round(card.figures["kappa"].value, 3)
        (36, {'none': 1}, 0.919)
    """
    paired = pair(human, judged, scale)
    tables, total = paired.tables, paired.tables.sum(axis=0)
    measures = judge_measures(paired.scale, relevant)
    single = _single_grade(paired)
    needs = [] if single else [label_need(measures[measure], tables) for measure in (KAPPA, BINARY, MAE)]
    people, people_notes = None, list[str]()
    if raters:
        labelled = common_pairs([human, judged])
        people, people_notes = _people(raters, labelled, paired.scale, relevant, resamples, seed)
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
        people=people,
        order=order,
        stability=stability,
        needs=tuple(need for need in needs if need is not None),
        circular=tuple(circular),
        notes=(*_notes(human, paired), *single, *people_notes, *notes),
    )


def _single_grade(paired: Paired) -> list[str]:
    """A note if one side uses a single grade: no number of queries makes such an agreement precise."""
    table = paired.tables.sum(axis=0)
    sides = {"judge": table[:, :-1].sum(axis=0), "human judgments": table.sum(axis=1)}
    return [
        f"Every valid grade of the {side} is {paired.scale[int(counts.argmax())]}: kappa is 0 or undefined whatever "
        "the number of queries, so no sample size is advised."
        for side, counts in sides.items()
        if (counts > 0).sum() == 1
    ]


def _people(
    raters: Mapping[str, Qrels],
    labelled: set[tuple[str, str]],
    scale: Sequence[int],
    relevant: int,
    resamples: int,
    seed: int,
) -> tuple[People | None, list[str]]:
    """The agreement of raters over the pairs that the judge labelled, as its own figures, and notes.

    Raises:
        UsageError, DataError: as `people_agreement` over all pairs.
    """
    graded = Counter((topic, document) for qrels in raters.values() for topic, row in qrels.items() for document in row)
    by_two = {pair for pair, count in graded.items() if count > 1}
    for name, qrels in raters.items():
        check_grades(qrels, scale, f"rater {name}, ")
    if by_two and not by_two & labelled:
        return None, ["No pair that the judge labelled has grades of two human raters, so there is no ceiling."]
    left_out = len(graded.keys() - labelled) if by_two else 0
    shared = {name: restrict(qrels, labelled) for name, qrels in raters.items()} if left_out else raters
    people = people_agreement(shared, scale, relevant, resamples=resamples, seed=seed)
    note = f"Human raters are compared over the pairs that the judge labelled; {left_out} other pairs are left out."
    return people, [note] if left_out else []


def to_json(card: JudgeCard) -> dict[str, Any]:
    """The card as JSON values; unknown numbers are None, never NaN."""
    values: dict[str, Any] = to_plain(asdict(card))
    return values


def _figures(paired: Paired, measures: Mapping[str, JudgeMeasure], resamples: int, seed: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name, measure in measures.items():
        headline = name.removesuffix("_valid")
        if headline != name and not paired.invalid:
            figures[name] = figures[headline]  # the same pairs
        else:
            figures[name] = measure.figure(paired.tables, resamples=resamples, seed=seed)
    return {**figures, "invalid": invalid_figure(paired.tables)}


def _grade(paired: Paired, index: int, resamples: int, seed: int) -> GradeFigures:
    precision, recall = (
        measure.figure(paired.tables, resamples=resamples, seed=seed)
        for measure in grade_measures(paired.scale, index)
    )  # fmt: skip
    return GradeFigures(paired.scale[index], recall.n, precision.n, precision, recall)


def _notes(human: Qrels, paired: Paired) -> list[str]:
    notes = []
    if paired.invalid:
        labels = ", ".join(f"{label} ({count})" for label, count in paired.invalid.items())
        notes.append(
            f"{sum(paired.invalid.values())} of {paired.n} answers are invalid and count as the worst disagreement:"
            f" {labels}."
        )
    if paired.missing:
        grades = [grade for row in human.values() for grade in row.values()]
        table = paired.tables.sum(axis=0)
        # Kappa if the missing labels were invalid answers that the judge's file does not list.
        table[:, -1] += confusion(grades, grades, paired.scale)[:, :-1].sum(axis=1) - table.sum(axis=1)
        worst = float(kappa(table, disagreement(paired.scale)))
        notes.append(
            f"{paired.missing} of {paired.missing + paired.n} human-graded pairs have no label of the judge and are in"
            f" no figure. If they were invalid answers, kappa would be {worst:.3f}."
        )
    if paired.extra:
        notes.append(f"{paired.extra} labels of the judge are on pairs without a human grade and are left out.")
    if len(paired.tables) < 10:
        notes.append(f"The pairs are of only {len(paired.tables)} queries: intervals by query are unreliable.")
    return notes


#: Figures of the table of all judges.
OVERVIEW_FIGURES = ("kappa", "kappa_binary", "kappa_quadratic", "mae", "bias", "invalid")

#: Figure -> its heading in tables.
HEADINGS = {
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
    """Cards as Markdown: an overview sorted by kappa, differences of the best judge to the others, and each card."""
    ranked = sorted(cards, key=_kappa, reverse=True)
    parts = [*(_overview(ranked) if len(ranked) > 1 else ()), *(_differences(comparison) if comparison else ())]
    for card in ranked:
        parts += [f"## {card.judge}", *_card(card)]
    return "\n\n".join(["# Judge cards", *parts]) + "\n"


def _overview(cards: Sequence[JudgeCard]) -> Iterator[str]:
    rows = [
        [_name(card), *(_named(name, card.figures[name]) for name in OVERVIEW_FIGURES), str(card.n), str(card.queries)]
        for card in cards
    ]
    yield markdown_table(["judge", *(HEADINGS[name] for name in OVERVIEW_FIGURES), "n", "queries"], rows)


def _differences(comparison: JudgeComparison) -> Iterator[str]:
    beaten = {each.b for each in comparison.differences}
    best = next(each.a for each in comparison.differences if each.a not in beaten)
    differences = [each for each in comparison.differences if each.a == best]
    rows = [
        [f"{each.a} − {each.b}", figure(each.difference, each.low, each.high, "+"), p_value(each.p_corrected)]
        for each in differences
    ]
    pairs = f"{differences[0].n} pairs of {differences[0].queries} queries"
    yield f"Differences in {comparison.measure} between the best judge and the others, paired over {pairs}:"
    yield markdown_table(["", "difference", f"p, corrected ({comparison.correction})"], rows)
    significant = sum(each.p_corrected <= 0.05 for each in comparison.differences)
    text = f"{significant} of {len(comparison.differences)} pairs of judges differ at 0.05 after correction."
    yield f"{text} {markdown_text(comparison.disagreements)}".rstrip()


def _card(card: JudgeCard) -> Iterator[str]:
    for reason in card.circular:
        yield f"**Circular**: {reason}."
    yield f"{card.n} pairs of {card.queries} queries; 95% intervals by query; relevant from grade {card.relevant}."
    yield markdown_table(
        ["", "value", "n"],
        [
            [HEADINGS[name], _named(name, value), str(value.n)]
            for name, value in card.figures.items()
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
        yield from _raters(card.people)
    if card.order:
        yield from _order(card.order)
    if card.stability:
        yield from _stability(card.stability)
    if card.needs:
        yield "Number of queries (with as many pairs as here) for an interval of a given half width:"
        yield markdown_table(
            ["", *(f"± {width:g}" for width, _ in card.needs[0].targets)],
            [
                [HEADINGS[need.measure], *(str(count or "over a million") for _, count in need.targets)]
                for need in card.needs
            ],
        )
    if card.notes:
        yield "\n".join(f"* {note}" for note in card.notes)


def _raters(people: People) -> Iterator[str]:
    yield f"Agreement of human raters, the ceiling (alpha of all: {_figure(people.alpha)}, n = {people.alpha.n}):"
    rows = []
    for two in people.pairs:
        figures = (two.kappa, two.kappa_binary, two.kappa_quadratic, two.mae)
        rows.append([f"{two.a}, {two.b}", *map(_figure, figures), str(two.kappa.n)])
    head = ["", *(HEADINGS[name] for name in ("kappa", "kappa_binary", "kappa_quadratic", "mae")), "n"]
    yield markdown_table(head, rows)


def _order(order: SystemOrder) -> Iterator[str]:
    yield f"Order of {len(order.systems)} systems by {order.measure} over {order.tau.queries} topics:"
    rows = [
        ["all", _figure(order.tau), _figure(order.tau_ap)],
        [f"the best {order.top}", _figure(order.tau_top), _figure(order.tau_ap_top)],
    ]
    yield markdown_table(["", "Kendall's tau", "tau-ap"], rows)
    systems = zip(order.systems, order.human, order.judge, strict=True)
    yield markdown_table(["system", "human", "judge"], [[name, f"{a:.3f}", f"{b:.3f}"] for name, a, b in systems])
    if order.notes:
        yield "\n".join(f"* {note}" for note in order.notes)


def _stability(stability: Stability) -> Iterator[str]:
    yield (
        f"Under {len(stability.variants) + 1} prompt variants, the proportion of pairs with the same grade in all is"
        f" {_figure(stability.unchanged)}, n = {stability.unchanged.n} (alpha {_figure(stability.alpha)}); worst"
        f" variant: {stability.worst}. Compared with {stability.reference}:"
    )
    rows = [
        [each.name, *map(_figure, (each.unchanged, each.kappa, each.alpha, each.shift, each.invalid))]
        for each in stability.variants
    ]
    yield markdown_table(["variant", "unchanged", "kappa", "alpha", "shift of the mean", "invalid"], rows)
    if stability.left_out:
        yield f"* {stability.left_out} pairs that some variant lacks are left out."


def _kappa(card: JudgeCard) -> float:
    kappa = card.figures["kappa"].value
    return -math.inf if math.isnan(kappa) else kappa


def _name(card: JudgeCard) -> str:
    return f"{card.judge} (circular)" if card.circular else card.judge


def _figure(value: Figure) -> str:
    return figure(value.value, value.low, value.high)


def _named(name: str, value: Figure) -> str:
    """The figure; the small rate of invalid answers as a percentage."""
    if name != "invalid":
        return _figure(value)
    return f"{value.value:.2%} ({value.low:.2%} to {value.high:.2%})"
