"""Judge card: agreement of an LLM judge with human judgments, every figure with its n and 95% interval by query.

In the headline figures, which are over all pairs, an invalid answer counts as the worst: it agrees with no grade, and
for weighted kappa and the absolute error it is as far off as the scale allows. Figures over valid answers only are
listed too (`…_valid`). Alpha and signed bias, which an answer without a grade does not have, are over valid answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from searchlora.eval.agreement import confusion, disagreement, kappa
from searchlora.eval.formatting import to_plain
from searchlora.eval.grade_measures import GradeMeasure, grade_measures, invalid_rate, measures_of_grade
from searchlora.eval.judge.labels import Labels, Paired, check_grades, common_pairs, pair, restrict
from searchlora.eval.judge.rater_agreement import People, people_agreement
from searchlora.eval.resampling import Estimate
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class GradeFigures:
    """One grade of the scale: its counts by humans and by the judge, its precision and its recall."""

    grade: int
    human: int
    judge: int
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class JudgeCard:
    """Result of `judge_card`.

    Attributes:
        relevant: The lowest grade that counts as relevant in binary figures.
        n, queries: Number of pairs labelled by humans and the judge, and of their queries.
        figures: name -> figure; names of `grade_measures`, kappa first, and `invalid`.
        confusion: Counts; rows are human grades, columns judge grades, invalid last.
        invalid: Invalid label -> count.
        missing, extra: Number of human-graded pairs without a label of the judge, which are in no figure, and of pairs
            labelled by the judge only.
        people: Agreement of human raters with each other, the ceiling; None with one rater per pair.
        circular: Reasons why the figures are circular (the judge is part of what it is compared with).
        notes: Notes for the reader.
    """

    judge: str
    scale: tuple[int, ...]
    relevant: int
    n: int
    queries: int
    figures: Mapping[str, Estimate]
    grades: tuple[GradeFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    invalid: Mapping[str, int]
    missing: int
    extra: int
    people: People | None = None
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
    circular: Sequence[str] = (),
    notes: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCard:
    """Compare a judge's labels with human grades.

    Args:
        judged: topic -> document -> grade; None and grades outside the scale are invalid answers.
        name: Name of the judge.
        relevant: The lowest grade that counts as relevant.
        raters: name -> qrels of each human rater, if pairs have several raters.
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
    measures = grade_measures(paired.scale, relevant)
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
        circular=tuple(circular),
        notes=(*_notes(human, paired), *_single_grade(paired), *people_notes, *notes),
    )


def _single_grade(paired: Paired) -> list[str]:
    """A note if one side uses a single grade: no number of queries makes such an agreement precise."""
    table = paired.tables.sum(axis=0)
    sides = {"judge": table[:, :-1].sum(axis=0), "human judgments": table.sum(axis=1)}
    return [
        f"Every valid grade of the {side} is {paired.scale[int(counts.argmax())]}: kappa is 0 or undefined whatever "
        "the number of queries."
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


def _figures(paired: Paired, measures: Mapping[str, GradeMeasure], resamples: int, seed: int) -> dict[str, Estimate]:
    figures: dict[str, Estimate] = {}
    for name, measure in measures.items():
        headline = name.removesuffix("_valid")
        if headline != name and not paired.invalid:
            figures[name] = figures[headline]  # the same pairs
        else:
            figures[name] = measure.estimate(paired.tables, resamples=resamples, seed=seed)
    return {**figures, "invalid": invalid_rate(paired.tables)}


def _grade(paired: Paired, index: int, resamples: int, seed: int) -> GradeFigures:
    precision, recall = (
        measure.estimate(paired.tables, resamples=resamples, seed=seed)
        for measure in measures_of_grade(paired.scale, index)
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
