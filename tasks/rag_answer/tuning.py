"""Tuning on validation records: the abstention threshold, and the rules by which a judge decides; see `deciding`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.records import Record
from searchlora.tasks.rag_answer.deciding import (
    ABSTAINS,
    ANSWER,
    CITES,
    JUDGE,
    Rule,
    abstention,
    relevances,
    relevant_passages,
)

#: The highest threshold. Above it the abstention is more likely than all other answers together; a model forced to
#: answer then tends to write a paraphrase of the abstention, which is not recognised as one.
MAX_THRESHOLD = 0.5

#: Folds of the cross-validation that compares the rules; records of one group are in one fold.
FOLDS = 5


def tuned(records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput]) -> dict[str, Any]:
    """The abstention threshold with the best `mean_f1`; empty unless scored records are of both kinds."""
    scored = [
        (output.abstention_probability, not record["answerable"])
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, CitedAnswer) and output.abstention_probability is not None
    ]
    unanswerable = np.array([gold for _, gold in scored], dtype=bool)
    if unanswerable.all() or not unanswerable.any():
        return {}
    probabilities = np.array([probability for probability, _ in scored])
    steps = np.unique(probabilities)
    midpoints = (steps[1:] + steps[:-1]) / 2
    candidates = (MAX_THRESHOLD, *midpoints[midpoints < MAX_THRESHOLD][::-1], 0.0)  # 0: always abstain
    scores = {float(threshold): mean_f1(probabilities >= threshold, unanswerable) for threshold in candidates}
    best = max(scores, key=lambda threshold: scores[threshold])
    return {"abstain_from": best, "validation": {"rows": len(scored), "mean F1": scores[best]}}


@dataclass(frozen=True)
class _Row:
    """What the rules decide by: the model's probability of abstaining, and the relevance of each passage."""

    group: str
    unanswerable: bool
    own: float
    relevance: list[float]
    gold: frozenset[int]


def tuned_rules(
    records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput], wanted: Mapping[str, str]
) -> dict[str, Any]:
    """The rules that a pipeline asks for, with thresholds fitted on validation records that a judge has graded.

    The rule `judge` abstains below the relevance, and the rule `answer` from the probability, with the best `mean_f1`.
    Passages are cited from the relevance with the best F1 of citations over the rows that are answered.

    `wanted`: `abstain` and `cite` -> who decides.
    """
    rows = [
        _Row(
            str(record["group"]),
            not record["answerable"],
            output.abstention_probability,
            relevance,
            frozenset(n for n, each in enumerate(record["passages"], 1) if each["id"] in record.get("gold", ())),
        )
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, CitedAnswer) and output.abstention_probability is not None
        if (relevance := relevances(record)) is not None
    ]
    silent = sum(row.unanswerable for row in rows)
    if not 0 < silent < len(rows):
        raise DataError(
            f"{silent} of {len(rows)} validation records with scores are unanswerable",
            fix="Both kinds are needed; --option missing=0.3 of `searchlora data build rag_answer` makes some.",
        )
    rules = {by: fitted(by, rows) for by in ABSTAINS}
    rule = rules[wanted.get("abstain", ANSWER)]
    chosen: dict[str, Any] = {"abstain": rule.plain()}
    if wanted.get("cite", ANSWER) in CITES[1:]:
        answered = [row for row in rows if not _abstains(rule, row)]
        chosen["cite"] = _cite(wanted["cite"], answered).plain()
    scores = {by: _cross_validated(by, rows) for by in ABSTAINS}
    return {**chosen, "validation": {"rows": len(rows), "unanswerable": silent, "mean F1": scores}}


def fitted(by: str, rows: Sequence[_Row]) -> Rule:
    """The rule of abstention with the best `mean_f1` over rows of both kinds."""
    silent = np.array([row.unanswerable for row in rows])
    own = np.array([row.own for row in rows])
    relevance = np.array([max(row.relevance) for row in rows])
    if by == ANSWER:
        return Rule(ANSWER, {"from": _best_threshold(own, silent, MAX_THRESHOLD)})
    return Rule(JUDGE, {"below": 1 - _best_threshold(1 - relevance, silent)})


def _abstains(rule: Rule, row: _Row) -> bool:
    return abstention(rule, row.own, max(row.relevance))[0]


def _best_threshold(scores: NDArray[np.float64], unanswerable: NDArray[np.bool_], greatest: float = math.inf) -> float:
    """The score from which abstaining has the best `mean_f1`, midway between two; the highest of equally good ones."""
    steps = np.unique(scores)
    candidates = [float(steps[-1]) + 1e-6, *((steps[1:] + steps[:-1]) / 2)[::-1], float(steps[0])]
    candidates = list(dict.fromkeys(min(threshold, greatest) for threshold in candidates))
    return float(max(candidates, key=lambda threshold: mean_f1(scores >= threshold, unanswerable)))


def _cross_validated(by: str, rows: Sequence[_Row]) -> float | None:
    """`mean_f1` of a rule that is fitted without the fold of the row; None if a fold leaves only one kind to fit on."""
    folds = [fingerprint(row.group) % FOLDS for row in rows]
    predicted = np.zeros(len(rows), dtype=bool)
    for fold in set(folds):
        rest = [row for row, its in zip(rows, folds, strict=True) if its != fold]
        if len({row.unanswerable for row in rest}) < 2:
            return None
        rule = fitted(by, rest)
        predicted[[its == fold for its in folds]] = [
            _abstains(rule, row) for row, its in zip(rows, folds, strict=True) if its == fold
        ]
    return mean_f1(predicted, np.array([row.unanswerable for row in rows]))


def _cite(by: str, answered: Sequence[_Row]) -> Rule:
    if by != JUDGE:
        return Rule(by, {})
    labelled = [row for row in answered if row.gold or row.unanswerable]
    scores = sorted({0.0, 1.0, *(relevance for row in labelled for relevance in row.relevance)}, reverse=True)
    candidates = scores[:: max(1, len(scores) // 100)]  # as good as all, in a hundredth of the time
    return Rule(JUDGE, {"from": max(candidates, key=lambda least: _citation_f1(labelled, least))})


def _citation_f1(rows: Sequence[_Row], least: float) -> float:
    cited = [set(relevant_passages(row.relevance, least)) for row in rows]
    hits = sum(len(row.gold & its) for row, its in zip(rows, cited, strict=True))
    return 2 * hits / max(1, sum(map(len, cited)) + sum(len(row.gold) for row in rows))


def mean_f1(predicted: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    """The mean of the F1 of abstaining and the F1 of answering; the former alone often favours always abstaining."""
    return (_f1(predicted, gold) + _f1(~predicted, ~gold)) / 2


def _f1(predicted: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    """F1; 0 where the class is neither predicted nor present."""
    return float(2 * (predicted & gold).sum() / max(1, predicted.sum() + gold.sum()))
