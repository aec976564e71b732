"""The verb `tune` on validation records: fit what a stage's `tuned` asks for, or a confidence at a stated risk.

Both write the pipeline with the fitted values and pinned adapters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, PipelineError
from searchlora.eval.risk import RiskThreshold, risk_threshold
from searchlora.experiments.tuned_file import write_tuned
from searchlora.files import check_writable
from searchlora.outputs import InvalidOutput, confidence
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
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
    tuning = _Tuning.of(pipeline, data, out, _has_values_to_tune, store, tasks)
    stage, settings, store = tuning.stage, tuning.settings, tuning.store
    records, outputs = tuning.outputs(steps)
    (task,), asked = stage.tasks(), settings.to_tune(tuning.dataset.card.task, store)
    task = task.bound(task.settings, {**task.tuned, **asked})
    tuned = {**task.tune(records, outputs), "origin": _origin(tuning.dataset, tuning.built)}
    tuning.write({"tuned": tuned}, "`origin` says on what the values were fitted.")
    return TuneResult(tuning.out, stage.label, tuned)


def tune_risk(
    pipeline: str | Path | PipelineConfig,
    data: str | Path,
    out: str | Path,
    risk: float,
    *,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> tuple[TuneResult, RiskThreshold]:
    """Fit `min_confidence` of the last adapter stage of the dataset's task, and write the pipeline with it.

    Args:
        risk: Greatest share of wrong outputs among those that the stage then uses; see `eval.risk`.

    Raises:
        DataError: as `tune`; if no threshold holds the risk; if the outputs have no probabilities, or the records no
            class to compare them with.
        PipelineError, BaseModelError, NotInStore, LoadCheckFailed: as `tune`.
    """
    tuning = _Tuning.of(pipeline, data, out, _asks_the_task, store, tasks)
    records, outputs = tuning.outputs(steps)
    (task,) = tuning.stage.tasks()
    known = []
    for record, output in zip(records, outputs, strict=True):
        sure, has_class = confidence(output), task.baseline_class(record) is not None
        expected = task.parse(task.target(record), record) if has_class else None
        if sure is not None and expected is not None and not isinstance(expected, InvalidOutput):
            known.append((sure, output.value == expected.value))
    if not known:
        raise DataError(
            "no validation record has a class and an output with probabilities",
            where=str(tuning.dataset.folder),
            fix="A risk is held for tasks that choose one of several labels or grades.",
        )
    chosen = risk_threshold([sure for sure, _ in known], [right for _, right in known], risk)
    origin = json.dumps({**_origin(tuning.dataset, tuning.built), "risk": risk, "certainty": chosen.certainty})
    tuning.write({"min_confidence": chosen.threshold}, f"min_confidence of {tuning.stage.label} is from {origin}")
    return TuneResult(tuning.out, tuning.stage.label, {"min_confidence": chosen.threshold}), chosen


@dataclass(frozen=True)
class _Tuning:
    """A stage to tune, and what its pipeline is built from.

    Attributes:
        built: The stages that write what the tuned one reads, and it.
    """

    config: PipelineConfig
    stages: Sequence[StageSettings]
    place: int
    built: Pipeline
    dataset: Dataset
    store: Store
    out: Path

    @classmethod
    def of(
        cls,
        pipeline: str | Path | PipelineConfig,
        data: str | Path,
        out: str | Path,
        is_tuned: Callable[[StageSettings, str, Store], bool],
        store: Store | str | Path | None,
        tasks: str | Path | None,
    ) -> _Tuning:
        """Read the pipeline and the dataset, and build the stages up to the last one that `is_tuned`."""
        out = Path(out)
        check_writable(out)
        store = Store.of(store)
        dataset = load_dataset(data)
        config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
        stages = pinned(config.stages, store.pin)
        task = dataset.card.task
        places = [place for place, settings in enumerate(stages) if is_tuned(settings, task, store)]
        if not places:
            raise PipelineError(
                f"no adapter stage of the task '{task}' has values to tune",
                where=config.source,
                fix="Give the stage 'tuned', as in '- adapter: {name: shop-answers, tuned: {abstain: judge}}'; "
                "a risk needs a stage of the dataset's task.",
            )
        place = places[-1]
        before = [stage for stage in stages[:place] if stage.works_on_records]
        built = build_pipeline(config.name, [*before, stages[place].untuned()], store=store, documents=(), tasks=tasks)
        return cls(config, stages, place, built, dataset, store, out)

    @property
    def settings(self) -> StageSettings:
        return self.stages[self.place]

    @property
    def stage(self) -> Stage:
        return self.built.stages[-1]

    def outputs(self, steps: Steps) -> tuple[list[Record], Sequence[Any]]:
        """The validation records with what earlier stages write, and the stage's outputs."""
        records = self.dataset.records("validation")
        if not records:
            raise DataError("has no validation records", where=str(self.dataset.folder))
        (task,), size = self.stage.tasks(), self.built.batch_size
        seen = _through(self.built.stages[:-1], task, records, size, steps("Judging"))
        return seen, ask_in_batches(self.stage, seen, size, steps("Answering"))

    def write(self, values: Mapping[str, Any], origin: str) -> None:
        """Write the pipeline with new values of the stage."""
        write_tuned(self.out, self.config, self.stages, self.place, values, origin)


def _has_values_to_tune(settings: StageSettings, task: str, store: Store) -> bool:
    return bool(settings.to_tune(task, store))


def _asks_the_task(settings: StageSettings, task: str, store: Store) -> bool:
    return isinstance(settings, AdapterSettings) and store.get(settings.name).manifest.task == task


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
