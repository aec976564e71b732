"""Judge cards as an HTML page and as Markdown: agreement of judges with people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.formatting import interval, markdown_text, number, p_value
from searchlora.eval.judge.card import JudgeCard
from searchlora.eval.judge.comparison import JudgeComparison, JudgeDifference
from searchlora.eval.judge.rater_agreement import People
from searchlora.eval.report.blocks import (
    Block,
    Bullets,
    Cell,
    Group,
    Heading,
    Section,
    Text,
    estimate,
    line,
    markdown,
    percentage,
    table,
)
from searchlora.eval.report.heat_maps import calibration_block, confusion_table
from searchlora.eval.report.page import Alert, write_page
from searchlora.eval.resampling import Estimate
from searchlora.eval.significance import CORRECTION_NAMES, LEVEL

#: Figures of the table of all judges.
OVERVIEW_FIGURES = ("kappa", "kappa_binary", "kappa_quadratic", "mae", "bias", "invalid")

#: Figures of the agreement between people.
_CEILING_FIGURES = ("kappa", "kappa_binary", "kappa_quadratic", "mae")

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

#: Greatest number of judges that are not folded.
_OPEN = 5

Curves = Mapping[str, Sequence[CurvePoint]]


def write_judge_card(
    path: str | Path,
    title: str,
    cards: Sequence[JudgeCard],
    provenance: Mapping[str, str],
    *,
    comparison: JudgeComparison | None = None,
    curves: Curves | None = None,
) -> Path:
    """Write the cards of judges that were compared with the same people as one self-contained HTML file.

    Args:
        cards: One at least; shown by falling kappa over all grades.
        provenance: What they were made from, label -> value, for example a file and its sha256.
        comparison: Of every two judges, by `compare_judges`.
        curves: Judge -> its `grade_curve`: mean human grade for each grade of the judge.
    """
    ranked = sorted(cards, key=_kappa, reverse=True)
    reasons = tuple(f"{judge_name(card)}: {why}" for card in ranked for why in card.circular)
    return write_page(
        path,
        title,
        _sections(ranked, comparison, curves or {}),
        provenance,
        alerts=[Alert("Circular: a judge is evaluated on data that it had a part in", reasons)] if reasons else [],
        summary=_summary(ranked, comparison),
    )


def cards_markdown(cards: Sequence[JudgeCard], comparison: JudgeComparison | None) -> str:
    """The same cards as Markdown."""
    ranked = sorted(cards, key=_kappa, reverse=True)
    sentences = [markdown_text(sentence) for sentence in _summary(ranked, comparison)]
    return "\n\n".join(["# Judge cards", *sentences, markdown(_sections(ranked, comparison, {}), level=2)])


def judge_name(card: JudgeCard) -> str:
    """The printed name: `name (circular)` if the card is circular."""
    return f"{card.judge} (circular)" if card.circular else card.judge


def _sections(ranked: Sequence[JudgeCard], comparison: JudgeComparison | None, curves: Curves) -> list[Section]:
    differences = [_differences_section(ranked, comparison)] if comparison is not None else []
    return [_overview_section(ranked), *differences, _cards_section(ranked, curves)]


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
        differ = sum(difference.p_corrected <= LEVEL for difference in comparison.differences)
        rest = len(comparison.differences) - differ
        sentences.append(
            f"{differ} of {len(comparison.differences)} pairs of judges are shown to differ in "
            f"{comparison.measure} after correction"
            + ("; of the others, neither is known to be the better one." if rest else ".")
        )
    return sentences


def _overview_section(ranked: Sequence[JudgeCard]) -> Section:
    """All judges in one table, below the agreement between people."""
    people = next((card.people.pairs for card in ranked if card.people is not None), ())
    lines = []
    for two in people:
        figures = [_figure(name, getattr(two, name, None)) for name in OVERVIEW_FIGURES]
        lines.append(line([f"people: {two.a}, {two.b}", *figures, _sample(two.kappa.n, two.kappa.queries)]))
    for rank, card in enumerate(ranked, start=1):
        figures = [_figure(name, card.figures[name]) for name in OVERVIEW_FIGURES]
        name = Cell(judge_name(card), link=f"judge-{rank}")
        lines.append(line([name, *figures, _sample(card.n, card.queries)]))
    head = ["judge", *(HEADINGS[name] for name in OVERVIEW_FIGURES), "n"]
    note = (
        "By kappa over all grades. 95% intervals by query, since the pairs of one query depend on each other; "
        "overlapping intervals do not show whether two judges differ, since they cover the same pairs. Invalid answers "
        "count as the worst grade."
    )
    title = "Judges" if len(ranked) > 1 else "Judge"
    return Section("judges", title, (table("All judges", head, lines), Text(note)))


def _differences_section(ranked: Sequence[JudgeCard], comparison: JudgeComparison) -> Section:
    """Differences between judges: each against the best, and how many it is better or worse than."""
    names = {card.judge: judge_name(card) for card in ranked}
    against: dict[str, dict[str, JudgeDifference]] = {}
    for difference in comparison.differences:
        against.setdefault(difference.a, {})[difference.b] = difference
        against.setdefault(difference.b, {})[difference.a] = difference
    first = comparison.differences[0]
    # The better one of each two is a: the best is b of none.
    best = next(name for name in against if all(pair.a == name for pair in against[name].values()))
    lines = []
    for name in sorted(against, key=lambda name: abs(against[best][name].difference) if name != best else -1.0):
        shown = [pair for pair in against[name].values() if pair.p_corrected <= LEVEL]
        to_best = against[best].get(name)
        lines.append(
            [
                names.get(name, name),
                estimate(to_best.difference, to_best.low, to_best.high, "+") if to_best else "–",
                p_value(to_best.p_corrected) if to_best else "–",
                str(sum(pair.a == name for pair in shown)),
                str(sum(pair.b == name for pair in shown)),
                str(len(against[name]) - len(shown)),
            ]
        )
    left_out = f" ({comparison.left_out} pairs that some judge lacks are left out)" if comparison.left_out else ""
    note = (
        f"Paired, in {HEADINGS.get(comparison.measure, comparison.measure)}, over the {first.n} pairs of "
        f"{first.queries} queries that all judges and people labelled{left_out}. p: {comparison.swaps} random swaps "
        f"of two judges' labels, query by query, corrected by {CORRECTION_NAMES[comparison.correction]} over all "
        f"{len(comparison.differences)} pairs of judges; better and worse at 0.05. The intervals are not corrected."
    )
    head = [
        "judge",
        f"{names.get(best, best)} minus this one",
        "p corrected",
        "better than",
        "worse than",
        "no significant difference from",
    ]
    return Section(
        "apart",
        "Which judges differ",
        (table("Which judges differ", head, lines), Text(f"{note} {comparison.disagreements}".rstrip())),
    )


def _cards_section(ranked: Sequence[JudgeCard], curves: Curves) -> Section:
    """The card of each judge, folded if there are many."""
    layout = "fold" if len(ranked) > _OPEN else "open"
    groups = []
    for rank, card in enumerate(ranked, start=1):
        aside = f"kappa {number(card.figures['kappa'].value)}"
        blocks = tuple(_card(card, curves.get(card.judge, ())))
        groups.append(Group(layout, blocks, judge_name(card), aside, f"judge-{rank}"))
    return Section("cards", "Judge by judge", tuple(groups))


def _card(card: JudgeCard, points: Sequence[CurvePoint]) -> list[Block]:
    name = judge_name(card)
    sample = (
        f"{card.n} pairs of {card.queries} queries; relevant from grade {card.relevant} on. 95% intervals by query."
    )
    blocks: list[Block] = [Text(f"Circular: {reason}", alert=True) for reason in card.circular]
    blocks.append(Text(sample, note=False))
    agreement = table(
        f"Agreement of {name}",
        ["figure", "value", "n"],
        [
            [HEADINGS[key], _figure(key, figure), str(figure.n)]
            for key, figure in card.figures.items()
            if card.invalid or not key.endswith("_valid")
        ],
    )
    grades = [str(grade) for grade in card.scale]
    confusions = confusion_table(
        f"Confusion matrix of {name}", grades, [*grades, "invalid"], card.confusion, "people \\ judge"
    )
    of_grades = table(
        f"Grades of {name}",
        ["grade", "people", "judge", "precision", "recall"],
        [
            [str(row.grade), str(row.human), str(row.judge), _figure("", row.precision), _figure("", row.recall)]
            for row in card.grades
        ],
    )
    blocks.append(
        Group(
            "beside",
            (
                Group("part", (Heading("Agreement with people", 4), agreement)),
                Group(
                    "part",
                    (
                        Heading("Confusion", 4),
                        confusions,
                        Text("Rows are human grades; a stronger tint is a greater share of the row."),
                        of_grades,
                        *_invalid_note(card),
                    ),
                ),
            ),
        )
    )
    if points:
        head = ("judge's grade", "mean human grade", "n", "queries")
        blocks += [Heading("Calibration", 4), calibration_block(name, points, head, (head[0], head[1]))]
    if card.people:
        blocks += _people(card.people, name)
    return [*blocks, Bullets(card.notes)] if card.notes else blocks


def _people(people: People, judge: str) -> list[Block]:
    lines = [
        [
            f"{two.a}, {two.b}",
            *(_figure(name, getattr(two, name)) for name in _CEILING_FIGURES),
            str(two.kappa.n),
        ]
        for two in people.pairs
    ]
    head = ["people", *(HEADINGS[name] for name in _CEILING_FIGURES), "n"]
    alpha = people.alpha
    return [
        Heading("Agreement between people, the ceiling", 4),
        table(f"Agreement between people, beside {judge}", head, lines),
        Text(
            f"Krippendorff's alpha (ordinal) of all {len(people.raters)} raters: {number(alpha.value)} "
            f"{interval(alpha.low, alpha.high)}, n = {alpha.n}."
        ),
    ]


def _invalid_note(card: JudgeCard) -> list[Text]:
    labels = ", ".join(f"{label} ({count})" for label, count in card.invalid.items())
    return [Text(f"Answers outside the scale: {labels}.")] if labels else []


def _figure(name: str, figure: Estimate | None) -> Cell:
    """The cell of a figure; the small rate of invalid answers is a percentage."""
    if figure is None:
        return Cell("–")
    if name == "invalid":
        return percentage(figure.value, figure.low, figure.high)
    return estimate(figure.value, figure.low, figure.high, "+" if name == "bias" else "")


def _sample(n: int, queries: int) -> Cell:
    return Cell(str(n), (f"{queries} queries",))


def _kappa(card: JudgeCard) -> float:
    kappa = card.figures["kappa"].value
    return -math.inf if math.isnan(kappa) else kappa
