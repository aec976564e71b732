"""Variants of one adapter: who decides to abstain and what to cite, with thresholds fitted on the other folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rag_mtrag.data import FOLDS, Record, fold_of
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.task import PromptedTask
from searchlora.tasks.rag_answer.baselines import best_sentence
from searchlora.tasks.rag_answer.deciding import recited, relevances, rule_of

#: The variant that is compared with all others; its judge abstains and cites.
ADAPTER = "adapter"

#: Name of a variant -> who abstains, and who cites.
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "adapter, own score": {"abstain": "answer", "cite": "answer"},
    "adapter, judge abstains": {"abstain": "judge", "cite": "answer"},
    "adapter, judge abstains, support cites": {"abstain": "judge", "cite": "support"},
    ADAPTER: {"abstain": "judge", "cite": "judge"},
    "adapter, both abstain, judge cites": {"abstain": "both", "cite": "judge"},
}

#: A judge without an answering adapter: the best sentence of the most relevant passage.
QUOTED = "adapter, judge and quotation"


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


def variant_outputs(
    task: PromptedTask, rows: Sequence[Record], written: Written | None
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The outputs of every variant, and the rules of every fold.

    Args:
        task: With the settings of the adapters.
        rows: All test rows, with `grades`.
        written: None: only `QUOTED`.

    Returns:
        Variant -> row id -> output, and for each fold its rules with the rows that they were fitted on.

    The thresholds of the judge are fitted on all rows of the other folds, on which it was not trained; those of rules
    that need the score of the answering adapter on the validation rows of its fold.
    """
    outputs: dict[str, dict[str, Any]] = {name: {} for name in ((*VARIANTS, QUOTED) if written else (QUOTED,))}
    fitted = []
    for fold in range(FOLDS):
        others = [row for row in rows if fold_of(row) != fold]
        rules = _rules(task, others, dict.fromkeys((str(row["id"]) for row in others), 0.5), "judge")
        about = {"judge": rules}
        if written:
            scores = written.validation[fold]
            about["both"] = _rules(task, [row for row in others if row["id"] in scores], scores, "both")
        fitted.append(about)
        for row in (row for row in rows if fold_of(row) == fold):
            outputs[QUOTED][row["id"]] = _quoted(task, row, rules)
            for name, wanted in VARIANTS.items() if written else ():
                chosen = {
                    "abstain": "answer" if wanted["abstain"] == "answer" else about[wanted["abstain"]]["abstain"],
                    "cite": rules["cite"] if wanted["cite"] == "judge" else wanted["cite"],
                }
                assert written is not None
                bound = task.bound(task.settings, {**written.tuned[fold], **chosen})
                outputs[name][row["id"]] = _decided(bound, row, written)
    return outputs, fitted


def _rules(task: PromptedTask, rows: Sequence[Record], own: Mapping[str, float], abstain: str) -> dict[str, Any]:
    scored = [CitedAnswer("", (), False, own[row["id"]]) for row in rows]
    return dict(task.bound(task.settings, {"abstain": abstain, "cite": "judge"}).tune(rows, scored))


def _decided(task: PromptedTask, row: Record, written: Written) -> Any:
    spec: Any = task.output(row)
    value = task.apply_tuning(spec.at_threshold(written.own[row["id"]], 0.5), row)
    return value if value.abstained else spec.with_continuation(value, written.text[row["id"]])


def _quoted(task: PromptedTask, row: Record, rules: Mapping[str, Any]) -> Any:
    value = task.bound(task.settings, rules).apply_tuning(CitedAnswer("", (), False, 0.0), row)
    relevance, cite = relevances(row), rule_of(rules, "cite")
    assert relevance is not None and cite is not None
    return value if value.abstained else recited(best_sentence(row, relevance.index(max(relevance))), row, cite)
