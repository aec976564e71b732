"""Two ways to measure outputs: by a task's own measures, and by the relevance of the retrieved documents."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.measures import RETRIEVAL_MEASURES
from searchlora.eval.trec import Qrels
from searchlora.outputs import Grade, Label
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.answering import with_outputs
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.progress import Progress, silent
from searchlora.records import Record, SearchContext
from searchlora.systems.system import Outputs, System
from searchlora.task import EncoderTask, EvaluationInput, GenerationTask


class Measures(ABC):
    """How outputs are measured.

    Attributes:
        card: Provenance of the judgments, for the check of circularity; None if unknown.
    """

    card: JudgmentsCard | None = None

    @abstractmethod
    def queries(self, rows: Sequence[Record]) -> dict[str, str]:
        """Row id -> query."""

    def with_hits(self, rows: Sequence[Record], outputs: Outputs) -> Outputs:
        """The outputs with the hits by which they are measured."""
        del rows
        return outputs

    @abstractmethod
    def evaluate(self, system: System, rows: Sequence[Record], outputs: Outputs) -> Evaluation:
        """The values of each row."""


@dataclass(frozen=True)
class TaskMeasures(Measures):
    """The measures of a task on records of a dataset."""

    task: GenerationTask | EncoderTask
    qrels: Qrels | None = None
    relevant: int = 1
    retrieve: RetrieveStage | None = None
    card: JudgmentsCard | None = None

    def queries(self, rows: Sequence[Record]) -> dict[str, str]:
        return {str(row["id"]): self.task.query(row) or "" for row in rows}

    def with_hits(self, rows: Sequence[Record], outputs: Outputs) -> Outputs:
        if self.retrieve is None:
            return outputs
        assert isinstance(self.task, GenerationTask)
        searches = [
            with_outputs(self.task, search_of(self.task, row), [row], [output])
            for row, output in zip(rows, outputs.outputs, strict=True)
        ]
        started = time.monotonic()
        run = run_of(Pipeline("evaluation", [self.retrieve]).execute(searches))
        costs = dict(outputs.costs)
        if "ms per query" in costs:  # a rewrite costs its search, too
            costs["ms per query"] += 1000 * (time.monotonic() - started) / len(rows)
        return replace(outputs, run=run, costs=costs)

    def evaluate(self, system: System, rows: Sequence[Record], outputs: Outputs) -> Evaluation:
        comparable = self._comparable(system.task, rows, outputs.outputs)
        return self.task.evaluate(EvaluationInput(rows, comparable, outputs.run, self.qrels, self.relevant))

    def _comparable(self, task: GenerationTask | None, rows: Sequence[Record], outputs: Sequence[Any]) -> list[Any]:
        """The outputs; probabilities over other choices than those of the measured task are removed."""
        if task is None or not isinstance(self.task, GenerationTask):
            return list(outputs)
        return [
            replace(output, probabilities=None)
            if isinstance(output, Label | Grade) and task.output(row).choices != self.task.output(row).choices
            else output
            for row, output in zip(rows, outputs, strict=True)
        ]


@dataclass(frozen=True)
class RetrievalMeasures(Measures):
    """Measures of ir-measures over judged topics.

    `qrels`: Topic -> document -> grade.
    """

    qrels: Qrels
    names: Sequence[str] = RETRIEVAL_MEASURES
    tested: Sequence[str] = ()
    slices: Sequence[str] = ()
    cluster: str | None = None
    relevant: int = 1
    card: JudgmentsCard | None = None
    unjudged: bool = True

    def queries(self, rows: Sequence[Record]) -> dict[str, str]:
        return {str(row["id"]): str(row["query"]) for row in rows}

    def evaluate(self, system: System, rows: Sequence[Record], outputs: Outputs) -> Evaluation:
        del system
        return evaluate_run(
            outputs.run or {},
            self.qrels,
            measures=self.names,
            tested=self.tested,
            topics={str(row["id"]): row for row in rows},
            slices=self.slices,
            cluster=self.cluster,
            relevant=self.relevant,
            unjudged=self.unjudged,
            invalid=outputs.invalid,
        )


def retrieval_stage(
    task: GenerationTask, dataset: Dataset, settings: Bm25Settings | None = None, progress: Progress = silent
) -> RetrieveStage | None:
    """A BM25 stage over the dataset's documents for a task that writes the query; None for other tasks."""
    documents = dataset.documents() if task.writes == "query" else None
    if not documents:
        return None
    return (settings or Bm25Settings()).over(documents, progress)


def search_of(task: GenerationTask, record: Record) -> SearchContext:
    """The search from which the task's stage would build this record."""
    fields = {source: record[field] for field, source in task.reads.items() if field in record}
    return {"id": str(record["id"]), "query": record.get("query", ""), **fields}
