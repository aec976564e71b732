"""Variants of a system: who decides to abstain and what to cite, with thresholds fitted outside the fold of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rag_mtrag.data import FOLDS, Record, fold_of
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.task import GenerationTask
from searchlora.tasks.rag_answer.baselines import best_sentence
from searchlora.tasks.rag_answer.deciding import recited, relevances, rule_of


@dataclass(frozen=True)
class Judge:
    """Grades of the passages of all rows.

    Attributes:
        rows: For each fold, its rows and those of `fits`, with the `grades` of the judge that serves the fold.
        fits: For each fold, ids of the rows on which its thresholds are fitted; none of them is of the fold, and the
            judge was not trained on them.
    """

    rows: Sequence[Sequence[Record]]
    fits: Sequence[frozenset[str]]

    @classmethod
    def of_all_folds(cls, rows: Sequence[Record]) -> Judge:
        """One judge for all folds, trained on none of the rows; its thresholds are fitted on all other folds."""
        others = [frozenset(str(row["id"]) for row in rows if fold_of(row) != fold) for fold in range(FOLDS)]
        return cls([rows] * FOLDS, others)


@dataclass(frozen=True)
class Written:
    """What the answering adapter of a row's fold wrote when it had to answer.

    Attributes:
        own: Row id -> its probability of abstaining.
        text: Row id -> the answer, with the citations as written.
        validation: For each fold, row id -> the probability of abstaining for its validation rows.
        tuned: For each fold, the tuned values of its adapter.
    """

    own: Mapping[str, float]
    text: Mapping[str, str | InvalidOutput]
    validation: Sequence[Mapping[str, float]]
    tuned: Sequence[Mapping[str, Any]]


def quoted(task: GenerationTask, judge: Judge) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best sentence of the most relevant passage where the judge does not abstain, and the rules of each fold.

    Args:
        task: With the settings of the answers.

    Returns:
        Row id -> output; and for each fold the rules `abstain` and `cite`.
    """
    outputs, fitted = dict[str, Any](), []
    for fold in range(FOLDS):
        rules = rules_of(task, judge, fold)
        fitted.append(rules)
        for row in judge.rows[fold]:
            if fold_of(row) == fold:
                outputs[row["id"]] = _quotation(task, row, rules)
    return outputs, fitted


def generated(task: GenerationTask, judge: Judge, written: Written, *, abstain: str, cite: str) -> dict[str, Any]:
    """The outputs of the answering adapters under rules that are fitted for each fold.

    Thresholds that need the score of the answering adapter are fitted on its validation rows.

    Args:
        abstain: `answer`, `judge` or `both`.
        cite: `answer`, `judge` or `support`.
    """
    outputs = dict[str, Any]()
    for fold in range(FOLDS):
        rules = rules_of(task, judge, fold)
        chosen: dict[str, Any] = {"abstain": "answer", "cite": rules["cite"] if cite == "judge" else cite}
        if abstain == "both":
            chosen["abstain"] = rules_of(task, judge, fold, own=written.validation[fold])["abstain"]
        elif abstain == "judge":
            chosen["abstain"] = rules["abstain"]
        bound = task.bound(task.settings, {**written.tuned[fold], **chosen})
        for row in judge.rows[fold]:
            if fold_of(row) == fold:
                outputs[row["id"]] = _decided(bound, row, written)
    return outputs


def rules_of(
    task: GenerationTask, judge: Judge, fold: int, *, own: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The rules of a fold, fitted as `searchlora tune` does.

    Args:
        own: Row id -> the probability of abstaining of rows to fit a rule `both` on; None: a rule `judge`.
    """
    rows = [row for row in judge.rows[fold] if row["id"] in judge.fits[fold] and (own is None or row["id"] in own)]
    outputs = [CitedAnswer("", (), False, own[row["id"]] if own else 0.5) for row in rows]
    wanted = {"abstain": "both" if own else "judge", "cite": "judge"}
    return dict(task.bound(task.settings, wanted).tune(rows, outputs))


def _decided(task: GenerationTask, row: Record, written: Written) -> Any:
    spec: Any = task.output(row)
    value = task.apply_tuning(spec.at_threshold(written.own[row["id"]], 0.5), row)
    return value if value.abstained else spec.with_continuation(value, written.text[row["id"]])


def _quotation(task: GenerationTask, row: Record, rules: Mapping[str, Any]) -> Any:
    value = task.bound(task.settings, rules).apply_tuning(CitedAnswer("", (), False, 0.0), row)
    relevance, cite = relevances(row), rule_of(rules, "cite")
    assert relevance is not None and cite is not None
    return value if value.abstained else recited(best_sentence(row, relevance.index(max(relevance))), row, cite)
