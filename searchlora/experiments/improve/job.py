"""Rounds of rejection-sampling fine-tuning as a training run, and the retriever that rewards rewrites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import PipelineError
from searchlora.experiments.improve.report import write_report
from searchlora.experiments.improve.rounds import Round, Rounds
from searchlora.experiments.train import PromptedJob
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings, LocalSettings
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import StageSettings, pinned
from searchlora.progress import Steps, no_progress
from searchlora.records import Document
from searchlora.rewards import RewardContext
from searchlora.training.training_run import TrainingResult

#: The pipeline whose retriever rewards rewrites, unless another is named.
DEFAULT_PIPELINE = "bm25"

#: Candidate queries that an encoder encodes together.
QUERY_BATCH_SIZE = 64


def retrieve_stage(
    pipeline: str | Path,
    documents: Sequence[Document] | IndexedCorpus,
    store: Store,
    steps: Steps = no_progress,
    query_batch_size: int = 1,
) -> RetrieveStage:
    """The last retrieve stage of a pipeline over documents."""
    config = read_pipeline(pipeline)
    stages = [stage for stage in pinned(config.stages, store.pin) if stage.fusible]
    if not stages:
        raise PipelineError("the pipeline retrieves nothing", where=str(pipeline), fix="Name one with a retriever.")
    stage_settings = _in_batches(stages[-1], query_batch_size)
    built = build_pipeline(config.name, [stage_settings], store=store, documents=documents, steps=steps)
    (stage,) = built.stages
    assert isinstance(stage, RetrieveStage)
    return stage


def _in_batches(stage: StageSettings, size: int) -> StageSettings:
    """The settings of a stage, and of those that it fuses, with queries encoded in batches."""
    if stage.parts:
        return stage.with_parts({index: _in_batches(part, size) for index, part in enumerate(stage.parts)})
    encodes = "query_batch_size" in type(stage).model_fields
    return stage.model_copy(update={"query_batch_size": size}) if encodes else stage


@dataclass(frozen=True)
class ImproveJob(PromptedJob):
    """Rounds of rejection-sampling fine-tuning as one training run."""

    verb: ClassVar[str] = "improved"

    store: Store = field(default_factory=Store, compare=False)
    pipelines: Sequence[str] = (DEFAULT_PIPELINE,)
    index: Path | None = None  # an index folder of the documents; None: they are indexed for this run
    engine: EngineSettings = field(default_factory=LocalSettings)

    def train(self, folder: Path, resume: bool) -> TrainingResult:
        del resume  # rounds that are complete are never computed again
        engine = self._engines.get(self.base, self.recipe.precision, prompt_options=self.recipe.prompt)
        parent = None if self.start is None else (self.start.reference, self.start.path)
        rounds = Rounds(
            self.task, self.recipe, self.base, self.dataset, engine, self._context, folder, self.steps, parent
        )
        try:
            done, start = rounds.run()
        finally:
            rounds.unload()
            engine.close()
        return self._result(folder, done, start)

    def _result(self, folder: Path, rounds: Sequence[Round], start: Mapping[str, Any]) -> TrainingResult:
        chosen = max(rounds, key=lambda done: done.reward)
        about = {
            "parent": self.start.reference if self.start else None,
            "pipeline": self._pipeline,
            "retriever": ", ".join(stage.label for stage in self._retrievers) or None,
            "reward": self.recipe.improve.reward or f"the reward of the task {self.task.name}",
            "seed": self.recipe.seed,
            "engine": self._engine_id,
            "chosen round": chosen.number,
        }
        records = self.dataset.records("train")
        files = write_report(folder, self.task, self.recipe, records, rounds, start, about)
        training = dict(chosen.figures["training"])
        summary = {
            **training,
            "seconds": sum(float(done.figures["training"]["seconds"]) for done in rounds),
            "tokens": sum(int(done.figures["training"]["tokens"]) for done in rounds),
            "best": {"step": training["steps"], **chosen.figures["validation"]},
            "improve": {**about, "start": dict(start), "rounds": [dict(done.figures) for done in rounds]},
        }
        return TrainingResult(chosen.adapter, chosen.adapter.parent, summary, files)

    def produced(self, stored: StoredAdapter) -> bool:
        about = stored.manifest.training.get("improve")
        return (
            isinstance(about, dict)
            and about.get("pipeline") == self._pipeline
            and about.get("engine", self._default_engine) == self._engine_id
            and super().produced(stored)
        )

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        return {
            **identity,
            "adapter to improve": identity.pop("adapter to start from"),
            "pipeline": self._pipeline,
            **({"engine": self._engine_id} if self._engine_id != self._default_engine else {}),
        }

    @cached_property
    def _engines(self) -> Engines:
        return Engines(self.store, self.engine)

    @cached_property
    def _engine_id(self) -> str:
        return self._engines.engine_id(self.base, self.recipe.precision, prompt_options=self.recipe.prompt)

    @property
    def _default_engine(self) -> str:
        """The engine of runs that name none: earlier releases had this one only."""
        return LocalSettings(batch_invariant=True).engine_id(self.recipe.precision)

    @property
    def _pipeline(self) -> str:
        """The pipelines as manifests and runs hold them."""
        return ",".join(self.pipelines)

    @cached_property
    def _retrievers(self) -> list[RetrieveStage]:
        """The retrieve stages of the pipelines over the dataset's documents; none for a task that writes no query."""
        documents = self.dataset.documents() if self.task.writes == "query" else None
        if not documents:
            return []
        corpus = IndexedCorpus(documents) if self.index is None else open_corpus(self.index)
        return [
            retrieve_stage(pipeline, corpus, self.store, self.steps, QUERY_BATCH_SIZE) for pipeline in self.pipelines
        ]

    @cached_property
    def _context(self) -> RewardContext:
        """The retrievers, and the judgments of training and validation rows: those of test rows are out of reach."""
        seen = {str(record["id"]) for split in ("train", "validation") for record in self.dataset.iter_records(split)}
        qrels = {topic: grades for topic, grades in (self.dataset.qrels() or {}).items() if topic in seen}
        return RewardContext(
            [stage.retriever.search for stage in self._retrievers],
            qrels,
            self.dataset.relevant,
            self.recipe.improve.reward,
            {document.id: document for document in self.dataset.documents() or ()},
        )
