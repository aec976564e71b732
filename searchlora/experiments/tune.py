"""The verb `tune`: fit the tuned values of an adapter stage on validation records, behind the stages before it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, PipelineError
from searchlora.files import atomic_text, check_writable, read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import is_empty_slot, pipeline_path, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings, AdapterStage
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.pipelines.stages.stage import Stage, StageSettings, pinned
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import Record, SearchContext
from searchlora.task import GenerationTask


@dataclass(frozen=True)
class TunedPipeline:
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
    pipeline: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TunedPipeline:
    """Fit what a stage's `tuned` asks for, and write the pipeline with the fitted values and pinned adapters.

    The records keep their own passages, so nothing is retrieved: only the stages `adapter` and `similarity` up to the
    tuned one are executed.

    Args:
        pipeline: A YAML file, or the name of a built-in pipeline.
        data: A dataset of the task of the tuned stage; its validation split is used.
        out: The YAML file to write.
        overrides: Parameters of the pipeline, `name=value`; they are written as its defaults.
        engine: Where the adapter stages are computed; replaces the engine of the pipeline. It is not written, but the
            origin of the values names the engines.

    Raises:
        PipelineError: if no adapter stage with `tuned` has the dataset's task.
        DataError: if the dataset has no validation records, or records on which nothing can be fitted.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    out = Path(out)
    check_writable(out)
    store = store if isinstance(store, Store) else Store(store)
    dataset = load_dataset(data)
    config = read_pipeline(pipeline, overrides, engine)
    stages = pinned(config.stages, store.pin)
    place = _tuned_stage(stages, store, dataset.card.task, config.source)
    *before, asked = [stage for stage in stages[: place + 1] if isinstance(stage, AdapterSettings | SimilaritySettings)]
    assert isinstance(asked, AdapterSettings)
    built = build_pipeline(
        config.name,
        [*before, asked.model_copy(update={"tuned": {}, "continue_after_choice": False})],
        store=store,
        documents=(),
        tasks=tasks,
    )
    stage = built.stages[-1]
    assert isinstance(stage, AdapterStage)
    records = dataset.records("validation")
    if not records:
        raise DataError("has no validation records", where=str(dataset.folder))
    size = built.batch_size
    seen = _through(built.stages[:-1], stage.task, records, size, steps("Judging"))
    outputs = _asked(stage, seen, size, steps("Answering"))
    task = stage.task.bound(stage.task.settings, {**stage.task.tuned, **asked.tuned})
    tuned = {**task.tune(seen, outputs), "origin": _origin(dataset, built)}
    _write(out, config.parameters, pipeline, stages, place, tuned)
    return TunedPipeline(out, stage.label, tuned)


def _tuned_stage(stages: Sequence[StageSettings], store: Store, task: str, where: str) -> int:
    """The index of the last adapter stage of a task that has `tuned`."""
    for place in range(len(stages) - 1, -1, -1):
        stage = stages[place]
        if isinstance(stage, AdapterSettings) and stage.tuned and store.get(stage.name).manifest.task == task:
            return place
    raise PipelineError(
        f"no adapter stage of the task '{task}' has values to tune",
        where=where,
        fix="Give the stage 'tuned', as in '- adapter: {name: shop-answers, tuned: {abstain: judge}}'.",
    )


def _through(
    stages: Sequence[Stage], task: GenerationTask, records: Sequence[Record], size: int, progress: Progress
) -> list[Record]:
    """The records with the fields that the stages write for the task; their own fields otherwise."""
    seen: list[Record] = []
    for start in range(0, len(records), size):
        part = records[start : start + size]
        searches: list[SearchContext] = [_search(task, record) for record in part]
        for stage in stages:
            searches = stage(searches)
        for record, search in zip(part, searches, strict=True):
            read = {field: search[source] for field, source in task.reads.items() if source in search}
            seen.append({**record, **read})
        progress(len(seen), len(records))
    return seen


def _search(task: GenerationTask, record: Record) -> SearchContext:
    fields = {source: record[field] for field, source in task.reads.items() if field in record}
    return {"query": "", **fields, "id": str(record["id"])}


def _asked(stage: AdapterStage, records: Sequence[Record], size: int, progress: Progress) -> list[Any]:
    outputs: list[Any] = []
    for start in range(0, len(records), size):
        outputs += stage.ask(records[start : start + size])
        progress(len(outputs), len(records))
    return outputs


def _origin(dataset: Dataset, built: Pipeline) -> dict[str, Any]:
    """Where the values come from: the dataset by its hash, the adapters in the order of their stages, their engines."""
    engines = list(dict.fromkeys(built.engine_id))
    return {"dataset": dataset.fingerprint, "split": "validation", "adapters": built.labels, "engines": engines}


def _write(
    out: Path,
    parameters: Mapping[str, Any],
    pipeline: str | Path,
    stages: Sequence[StageSettings],
    place: int,
    tuned: Mapping[str, Any],
) -> None:
    """Write the pipeline's file with pinned adapters and the tuned values; the parameters keep their names."""
    import yaml

    source = pipeline_path(pipeline)
    content = parse_yaml(read_bytes(source))
    written = []
    filled = [stage for stage in content["stages"] if not is_empty_slot(stage, parameters)]
    for number, (stage, settings) in enumerate(zip(filled, stages, strict=True)):
        ((kind, values),) = stage.items()
        if isinstance(settings, AdapterSettings):
            values = {**values, "name": settings.name, **({"tuned": dict(tuned)} if number == place else {})}
        elif isinstance(settings, SimilaritySettings) and settings.adapter is not None:
            values = {**values, "adapter": settings.adapter}
        written.append({kind: values})
    rest = {key: value for key, value in content.items() if key not in ("name", "parameters")} | {"stages": written}
    if "corpus" in rest:
        rest["corpus"] = _moved(rest["corpus"], source.parent, out.parent)
    used = {key: value for key, value in parameters.items() if f"${key}" in str(rest)}
    with atomic_text(out) as file:
        file.write("# Written by `searchlora tune`; `origin` says on what the values were fitted.\n")
        whole = {"name": content["name"], **({"parameters": used} if used else {}), **rest}
        yaml.safe_dump(whole, file, sort_keys=False, width=120, allow_unicode=True)


def _moved(corpus: Any, source: Path, out: Path) -> Any:
    """The corpus of a pipeline file for a file in another folder: its path is relative to the file."""
    if isinstance(corpus, Mapping):
        return {**corpus, "file": _moved(corpus.get("file"), source, out)}
    return corpus if str(corpus).startswith("$") else os.path.relpath(source / str(corpus), out)
