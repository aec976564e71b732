"""The verb `tune`: fit the thresholds of an adapter stage, or the weights of a fusion, on validation data.

Both write the pipeline with the fitted values and pinned adapters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, PipelineError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import lineage_of, refuse_circular
from searchlora.experiments.fusion_weights import WeightsScore, best_weights, measure_weights, search_parts
from searchlora.experiments.slots import fusion_parts, fusion_place
from searchlora.files import atomic_text, check_writable, file_sha256, read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import PipelineConfig, is_empty_slot, pipeline_path, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.stage import Stage, StageSettings, pinned
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import Record, SearchContext
from searchlora.systems.measures import search_of
from searchlora.systems.models import ask_in_batches
from searchlora.systems.pipeline import run_card, with_history
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
    pipeline: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TuneResult:
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
    store = Store.of(store)
    dataset = load_dataset(data)
    config = read_pipeline(pipeline, overrides, engine)
    stages = pinned(config.stages, store.pin)
    place = _tuned_stage(stages, store, dataset.card.task, config.source)
    before = [stage for stage in stages[:place] if stage.works_on_records]
    built = build_pipeline(
        config.name,
        [*before, stages[place].untuned()],
        store=store,
        documents=(),
        tasks=tasks,
    )
    stage = built.stages[-1]
    (task,), asked = stage.tasks(), stages[place].to_tune(dataset.card.task, store)
    records = dataset.records("validation")
    if not records:
        raise DataError("has no validation records", where=str(dataset.folder))
    size = built.batch_size
    seen = _through(built.stages[:-1], task, records, size, steps("Judging"))
    outputs = ask_in_batches(stage, seen, size, steps("Answering"))
    task = task.bound(task.settings, {**task.tuned, **asked})
    tuned = {**task.tune(seen, outputs), "origin": _origin(dataset, built)}
    _write(out, config, stages, place, {"tuned": tuned}, "`origin` says on what the values were fitted.")
    return TuneResult(out, stage.label, tuned)


@dataclass(frozen=True)
class TuneWeightsResult:
    """What `tune_weights` wrote.

    Attributes:
        path: The pipeline file.
        measure: What the weights were chosen by.
        parts: Names of the parts of the fusion.
        best: The chosen weights, with the measure on the topics that they were chosen on.
        own: The weights of the pipeline as it was, by default equal ones, on the same topics.
        circular: Why the judgments are circular; empty: they are not.
    """

    path: Path
    measure: str
    parts: tuple[str, ...]
    best: WeightsScore
    own: WeightsScore
    circular: str = ""


def tune_weights(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    *,
    measure: str = "nDCG@10",
    corpus: Corpus | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TuneWeightsResult:
    """Choose the weights of a pipeline's first fusion on validation topics, and write the pipeline with them.

    Each part is searched once for each topic. The weights are tenths that add up to 1; a part whose best weight is 0 is
    left out of the written pipeline.

    Args:
        config: What `read_pipeline` returns.
        topics: Rows with `id`, `query` and fields that stages read.
        qrels: Their judgments.
        out: The YAML file to write.
        measure: The retrieval measure whose mean is largest.
        allow_circular: Accept a judge that is part of the pipeline or was trained on these topics.

    Raises:
        PipelineError: if no stage fuses two or three parts.
        DataError: if no topic is judged, or a file cannot be read or written.
        UsageError: for an unknown measure or a circular judge.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    out = Path(out)
    check_writable(out)
    store = Store.of(store)
    fields = read_topics(Path(topics))
    grades = read_qrels(Path(qrels), topics=fields)
    judged = {topic: with_history(fields[topic], f"{topics}, {topic}") for topic in fields if topic in grades}
    if not judged:
        raise DataError("none of the judged topics is among the topics", where=str(qrels))
    stages = pinned(config.stages, store.pin)
    place = fusion_place(stages)
    until = tuple(stages if place is None else stages[: place + 1])
    lineage = lineage_of(run_card(config.name, Pipeline(config.name, (), until), store))
    queries = {topic: str(values["query"]) for topic, values in judged.items()}
    circular = refuse_circular(read_card(qrels), {config.name: lineage}, queries, allow=allow_circular)
    built = Pipeline.load(replace(config, stages=until), corpus=corpus, store=store, tasks=tasks, steps=steps)
    searches = [{"id": topic, **values} for topic, values in judged.items()]
    searched = search_parts(built, searches, steps("Searching"))
    settings, of_judged = searched.settings, {topic: dict(grades[topic]) for topic in judged}
    best = best_weights(measure_weights(searched, of_judged, measure=measure, progress=steps("Measuring weights")))
    (own,) = measure_weights(searched, of_judged, [settings.part_weights], measure=measure)
    assert place is not None
    origin = f"{measure} {best.value:.4f} on {best.n} topics of {Path(topics).name}, sha256 {file_sha256(topics)}"
    _write(out, config, stages, place, {"weights": best.weights}, f"weights: {origin}")
    return TuneWeightsResult(out, measure, fusion_parts(settings), best, own, circular.get(config.name, ""))


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


def _origin(dataset: Dataset, built: Pipeline) -> dict[str, Any]:
    """Where the values come from: the dataset by its hash, the adapters in the order of their stages, their engines."""
    engines = list(dict.fromkeys(built.engine_id))
    return {"dataset": dataset.fingerprint, "split": "validation", "adapters": built.labels, "engines": engines}


def _write(
    out: Path,
    config: PipelineConfig,
    stages: Sequence[StageSettings],
    place: int,
    values: Mapping[str, Any],
    origin: str,
) -> None:
    """Write the pipeline's file with pinned adapters and new values of one stage; the parameters keep their names."""
    import yaml

    source = pipeline_path(config.source)
    content = parse_yaml(read_bytes(source))
    filled = [stage for stage in content["stages"] if not is_empty_slot(stage, config.parameters)]
    written = [_with_pins(stage, settings) for stage, settings in zip(filled, stages, strict=True)]
    ((kind, own),) = written[place].items()
    written[place] = {kind: _without_unused_parts({**own, **values}) if "weights" in values else {**own, **values}}
    rest = {key: value for key, value in content.items() if key not in ("name", "parameters")} | {"stages": written}
    if "corpus" in rest:
        rest["corpus"] = _moved(rest["corpus"], source.parent, out.parent)
    used = {key: value for key, value in config.parameters.items() if f"${key}" in str(rest)}
    with atomic_text(out) as file:
        file.write(f"# Written by `searchlora tune`; {origin}\n")
        whole = {"name": content["name"], **({"parameters": used} if used else {}), **rest}
        yaml.safe_dump(whole, file, sort_keys=False, width=120, allow_unicode=True)


def _with_pins(stage: Mapping[str, Any], settings: StageSettings) -> dict[str, Any]:
    """A stage of the file with pinned adapters, also in the parts of a fusion."""
    ((kind, values),) = stage.items()
    if settings.parts:
        return {kind: {**values, "of": [_with_pins(*part) for part in zip(values["of"], settings.parts, strict=True)]}}
    adapter = getattr(settings, settings.adapter_key) if settings.adapter_key is not None else None
    return {kind: values if adapter is None else {**values, settings.adapter_key: adapter}}


def _without_unused_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a fusion without the parts of weight 0, which a pipeline file cannot have."""
    parts = [(part, weight) for part, weight in zip(values["of"], values["weights"], strict=True) if weight > 0]
    return {**values, "of": [part for part, _ in parts], "weights": [weight for _, weight in parts]}


def _moved(corpus: Any, source: Path, out: Path) -> Any:
    """The corpus of a pipeline file for a file in another folder: its path is relative to the file."""
    if isinstance(corpus, Mapping):
        return {**corpus, "file": _moved(corpus.get("file"), source, out)}
    return corpus if str(corpus).startswith("$") else os.path.relpath(source / str(corpus), out)
