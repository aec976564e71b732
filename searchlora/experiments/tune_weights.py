"""The verb `tune` on judged topics: the weights of a fusion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import lineage_of, refuse_circular
from searchlora.eval.trec import Qrels
from searchlora.experiments.fusion_weights import (
    PARTS,
    FusionHits,
    WeightsScore,
    best_weights,
    measure_weights,
    search_parts,
)
from searchlora.experiments.tuned_file import write_tuned
from searchlora.files import check_writable, file_sha256
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.slots import fusion_place
from searchlora.pipelines.stages.fuse import part_names
from searchlora.pipelines.stages.stage import StageSettings, pinned
from searchlora.progress import Steps, no_progress
from searchlora.records import SearchContext
from searchlora.systems.lineage import seen_by_run
from searchlora.systems.pipeline import run_card, with_history


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
        PipelineError: if no stage fuses, or one that fuses more than three parts.
        DataError: if no topic is judged, or a file cannot be read or written.
        UsageError: for an unknown measure or a circular judge.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    out = Path(out)
    check_writable(out)
    fusion = judged_fusion(
        config,
        topics,
        qrels,
        check=partial(_check_weighted, config.name),
        corpus=corpus,
        allow_circular=allow_circular,
        store=store,
        tasks=tasks,
        steps=steps,
    )
    searched, grades, settings = fusion.searched, fusion.grades, fusion.settings
    best = best_weights(measure_weights(searched, grades, measure=measure, progress=steps("Measuring weights")))
    (own,) = measure_weights(searched, grades, [settings.part_weights], measure=measure)
    origin = f"{measure} {best.value:.4f} on {best.n} topics of {Path(topics).name}, sha256 {file_sha256(topics)}"
    write_tuned(out, config, fusion.stages, fusion.place, {"weights": best.weights}, f"weights: {origin}")
    return TuneWeightsResult(out, measure, part_names(settings), best, own, fusion.circular)


def _check_weighted(name: str, settings: StageSettings) -> StageSettings:
    """The settings of a fusion, if it has weights to choose. Raises `PipelineError`."""
    if len(settings.parts) not in PARTS or getattr(settings, "model", None) is not None:
        raise PipelineError(
            "no stage fuses two or three parts without a ranking model, so there are no weights to choose",
            where=name,
            fix="Give a pipeline such as 'hybrid', or train a ranking model with --ranking-model.",
        )
    return settings


@dataclass(frozen=True)
class JudgedFusion:
    """The first fusion of a pipeline, with the hits of its parts for judged topics.

    Attributes:
        stages: Of the pipeline, with pinned adapters.
        place: Of the fusion among them.
        built: The pipeline up to the fusion, as `check` has it.
        grades: Topic -> document -> grade.
        circular: Why the judgments are circular; empty: they are not.
    """

    stages: Sequence[StageSettings]
    place: int
    built: Pipeline
    searched: FusionHits
    grades: Qrels
    circular: str

    @property
    def settings(self) -> StageSettings:
        """Of the fusion."""
        return self.searched.settings


def judged_fusion(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    *,
    check: Callable[[StageSettings], StageSettings],
    corpus: Corpus | None,
    allow_circular: bool,
    store: Store | str | Path | None,
    tasks: str | Path | None,
    steps: Steps,
) -> JudgedFusion:
    """Search the parts of a pipeline's first fusion for the judged ones of some topics; errors as `tune_weights`.

    Args:
        check: Returns the settings with which the fusion is built, or raises `PipelineError`.
    """
    store = Store.of(store)
    stages = pinned(config.stages, store.pin)
    place = fusion_place(stages)
    if place is None:
        raise PipelineError("no stage fuses", where=config.name, fix="Give a pipeline such as 'hybrid'.")
    until = (*stages[:place], check(stages[place]))
    judged = judged_topics(config.name, until, topics, qrels, allow_circular=allow_circular, store=store)
    built = Pipeline.load(replace(config, stages=until), corpus=corpus, store=store, tasks=tasks, steps=steps)
    searched = search_parts(built, judged.searches, steps("Searching"))
    return JudgedFusion(stages, place, built, searched, judged.grades, judged.circular)


@dataclass(frozen=True)
class JudgedTopics:
    """The judged ones of some topics, as searches, with their grades; and why the judgments are circular, or empty."""

    searches: Sequence[SearchContext]
    grades: Qrels
    circular: str


def judged_topics(
    name: str,
    stages: Sequence[StageSettings],
    topics: str | Path,
    qrels: str | Path,
    *,
    allow_circular: bool,
    store: Store,
) -> JudgedTopics:
    """Read topics and judgments, and refuse those that an adapter of the stages has made or seen in training.

    Args:
        name: Of the pipeline.
        stages: With pinned adapters.
    """
    fields = read_topics(Path(topics))
    grades = read_qrels(Path(qrels), topics=fields)
    judged = {topic: with_history(fields[topic], f"{topics}, {topic}") for topic in fields if topic in grades}
    if not judged:
        raise DataError("none of the judged topics is among the topics", where=str(qrels))
    card = run_card(name, Pipeline(name, (), stages), store)
    learned = _learned(seen_by_run(store, card, judged), judged, str(topics), allow_circular)
    lineage = lineage_of(card)
    queries = {topic: str(values["query"]) for topic, values in judged.items()}
    circular = refuse_circular(read_card(qrels), {name: lineage}, queries, allow=allow_circular)
    searches = [{"id": topic, **values} for topic, values in judged.items()]
    reasons = "; ".join(filter(None, (circular.get(name), learned)))
    return JudgedTopics(searches, {topic: dict(grades[topic]) for topic in judged}, reasons)


def _learned(seen: Sequence[str] | None, topics: Collection[str], where: str, allow: bool) -> str:
    """That adapters have learned from some of the topics, so that figures are too good; empty if none is known."""
    if not seen:
        return ""
    what = (
        f"adapters of the pipeline were trained or validated on {len(seen)} of {len(topics)} topics, such as {seen[0]}"
    )
    if not allow:
        raise UsageError(what, where=where, fix="Give topics that are new to the adapters, or allow circular figures.")
    return what
