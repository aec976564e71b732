"""The verb `tune` on judged topics: the weights of a fusion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import lineage_of, refuse_circular
from searchlora.experiments.fusion_weights import WeightsScore, best_weights, measure_weights, search_parts
from searchlora.experiments.slots import fusion_parts, fusion_place
from searchlora.experiments.tuned_file import write_tuned
from searchlora.files import check_writable, file_sha256
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.stage import pinned
from searchlora.progress import Steps, no_progress
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
    write_tuned(out, config, stages, place, {"weights": best.weights}, f"weights: {origin}")
    return TuneWeightsResult(out, measure, fusion_parts(settings), best, own, circular.get(config.name, ""))
