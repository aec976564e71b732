"""The rewriting task: rewrite a query, given its conversation, into a self-contained query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import FreeText, OutputSpec
from searchlora.records import Record
from searchlora.task import EvaluationInput, PromptedTask
from searchlora.tasks.rewriting import baselines, evaluator
from searchlora.tasks.rewriting.dataset import FORMATS

#: The prompt keeps the opening turn, which names the subject, and this many of the latest turns.
LATEST_TURNS = 4
WORDS_PER_ANSWER = 30


class RewritingTask(PromptedTask):
    """Query and conversation -> a self-contained query in the vocabulary of the collection.

    It writes `query`, so it is evaluated by retrieval with its outputs.
    """

    name = "rewriting"
    version = 1
    formats = FORMATS
    upper_bounds = frozenset({baselines.REFERENCE})
    reads: Mapping[str, str] = {"query": "query", "history": "history"}
    writes = "query"

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {"query": record["query"], "history": truncated_history(record.get("history", []))}

    def target(self, record: Record) -> str:
        return str(record["rewrite"])

    def output(self, record: Record) -> OutputSpec:
        del record
        return FreeText(max_chars=400)

    def queries(self, record: Record) -> Sequence[str]:
        """The query, then its rewrite: both have one information need."""
        return [record["query"], record["rewrite"]]

    def fallback(self, record: Record) -> str:
        """The original query."""
        return str(record["query"])

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
        return baselines.baseline_outputs(records, dataset)


def truncated_history(history: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The opening turn, "…" in place of omitted turns, and the latest turns; answers truncated to their first words.

    Examples:
        >>> truncated_history([{"role": "user", "text": "warm  tents?"}])
        [{'role': 'user', 'text': 'warm tents?'}]
    """
    if len(history) > LATEST_TURNS + 2:
        history = [history[0], {"role": "assistant", "text": "…"}, *history[-LATEST_TURNS:]]
    return [{"role": turn["role"], "text": _truncated(turn)} for turn in history]


def _truncated(turn: Mapping[str, str]) -> str:
    words = turn["text"].split()
    if turn["role"] == "user" or len(words) <= WORDS_PER_ANSWER:
        return " ".join(words)
    return " ".join(words[:WORDS_PER_ANSWER]) + " …"
