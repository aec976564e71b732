"""Evaluation of systems on one dataset split under the same conditions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.trec import Qrels
from searchlora.inference.engine import Engine
from searchlora.inference.metered import MeteredEngine
from searchlora.outputs import Grade, Label
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.adapter import AdapterStage, with_outputs
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import Stage
from searchlora.progress import Progress, silent
from searchlora.records import Record, SearchContext
from searchlora.task import EvaluationInput, GenerationTask

#: The name of the base model without an adapter, as a system.
BASE = "base zero-shot"


@dataclass(frozen=True)
class SystemResult:
    """The outputs and the evaluation of one system.

    Attributes:
        name: The name of the system in tables.
        outputs: One output per record, in order, including `InvalidOutput`.
        searches: The final search contexts, with `hits` if the pipeline retrieves.
        evaluation: The measures, and the costs per query if a model generated the outputs.
        seconds: Wall time of the pipeline in seconds.
    """

    name: str
    outputs: list[Any]
    searches: list[SearchContext]
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True)
class EvaluationRun:
    """The conditions of an evaluation: records and, for a task that writes the query, retrieval and judgments.

    Args:
        task: The task, with the settings by which its outputs are measured.
        records: The records to evaluate on.
        retrieve: The retrieval stage after the evaluated stage; None for a task that is not evaluated by retrieval.
        qrels: The relevance judgments.
        relevant: The lowest grade that counts as relevant in binary measures.
        max_new_tokens: Maximum length of an output in tokens.
        constrained: Constrain outputs to the task's output form, see `AdapterStage`.
    """

    task: GenerationTask
    records: Sequence[Record]
    retrieve: RetrieveStage | None = None
    qrels: Qrels | None = None
    relevant: int = 1
    max_new_tokens: int = 64
    constrained: bool = True

    def run_model(
        self,
        name: str,
        engine: Engine,
        adapter: str | None,
        progress: Progress = silent,
        task: GenerationTask | None = None,
    ) -> SystemResult:
        """Generate an output for each record with an adapter, or the base model, and evaluate it.

        Args:
            name: The name of the system.
            adapter: A pinned reference; None: the base model.
            task: The task with the settings and tuned values of this model; None: the task of the run.
        """
        counted = MeteredEngine(engine)
        task = task or self.task
        stage = AdapterStage(task, counted, adapter, self.max_new_tokens, self.constrained)
        result = self._result(name, stage, progress, task)
        rows = len(self.records)
        costs = {
            "ms per query": 1000 * result.seconds / rows,
            "prompt tokens per query": counted.prompt_tokens / rows,
            "new tokens per query": counted.output_tokens / rows,
        }
        return replace(result, evaluation=replace(result.evaluation, costs=costs))

    def run_outputs(
        self,
        name: str,
        outputs: Sequence[Any],
        costs: Mapping[str, float] | None = None,
        task: GenerationTask | None = None,
    ) -> SystemResult:
        """Evaluate existing outputs (of a baseline, a reference, or a cache) in the same pipeline.

        Args:
            name: The name of the system.
            outputs: One output per record.
            costs: Costs measured when a model generated them.
            task: The task with the settings of that model; None: the task of the run.
        """
        task = task or self.task
        result = self._result(name, _FixedOutputs(task, self.records, outputs), silent, task)
        return replace(result, evaluation=replace(result.evaluation, costs=costs or {}))

    def _result(self, name: str, stage: Stage, progress: Progress, task: GenerationTask) -> SystemResult:
        stages = [stage] if self.retrieve is None else [stage, self.retrieve]
        started = time.monotonic()
        searches = Pipeline("evaluation", stages).execute(
            [_search(self.task, record) for record in self.records], progress=progress
        )
        seconds = time.monotonic() - started
        outputs = [search["outputs"][self.task.name][0] for search in searches]
        run = run_of(searches) if self.retrieve is not None else None
        comparable = self._comparable(outputs, task)
        evaluation = self.task.evaluate(EvaluationInput(self.records, comparable, run, self.qrels, self.relevant))
        return SystemResult(name, outputs, searches, evaluation, seconds)

    def _comparable(self, outputs: Sequence[Any], task: GenerationTask) -> list[Any]:
        """The outputs; probabilities over other choices than those of the run's task are removed."""
        return [
            replace(output, probabilities=None)
            if isinstance(output, Label | Grade) and task.output(record).choices != self.task.output(record).choices
            else output
            for record, output in zip(self.records, outputs, strict=True)
        ]


def retrieval_stage(
    task: GenerationTask, dataset: Dataset, settings: Bm25Settings | None = None, progress: Progress = silent
) -> RetrieveStage | None:
    """A BM25 stage over the dataset's documents for a task that writes the query; None for other tasks."""
    documents = dataset.documents() if task.writes == "query" else None
    if not documents:
        return None
    return (settings or Bm25Settings()).over(documents, progress)


class _FixedOutputs(Stage):
    """A stage that returns existing outputs."""

    label = "outputs"

    def __init__(self, task: GenerationTask, records: Sequence[Record], outputs: Sequence[Any]) -> None:
        self.task = task
        self.by_id = {str(record["id"]): (record, output) for record, output in zip(records, outputs, strict=True)}

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        results = []
        for search in searches:
            record, output = self.by_id[str(search["id"])]
            results.append(with_outputs(self.task, search, [record], [output]))
        return results


def _search(task: GenerationTask, record: Record) -> SearchContext:
    """The search context from which the task's stage would build this record."""
    fields = {source: record[field] for field, source in task.reads.items() if field in record}
    return {"id": record["id"], "query": record.get("query", ""), **fields}
