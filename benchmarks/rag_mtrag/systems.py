"""What is compared, over all rows of MT-RAG that have an answer or are known to have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.rag_mtrag.answering import Answers
from benchmarks.rag_mtrag.records import TASK, Record
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.task import EvaluationInput, load_task

ADAPTER, BASE = "adapter", "base zero-shot"

#: In the order of the table.
MEASURES = (
    "answerability F1",
    "abstention F1",
    "abstention precision",
    "abstention recall",
    "answering F1",
    "citation precision",
    "citation recall",
    "citation F1",
    "unsupported sentences",
    "token F1",
    "ROUGE-L",
    "words",
    "invalid",
    "cites what was not given",
    "right to answer",
)


def evaluations(rows: Sequence[Record], answers: Answers) -> dict[str, Evaluation]:
    """Every system, the adapter last."""
    systems: dict[str, Mapping[str, Any]] = {**answers.baselines, BASE: answers.base, ADAPTER: answers.adapter}
    task = load_task(TASK)
    return {
        name: replace(
            found,
            values={each: its for each, its in found.values.items() if each in MEASURES},
            aggregates={each: its for each, its in found.aggregates.items() if each in MEASURES},
        )
        for name, outputs in systems.items()
        for found in [task.evaluate(EvaluationInput(rows, [outputs[row["id"]] for row in rows]))]
    }


def compared(found: Mapping[str, Evaluation]) -> Comparison:
    """The adapter against the base and the baselines."""
    return compare(found, candidate=ADAPTER)
