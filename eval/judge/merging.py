"""Merging of human and other judgments: a human grade takes precedence over one of another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.agreement import agreement_rate, as_scale, confusion, disagreement, kappa, listed
from searchlora.eval.judge.calibration import Calibration
from searchlora.eval.judge.labels import Labels, check_grades
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.resampling import Estimate, estimate
from searchlora.eval.trec import Qrels

RULE = "human wins"


@dataclass(frozen=True)
class MergedQrels:
    """Merged judgments of two sources.

    Attributes:
        human, other: Number of grades of each source.
        invalid: Number of labels of the other source that are not on the scale, on pairs without a human grade.
        same, kappa: Proportion of equal grades and Cohen's kappa on pairs labelled by both, before calibration; an
            invalid label is never equal. None without such pairs.
        rule: Description of the rule, for the card.
    """

    qrels: Qrels
    human: int
    other: int
    invalid: int
    same: Estimate | None
    kappa: Estimate | None
    rule: str


def merge_qrels(
    human: Qrels,
    other: Labels,
    *,
    scale: Sequence[int] | None = None,
    grades: Mapping[int, int] | None = None,
    calibration: Calibration | None = None,
) -> MergedQrels:
    """Add another source's judgments to human ones. On pairs labelled by both, the human grade is kept.

    Args:
        other: Labels of the other source; None for an invalid answer.
        scale: The grades of the scale; labels of the other source outside it are invalid. None: the grades that occur
            in `human`, and then a label outside them is an error.
        grades: Grade of the other source -> grade of the scale, if the source has another scale.
        calibration: Applied to the grades of the other source after `grades`.

    Raises:
        UsageError: when `scale` is None and a label is outside it, or `calibration` is of another scale.
        DataError: when a human grade is outside the scale.

    Examples:
        >>> merged = merge_qrels({"q1": {"d1": 2, "d2": 0}}, {"q1": {"d1": 1, "d3": 2, "d4": None}}, scale=(0, 1, 2))
        >>> merged.qrels, merged.human, merged.other, merged.invalid
        ({'q1': {'d1': 2, 'd2': 0, 'd3': 2}}, 2, 1, 1)
    """
    grade_scale = as_scale(scale if scale is not None else {grade for row in human.values() for grade in row.values()})
    if calibration is not None and calibration.scale != grade_scale:
        raise UsageError(
            f"the calibration is for the grades {listed(calibration.scale)}, not for {listed(grade_scale)}"
        )
    check_grades(human, grade_scale)
    labels = {
        topic: {d: grades.get(grade) if grades and grade is not None else grade for d, grade in row.items()}
        for topic, row in other.items()
    }
    outside = sorted({label for row in labels.values() for label in row.values() if label is not None} - {*grade_scale})
    if outside and scale is None:
        raise UsageError(
            f"the grade {outside[0]} does not occur among the human grades ({listed(grade_scale)})",
            fix="Give the scale; labels outside it are then left out as invalid.",
        )
    qrels: dict[str, dict[str, int]] = {topic: dict(row) for topic, row in human.items()}
    added = invalid = 0
    for topic, row in labels.items():
        for document, grade in row.items():
            if document in human.get(topic, {}):
                continue
            if grade is None or grade not in grade_scale:
                invalid += 1
                continue
            qrels.setdefault(topic, {})[document] = calibration.grade(grade) if calibration is not None else grade
            added += 1
    same, kappa_figure = _overlap(human, labels, grade_scale)
    n_human = sum(map(len, human.values()))
    return MergedQrels(qrels, n_human, added, invalid, same, kappa_figure, _rule(grades, calibration))


def merged_qrels_card(
    merged: MergedQrels,
    human: JudgmentsCard | None,
    other: JudgmentsCard,
    *,
    created: str,
    made_from: Mapping[str, str],
) -> JudgmentsCard:
    """The card of merged judgments, with judge and lineage of the other source, and as circular as that source.

    Raises:
        UsageError: when `human` is not of source human, or `other` not of source llm or clicks.
    """
    if human is not None and human.source != "human":
        raise UsageError(f"the human judgments have the source '{human.source}'")
    if other.source not in ("llm", "clicks"):
        raise UsageError(
            f"the judgments to add have the source '{other.source}'",
            fix="Add judgments of an LLM or of clicks.",
        )
    return JudgmentsCard(
        source="mixed",
        created=created,
        judge=other.judge,
        judge_lineage=other.judge_lineage,
        engine=other.engine,
        base=other.base,
        prompt_hash=other.prompt_hash,
        judge_queries=other.judge_queries,
        counts={"human": merged.human, other.source: merged.other},
        rule=merged.rule,
        made_from=dict(made_from),
    )


def _overlap(human: Qrels, labels: Labels, scale: tuple[int, ...]) -> tuple[Estimate | None, Estimate | None]:
    """Proportion of equal grades and kappa on the pairs labelled by both, with intervals by topic."""
    tables = []
    for topic, row in human.items():
        both = [document for document in row if document in labels.get(topic, {})]
        if both:
            tables.append(confusion([row[d] for d in both], [labels[topic][d] for d in both], scale))
    if not tables:
        return None, None
    stacked = np.stack(tables)
    n = int(stacked.sum())
    return (
        estimate(agreement_rate, stacked, n, bounds=(0, 1)),
        estimate(partial(kappa, weights=disagreement(scale)), stacked, n, bounds=(-1, 1)),
    )


def _rule(grades: Mapping[int, int] | None, calibration: Calibration | None) -> str:
    parts = [RULE]
    if grades:
        parts.append(f"grades of the other source mapped {', '.join(f'{a} to {b}' for a, b in sorted(grades.items()))}")
    if calibration is not None:
        parts.append(f"then calibrated (isotonic) on {calibration.n} human labels of {calibration.queries} topics")
    return "; ".join(parts)
