"""One dataset split, and any number of systems tried on it under the same conditions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.trec import Qrels
from searchlora.inference.engine import Completion, Engine, Request, Scored
from searchlora.outputs import Grade, Label
from searchlora.pipelines.config import Bm25Settings
from searchlora.pipelines.pipeline import Pipeline, bm25_stage, run_of
from searchlora.pipelines.stages import AdapterStage, RetrieveStage, Stage, with_outputs
from searchlora.progress import Progress, silent
from searchlora.records import Record, SearchContext
from searchlora.task import EvaluationInput, PromptedTask

#: The system that is the base model without an adapter.
BASE = "base zero-shot"


@dataclass(frozen=True)
class SystemResult:
    """What one system did.

    Attributes:
        name: As tables show it.
        outputs: One per record, in order; `InvalidOutput` among them.
        searches: What the pipeline knew at the end, `hits` included where it retrieved.
        evaluation: The measures, and what a query cost where a model answered it.
        seconds: Wall time of the pipeline here; a model's own is among the evaluation's costs.
    """

    name: str
    outputs: list[Any]
    searches: list[SearchContext]
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True)
class EvaluationRun:
    """The conditions: records, and for a task that writes the query, what to retrieve from and the judgments.

    Args:
        relevant: The grade from which on a document counts in binary measures.
        retrieve: The stage that follows the one under trial; None for a task not evaluated by retrieval.
        constrained: Hold models to the form of the task's output, see `AdapterStage`.
    """

    task: PromptedTask
    records: Sequence[Record]
    retrieve: RetrieveStage | None = None
    qrels: Qrels | None = None
    relevant: int = 1
    max_new_tokens: int = 64
    constrained: bool = True

    def generated(
        self,
        name: str,
        engine: Engine,
        adapter: str | None,
        progress: Progress = silent,
        task: PromptedTask | None = None,
    ) -> SystemResult:
        """Let an adapter, or the bare base, answer each record through the pipeline.

        Args:
            task: As this model does it, with what was tuned for it; None: as the trial has it.
        """
        counted = _Counted(engine)
        task = task or self.task
        stage = AdapterStage(task, counted, adapter, self.max_new_tokens, self.constrained)
        found = self._result(name, stage, progress, task)
        rows = len(self.records)
        costs = {
            "ms per query": 1000 * found.seconds / rows,
            "prompt tokens per query": counted.prompt / rows,
            "new tokens per query": counted.new / rows,
        }
        return replace(found, evaluation=replace(found.evaluation, costs=costs))

    def given(
        self,
        name: str,
        outputs: Sequence[Any],
        costs: Mapping[str, float] | None = None,
        task: PromptedTask | None = None,
    ) -> SystemResult:
        """Take outputs that exist already (a baseline, a reference, saved ones) through the same pipeline.

        Args:
            costs: Of the model that gave them, as they were measured then.
            task: As that model does it; None: as the trial has it.
        """
        task = task or self.task
        found = self._result(name, _Given(task, self.records, outputs), silent, task)
        return replace(found, evaluation=replace(found.evaluation, costs=costs or {}))

    def _result(self, name: str, stage: Stage, progress: Progress, task: PromptedTask) -> SystemResult:
        stages = [stage] if self.retrieve is None else [stage, self.retrieve]
        started = time.monotonic()
        searches = Pipeline("trial", stages).execute(
            [_search(self.task, record) for record in self.records], batch=128, progress=progress
        )
        seconds = time.monotonic() - started
        outputs = [search["outputs"][self.task.name][0] for search in searches]
        run = run_of(searches) if self.retrieve is not None else None
        measured = self._measurable(outputs, task)
        evaluation = self.task.evaluate(EvaluationInput(self.records, measured, run, self.qrels, self.relevant))
        return SystemResult(name, outputs, searches, evaluation, seconds)

    def _measurable(self, outputs: Sequence[Any], task: PromptedTask) -> list[Any]:
        """The outputs without probabilities of other choices than the trial's, which its measures would misread."""
        return [
            replace(output, probabilities=None)
            if isinstance(output, Label | Grade) and task.output(record).choices != self.task.output(record).choices
            else output
            for record, output in zip(self.records, outputs, strict=True)
        ]


def retrieval_stage(
    task: PromptedTask, dataset: Dataset, settings: Bm25Settings | None = None, progress: Progress = silent
) -> RetrieveStage | None:
    """The stage that searches a dataset's documents, for a task that writes the query; else None."""
    documents = dataset.documents() if task.writes == "query" else None
    if not documents:
        return None
    return bm25_stage(settings or Bm25Settings(), documents, progress)


class _Counted:
    """An engine, and how many tokens went through it: those of prompts, and those written or scored."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.prompt = self.new = 0

    def pin(self, adapter: str) -> str:
        return self.engine.pin(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions = self.engine.generate(requests)
        self.prompt += sum(completion.prompt_tokens for completion in completions)
        self.new += sum(completion.completion_tokens for completion in completions)
        return completions

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[Scored]:
        scored = self.engine.score(requests, choices, prune_margin=prune_margin)
        self.prompt += sum(each.prompt_tokens for each in scored)
        self.new += sum(each.scored_tokens for each in scored)
        return scored


class _Given:
    """Outputs in place of a model's."""

    label = "given"

    def __init__(self, task: PromptedTask, records: Sequence[Record], outputs: Sequence[Any]) -> None:
        self.task = task
        self.known = {str(record["id"]): (record, output) for record, output in zip(records, outputs, strict=True)}

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        found = []
        for search in searches:
            record, output = self.known[str(search["id"])]
            found.append(with_outputs(self.task, search, [record], [output]))
        return found


def _search(task: PromptedTask, record: Record) -> SearchContext:
    """The search in which a record would arise: its fields where the task's stage would read them."""
    fields = {source: record[field] for field, source in task.reads.items() if field in record}
    return {"id": record["id"], "query": record.get("query", ""), **fields}
