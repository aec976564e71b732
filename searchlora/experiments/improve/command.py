"""The verb `improve`: an adapter learns from its own measure, by rejection-sampling fine-tuning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import PipelineError, RecipeError, UsageError, some
from searchlora.eval.measures import parse_measure
from searchlora.experiments.improve.report import write_report
from searchlora.experiments.improve.rounds import Round, Rounds
from searchlora.experiments.train import PromptedJob
from searchlora.experiments.training_runs import (
    TrainingOptions,
    dataset_for,
    train_and_store,
    train_or_find,
)
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings, LocalSettings
from searchlora.models.resolve import resolve
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.retrieve import RetrieveSettings, RetrieveStage
from searchlora.pipelines.stages.stage import StageSettings, pinned
from searchlora.progress import Steps, no_progress
from searchlora.recipe import load_recipe, parse_recipe
from searchlora.records import Document
from searchlora.rewards import RewardContext
from searchlora.systems.lineage import seen_in_training
from searchlora.task import GenerationTask, Task, load_generation_task
from searchlora.training.training_run import TrainingResult

#: The pipeline whose retriever rewards rewrites, unless another is named.
DEFAULT_PIPELINE = "bm25"

#: Candidate queries that an encoder encodes together.
QUERY_BATCH_SIZE = 64

#: Rows of a batch of samples, unless the engine's settings say otherwise.
BATCH_ROWS = 64


def improve(
    adapter: str | None,
    data: str | Path,
    name: str,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    pipeline: str | Path = DEFAULT_PIPELINE,
    resume: bool = False,
    restart: bool = False,
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> StoredAdapter:
    """Improve an adapter on its task's reward, and store the result as the next version of `name`.

    In each round the adapter samples candidates for the training rows; the task rewards them together with the rows'
    references, the unchanged inputs and its rules; a new adapter is trained on the best ones. The round whose greedy
    outputs have the highest reward on the validation rows is stored, with `improve.json`, `improve.svg` and
    `improve.md` beside its weights. An interrupted run stays in the store (`.runs/NAME`), as with `train`.

    Args:
        adapter: A reference; None starts from the bare base of the recipe, with the rules' best in the first round.
        data: A dataset folder of the adapter's task. Its rows need judgments, not references.
        name: Of the improved adapter.
        recipe, overrides: See `TrainingOptions`; the section `improve` is the recipe's part for this verb. The default
            is the recipe of the adapter.
        pipeline: A pipeline whose retrieve stage rewards rewrites: a YAML file, or a built-in name such as `hybrid`.
        resume, restart: Continue an interrupted run, or delete it.
        engine: Where candidates are sampled and rounds are validated; None: in this process. A server must be able to
            load the adapters of the rounds: `searchlora serve` on the same store, or vLLM with `load`.
        store: The adapter store; SEARCHLORA_STORE or `./store` if None.
        tasks: A folder of task plugins.
        steps: Progress of each step.

    Raises:
        RecipeError, DataError, BaseModelError, InvalidName, NameTaken, NotInStore: before anything is computed.
        UsageError: for an adapter of another task, or one that was trained on test rows of the dataset.
        TrainingError: for an unfinished run without `resume` or `restart`, or rows of which none can be rewarded.
        LoadCheckFailed: for an adapter that does not pass verification; its run is kept.
        EngineError: if a server cannot be asked, or loads no adapters.
    """
    store = Store.of(store)
    check_name(name)
    options = TrainingOptions(recipe=recipe, overrides=overrides, resume=resume, restart=restart, steps=steps)
    job = _job(adapter, data, options, pipeline, store, tasks, engine)
    return train_and_store(job, name, store, options)


def improve_or_reuse(
    adapter: str | None,
    data: str | Path,
    name: str,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    pipeline: str | Path = DEFAULT_PIPELINE,
    engine: EngineSettings | None = None,
    store: Store,
    log: Callable[[str], None] = print,
    steps: Steps = no_progress,
) -> StoredAdapter:
    """The newest version of `name` if it was improved from this adapter, dataset and recipe; else improve one.

    An unfinished run of the name is resumed. The other arguments are those of `improve`.

    Args:
        log: Receives one sentence about what was done.
    """
    options = TrainingOptions(recipe=recipe, overrides=overrides, steps=steps)
    job = _job(adapter, data, options, pipeline, store, None, engine)
    return train_or_find(job, name, store, options, log, "improved")[0]


def _job(
    reference: str | None,
    data: str | Path,
    options: TrainingOptions,
    pipeline: str | Path,
    store: Store,
    tasks: str | Path | None,
    engine: EngineSettings | None,
) -> ImproveJob:
    from searchlora.data.dataset import load_dataset

    parent = store.get(store.pin(reference)) if reference is not None else None
    task = load_generation_task(parent.manifest.task if parent else load_dataset(data).card.task, tasks)
    dataset = dataset_for(task, data)
    task = task.bound(dataset.settings)
    own = parse_recipe(parent.manifest.recipe, parent.reference) if parent else None
    default = task.default_recipe if own is None else own.model_dump()
    recipe = load_recipe(default, options.recipe, options.overrides)
    if recipe.is_full or (own is not None and own.is_full):
        raise RecipeError(
            "improve trains adapters, not all weights", where="recipe", fix="Set method=lora or qlora, on an adapter."
        )
    if recipe.improve.then == "grpo" and recipe.improve.samples < 2:
        raise RecipeError("improve.then = grpo compares samples of a row", where="recipe", fix="Set improve.samples=8.")
    if recipe.improve.reward is not None and task.writes == "query":
        parse_measure(recipe.improve.reward)
    keeps_lora = recipe.improve.start == "adapter" or recipe.improve.then != "nothing"
    if keeps_lora and parent is not None and own is not None and recipe.lora != own.lora:
        raise RecipeError(
            "improve.start = adapter keeps the LoRA settings of the adapter, and the recipe has others",
            where="recipe",
            fix=f"Leave the section lora as in {parent.reference}, or set improve.start=base.",
        )
    if parent is not None:
        _check_lineage(store, parent, task, dataset)
    if parent is not None and own is not None and recipe.base == own.base:
        base = parent.manifest.base.resolve()
    else:
        base = resolve(recipe.base)
    settings = engine or LocalSettings(max_num_seqs=BATCH_ROWS)
    return ImproveJob(
        task,
        recipe,
        dataset,
        base,
        options.steps,
        store=store,
        parent=parent,
        pipeline=str(pipeline),
        engine=settings,
    )


def retrieve_stage(
    pipeline: str | Path,
    documents: Sequence[Document],
    store: Store,
    steps: Steps = no_progress,
    query_batch_size: int = 1,
) -> RetrieveStage:
    """The last retrieve stage of a pipeline over documents.

    Args:
        query_batch_size: Queries that an encoder encodes together.

    Raises:
        PipelineError: for a pipeline that retrieves nothing.
    """
    config = read_pipeline(pipeline)
    stages = [stage for stage in pinned(config.stages, store.pin) if isinstance(stage, RetrieveSettings)]
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


def _check_lineage(store: Store, parent: StoredAdapter, task: GenerationTask, dataset: Dataset) -> None:
    """Raise `UsageError` for an adapter that was trained on test rows, whose improvement could not be measured here.

    If its training data is unknown, it is improved with a warning: another dataset may measure the result.
    """
    records = dataset.records("test")
    seen = seen_in_training(store, parent, task, dataset, "test", records)
    if seen:
        raise UsageError(
            f"was trained on {len(seen)} of the {len(records)} test rows ({some(seen)})",
            where=parent.reference,
            fix="Improve it on a dataset whose test rows it has not seen, or start from the bare base.",
        )
    if seen is None:
        warnings.warn(
            f"it is unknown whether {parent.reference} was trained on test rows of {dataset.folder}: on them, the "
            "improved adapter breaks a policy with 'held_out: required'",
            stacklevel=4,
        )


@dataclass(frozen=True)
class ImproveJob(PromptedJob):
    """Rounds of rejection-sampling fine-tuning as one training run.

    Attributes:
        parent: The adapter to improve; None: the bare base.
        pipeline: Name of the pipeline whose retriever rewards rewrites.
        engine: Where candidates are sampled and rounds are validated.
    """

    store: Store = field(default_factory=Store, compare=False)
    parent: StoredAdapter | None = None
    pipeline: str = DEFAULT_PIPELINE
    engine: EngineSettings = field(default_factory=LocalSettings)

    def train(self, folder: Path, resume: bool) -> TrainingResult:
        del resume  # rounds that are complete are never computed again
        engine = self._engines.get(self.base, self.recipe.precision, prompt_options=self.recipe.prompt)
        parent = None if self.parent is None else (self.parent.reference, self.parent.path)
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
            "parent": self.parent.reference if self.parent else None,
            "pipeline": self.pipeline,
            "retriever": self._retriever.label if self._retriever else None,
            "reward": self.recipe.improve.reward or f"the reward of the task {self.task.name}",
            "seed": self.recipe.seed,
            "engine": self._engine_id,
            "chosen round": chosen.number,
        }
        then = self.recipe.improve.then
        if then != "nothing" and "then" not in rounds[-1].figures:
            about["left out"] = f"{then}: no training row has a candidate with a lower reward than its best"
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

    def tune(self, adapter: Path) -> Mapping[str, Any]:
        return {} if type(self.task).tune is Task.tune else super().tune(adapter)

    def parents(self) -> Sequence[StoredAdapter]:
        return () if self.parent is None else (self.parent,)

    def produced(self, stored: StoredAdapter) -> bool:
        about = stored.manifest.training.get("improve")
        parents = [parent.reference for parent in self.parents()]
        return (
            isinstance(about, dict)
            and about.get("pipeline") == self.pipeline
            and about.get("engine", self._default_engine) == self._engine_id
            and stored.manifest.parents == parents
            and super().produced(stored)
        )

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "adapter to improve": self.parent.reference if self.parent else None,
            "pipeline": self.pipeline,
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
        return LocalSettings().engine_id(self.recipe.precision)

    @cached_property
    def _retriever(self) -> RetrieveStage | None:
        """The retrieve stage of the pipeline over the dataset's documents; None for a task that writes no query."""
        documents = self.dataset.documents() if self.task.writes == "query" else None
        if not documents:
            return None
        return retrieve_stage(self.pipeline, documents, self.store, self.steps, QUERY_BATCH_SIZE)

    @cached_property
    def _context(self) -> RewardContext:
        """The retriever, and the judgments of training and validation rows: those of test rows are out of reach."""
        seen = {str(record["id"]) for split in ("train", "validation") for record in self.dataset.iter_records(split)}
        qrels = {topic: grades for topic, grades in (self.dataset.qrels() or {}).items() if topic in seen}
        retriever = self._retriever
        return RewardContext(
            retriever.retriever.search if retriever else None,
            qrels,
            self.dataset.relevant,
            self.recipe.improve.reward,
            {document.id: document for document in self.dataset.documents() or ()},
        )
