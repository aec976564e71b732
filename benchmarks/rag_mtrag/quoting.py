"""Quotations as answers, with thresholds of a judge of the passages, which are fitted outside the fold of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rag_mtrag.data import FOLDS, Record, fold_of
from searchlora.outputs import CitedAnswer
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


def rules_of(task: GenerationTask, judge: Judge, fold: int) -> dict[str, Any]:
    """The rules of a fold, fitted as `searchlora tune` does."""
    rows = [row for row in judge.rows[fold] if row["id"] in judge.fits[fold]]
    outputs = [CitedAnswer("", (), False, 0.5)] * len(rows)
    return dict(task.bound(task.settings, {"abstain": "judge", "cite": "judge"}).tune(rows, outputs))


def _quotation(task: GenerationTask, row: Record, rules: Mapping[str, Any]) -> Any:
    value = task.bound(task.settings, rules).apply_tuning(CitedAnswer("", (), False, 0.0), row)
    relevance, cite = relevances(row), rule_of(rules, "cite")
    assert relevance is not None and cite is not None
    return value if value.abstained else recited(best_sentence(row, relevance.index(max(relevance))), row, cite)
