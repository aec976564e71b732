"""The rewriting task: ties schema, prompt, dataset builder and evaluator together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import FreeText, OutputSpec
from searchlora.records import Record
from searchlora.task import EvaluationInput, PromptedTask
from searchlora.tasks.rewriting import baselines, evaluator
from searchlora.tasks.rewriting.conversation import shortened
from searchlora.tasks.rewriting.dataset import FORMATS


class RewritingTask(PromptedTask):
    """Query (and conversation) -> one query that stands alone, in the words of the collection."""

    name = "rewriting"
    version = 1
    formats = FORMATS
    reads: Mapping[str, str] = {"query": "query", "history": "history"}
    writes = "query"

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {"query": record["query"], "history": shortened(record.get("history", []))}

    def target(self, record: Record) -> str:
        return str(record["rewrite"])

    def output(self, record: Record) -> OutputSpec:
        del record
        return FreeText(max_chars=400)

    def fallback(self, record: Record) -> str:
        """The query as it was typed."""
        return str(record["query"])

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
        return baselines.baseline_outputs(records, dataset)
