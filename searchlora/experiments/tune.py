"""The verb `tune`: fit the thresholds of an adapter stage, or the weights of a fusion, on validation data.

Both write the pipeline with the fitted values and pinned adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, PipelineError
from searchlora.experiments.tuned_file import write_tuned
from searchlora.files import check_writable
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.stage import Stage, StageSettings, pinned
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import Record, SearchContext
from searchlora.systems.measures import search_of
from searchlora.systems.models import ask_in_batches
from searchlora.task import GenerationTask


@dataclass(frozen=True)
class TuneResult:
    """What `tune` wrote.

    Attributes:
        path: The pipeline file.
        adapter: The tuned stage's adapter, with its version.
        tuned: The values that the stage got, with their `origin`.
    """

    path: Path
    adapter: str
    tuned: Mapping[str, Any]


def tune(
    pipeline: str | Path | PipelineConfig,
    data: str | Path,
    out: str | Path,
    *,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TuneResult:
    """Fit what a stage's `tuned` asks for, and write the pipeline with the fitted values and pinned adapters.

    The records keep their own passages, so nothing is retrieved: only the stages `adapter` and `similarity` up to the
    tuned one are executed.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline, or what `read_pipeline` made of one. Its parameters are
            written as defaults; its engine is not written, but the origin of the values names the engines.
        data: A dataset of the task of the tuned stage; its validation split is used.
        out: The YAML file to write.

    Raises:
        PipelineError: if no adapter stage with `tuned` has the dataset's task.
        DataError: if the dataset has no validation records, or records on which nothing can be fitted.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    out, store = Path(out), Store.of(store)
    check_writable(out)
    opened = OpenedStage.of(pipeline, data, store, tasks, _tuned_stage, lambda settings: settings.untuned())
    dataset, built, task = opened.dataset, opened.built, opened.task
    asked = opened.stages[opened.place].to_tune(dataset.card.task, store)
    records = dataset.records("validation")
    if not records:
        raise DataError("has no validation records", where=str(dataset.folder))
    seen, outputs = ask_stage(built, task, records, steps)
    task = task.bound(task.settings, {**task.tuned, **asked})
    tuned = {**task.tune(seen, outputs), "origin": origin(dataset, built, "validation")}
    opened.write(out, {"tuned": tuned}, "`origin` says on what the values were fitted.")
    return TuneResult(out, built.stages[-1].label, tuned)


@dataclass(frozen=True)
class OpenedStage:
    """The stage of a pipeline whose values are fitted, built behind the earlier ones that work on records.

    Attributes:
        stages, place: All stages with pinned adapters, and the index of this one.
        built: The pipeline up to this stage, which has no fitted values.
    """

    config: PipelineConfig
    stages: Sequence[StageSettings]
    place: int
    dataset: Dataset
    built: Pipeline

    @classmethod
    def of(
        cls,
        pipeline: str | Path | PipelineConfig,
        data: str | Path,
        store: Store,
        tasks: str | Path | None,
        find: Callable[[Sequence[StageSettings], Store, str, str], int],
        plain: Callable[[StageSettings], StageSettings],
    ) -> OpenedStage:
        """Build the stage.

        Args:
            find: The index of the stage, of all stages, the store, the dataset's task and the pipeline's file.
            plain: The stage without fitted values.
        """
        dataset = load_dataset(data)
        config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
        stages = pinned(config.stages, store.pin)
        place = find(stages, store, dataset.card.task, config.source)
        before = [stage for stage in stages[:place] if stage.works_on_records]
        built = build_pipeline(config.name, [*before, plain(stages[place])], store=store, documents=(), tasks=tasks)
        return cls(config, stages, place, dataset, built)

    @property
    def task(self) -> GenerationTask:
        """The task of the stage."""
        (task,) = self.built.stages[-1].tasks()
        return task

    def write(self, out: Path, values: Mapping[str, Any], origin: str) -> None:
        """Write the pipeline with fitted values of the stage."""
        write_tuned(out, self.config, self.stages, self.place, values, origin)


def _tuned_stage(stages: Sequence[StageSettings], store: Store, task: str, where: str) -> int:
    """The index of the last adapter stage of a task that has `tuned`."""
    for place in range(len(stages) - 1, -1, -1):
        if stages[place].to_tune(task, store):
            return place
    raise PipelineError(
        f"no adapter stage of the task '{task}' has values to tune",
        where=where,
        fix="Give the stage 'tuned', as in '- adapter: {name: shop-answers, tuned: {abstain: judge}}'.",
    )


def ask_stage(
    built: Pipeline, task: GenerationTask, records: Sequence[Record], steps: Steps
) -> tuple[list[Record], list[Any]]:
    """The records as the last stage of a pipeline sees them after the others, and its outputs."""
    size = built.batch_size
    seen = _through(built.stages[:-1], task, records, size, steps("Judging"))
    return seen, ask_in_batches(built.stages[-1], seen, size, steps("Answering"))


def _through(
    stages: Sequence[Stage], task: GenerationTask, records: Sequence[Record], size: int, progress: Progress
) -> list[Record]:
    """The records with the fields that the stages write for the task; their own fields otherwise."""
    seen: list[Record] = []
    for start in range(0, len(records), size):
        part = records[start : start + size]
        searches: list[SearchContext] = [search_of(task, record) for record in part]
        for stage in stages:
            searches = stage(searches)
        for record, search in zip(part, searches, strict=True):
            read = {field: search[source] for field, source in task.reads.items() if source in search}
            seen.append({**record, **read})
        progress(len(seen), len(records))
    return seen


def origin(dataset: Dataset, built: Pipeline, split: str) -> dict[str, Any]:
    """Where the values come from: the dataset by its hash, the adapters in the order of their stages, their engines."""
    engines = list(dict.fromkeys(built.engine_id))
    return {"dataset": dataset.fingerprint, "split": split, "adapters": built.labels, "engines": engines}
