"""Human judgments and others made one: where people judged, their grade stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.agreement import Floats, agreement_rate, as_scale, confusion, disagreement, kappa
from searchlora.eval.judge.calibration import Calibration
from searchlora.eval.judge.labels import Labels
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.resampling import Figure, intervals
from searchlora.eval.trec import Qrels

RULE = "human wins"


@dataclass(frozen=True)
class Mixed:
    """Judgments of two sources in one.

    Attributes:
        human: How many of the grades are people's.
        other: How many are the other source's.
        invalid: What the other source said of pairs that people did not judge and is no grade of the scale; left out.
        same: Share of equal grades where both judged, by the other's grades as they were before calibration; an
            invalid one is never equal. None where no pair was judged by both.
        kappa: Cohen's kappa over all grades, on the same pairs.
        rule: How they were mixed, in words.
    """

    qrels: Qrels
    human: int
    other: int
    invalid: int
    same: Figure | None
    kappa: Figure | None
    rule: str


def mix(
    human: Qrels,
    other: Labels,
    *,
    scale: Sequence[int] | None = None,
    grades: Mapping[int, int] | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Mixed:
    """Put another source's judgments beside human ones. Where both judged, the human grade stands.

    Args:
        other: None for an answer that was no grade.
        scale: The grades there are; what the other source gave outside it is invalid. None: those that people gave,
            and then a grade outside them is refused.
        grades: The other source's grade -> grade of the scale, where it grades on another scale.
        calibration: Laid over the other source's grades after `grades`.
        seed: Of the bootstrap by topic.

    Raises:
        UsageError: when a grade is outside a scale that was not given, or `calibration` is of another scale.
        DataError: when a human grade is outside the scale.
    """
    known = as_scale(scale if scale is not None else {grade for row in human.values() for grade in row.values()})
    if calibration is not None and calibration.scale != known:
        raise UsageError(f"the calibration is for the grades {_named(calibration.scale)}, not for {_named(known)}")
    _check_people(human, known)
    said = {
        topic: {d: grades.get(grade) if grades and grade is not None else grade for d, grade in row.items()}
        for topic, row in other.items()
    }
    odd = sorted({grade for row in said.values() for grade in row.values() if grade is not None} - set(known))
    if odd and scale is None:
        raise UsageError(
            f"the grade {odd[0]} is none that people gave ({_named(known)})",
            fix="Give the grades there are; those outside are then left out as invalid.",
        )
    qrels: dict[str, dict[str, int]] = {topic: dict(row) for topic, row in human.items()}
    added = invalid = 0
    for topic, row in said.items():
        for document, grade in row.items():
            if document in human.get(topic, {}):
                continue
            if grade is None or grade not in known:
                invalid += 1
                continue
            qrels.setdefault(topic, {})[document] = calibration.grade(grade) if calibration is not None else grade
            added += 1
    same, agreed = _overlap(human, said, known, seed)
    people = sum(map(len, human.values()))
    return Mixed(qrels, people, added, invalid, same, agreed, _rule(grades, calibration))


def mixed_card(
    mixed: Mixed,
    human: JudgmentsCard | None,
    other: JudgmentsCard,
    *,
    created: str,
    made_from: Mapping[str, str],
) -> JudgmentsCard:
    """The card of a mixture: its judge and lineage are the other source's, so it is as circular as that was.

    Raises:
        UsageError: when `human` is not from people, or `other` is.
    """
    if human is not None and human.source != "human":
        raise UsageError(f"the judgments that should win are not from people (source: {human.source})")
    if other.source not in ("llm", "clicks"):
        raise UsageError(
            f"the judgments to fill in have the source '{other.source}'",
            fix="Fill in judgments of an LLM or of clicks.",
        )
    return JudgmentsCard(
        source="mixed",
        created=created,
        judge=other.judge,
        judge_lineage=other.judge_lineage,
        base=other.base,
        prompt_hash=other.prompt_hash,
        judge_queries=other.judge_queries,
        counts={"human": mixed.human, other.source: mixed.other},
        rule=mixed.rule,
        made_from=dict(made_from),
    )


def _check_people(human: Qrels, scale: tuple[int, ...]) -> None:
    for topic, row in human.items():
        for document, grade in row.items():
            if grade not in scale:
                raise DataError(
                    f"the human grade {grade} of document {document} is none of {_named(scale)}", where=f"topic {topic}"
                )


def _overlap(
    human: Qrels, said: Mapping[str, Mapping[str, int | None]], scale: tuple[int, ...], seed: int
) -> tuple[Figure | None, Figure | None]:
    """Share of equal grades and kappa on the pairs that both judged, resampled by topic."""
    tables = []
    for topic, row in human.items():
        both = [document for document in row if document in said.get(topic, {})]
        if both:
            tables.append(confusion([row[each] for each in both], [said[topic][each] for each in both], scale))
    if not tables:
        return None, None
    stacked = np.stack(tables)[:, None]
    n = int(stacked.sum())

    def figure(values: Floats) -> Figure:
        value, low, high = map(float, values[0])
        return Figure(value, low, high, n, len(tables))

    weights = disagreement(scale)
    same = intervals(agreement_rate, stacked, bounds=(0, 1), seed=seed)
    agreed = intervals(lambda table: kappa(table, weights), stacked, bounds=(-1, 1), seed=seed)
    return figure(same), figure(agreed)


def _rule(grades: Mapping[int, int] | None, calibration: Calibration | None) -> str:
    said = [RULE]
    if grades:
        said.append(f"grades of the other {', '.join(f'{a} as {b}' for a, b in sorted(grades.items()))}")
    if calibration is not None:
        said.append(
            f"then calibrated ({calibration.method}) on {calibration.n} human labels of {calibration.queries} topics"
        )
    return "; ".join(said)


def _named(scale: Sequence[int]) -> str:
    return ", ".join(map(str, scale))
