"""What is compared, over all rows of MT-RAG that have an answer or are known to have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.rag_mtrag.answering import Answers
from benchmarks.rag_mtrag.records import TASK, Record
from searchlora.eval.compare import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.task import load_task

ADAPTER, BASE = "adapter", "base zero-shot"
FREE = {ADAPTER: "adapter, unconstrained", BASE: "base zero-shot, unconstrained"}

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
    """Every system, the adapter last; those that wrote freely are no rivals and stand behind it."""
    systems: dict[str, Mapping[str, Any]] = {
        **answers.baselines,
        BASE: answers.base.held,
        ADAPTER: answers.adapter.held,
        FREE[BASE]: answers.base.free,
        FREE[ADAPTER]: answers.adapter.free,
    }
    task = load_task(TASK)
    return {
        name: replace(
            found,
            values={each: its for each, its in found.values.items() if each in MEASURES},
            pooled={each: its for each, its in found.pooled.items() if each in MEASURES},
        )
        for name, outputs in systems.items()
        for found in [task.evaluate(rows, [outputs[row["id"]] for row in rows])]
    }


def compared(found: Mapping[str, Evaluation]) -> Comparison:
    """The adapter against the base and the baselines, all held to the form."""
    rivals = {name: each for name, each in found.items() if name not in FREE.values()}
    return compare(rivals, candidate=ADAPTER)


def unconstrained(found: Mapping[str, Evaluation]) -> Comparison:
    """What comes out without the grammar."""
    return compare({name: found[name] for name in FREE.values()}, candidate=FREE[ADAPTER])
