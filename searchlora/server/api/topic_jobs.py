"""What background jobs measure on all judged topics: gains and losses of a system, and the weights of a fusion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from searchlora.errors import UsageError
from searchlora.eval.figures import SystemScore
from searchlora.eval.judgments.lineage import RunLineage, lineage_of, refuse_circular
from searchlora.eval.trec import Qrels
from searchlora.experiments.fusion_weights import PARTS, WeightsScore, best_weights, measure_weights, search_parts
from searchlora.experiments.slots import kept_parts
from searchlora.files.result_cache import cache_key
from searchlora.pipelines.stages.fuse import part_names
from searchlora.progress import Progress, silent
from searchlora.records import Record, SearchContext
from searchlora.server.api.client_engine import JobEngine, pipeline_asking
from searchlora.server.api.errors import ApiError
from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.response_schemas import (
    ComparisonResult,
    FigureEntry,
    MeasuredSystem,
    TopicGain,
    WeightsResult,
)
from searchlora.server.api.search_schemas import ComparisonRequest, SystemRequest, WeightsRequest
from searchlora.server.api.served_pipelines import fusion_of
from searchlora.server.api.service import Service
from searchlora.server.grading.search_grades import SearchGrades
from searchlora.systems.measure import measure
from searchlora.systems.measures import RetrievalMeasures
from searchlora.systems.pipeline import outputs_of, run_card, searches_of, with_history
from searchlora.systems.system import Outputs, System

#: Names of the two systems in a comparison.
SYSTEM, BASELINE = "system", "baseline"

Topics: TypeAlias = Mapping[str, Mapping[str, Any]]


class ServedSystem(System):
    """A pipeline of a request, which a job executes with the server's engine a few topics at a time.

    Attributes:
        engine: Set by the job.
        skipped: Stage -> number of topics that ran without it.
    """

    batch_size = 8  # few, so that a job moves on often and stops soon
    engine: JobEngine

    def __init__(self, name: str, service: Service, request: SystemRequest) -> None:
        self.name, self.request, self._store = name, request, service.store
        self.pipeline = service.pipelines.variant(request.pipeline, request.slots, request.weights)
        self.skipped = Counter[str]()

    @property
    def fingerprint(self) -> str:
        return cache_key(self.pipeline.name, [stage.identity() for stage in self.pipeline.settings])

    @property
    def lineage(self) -> RunLineage | None:
        return lineage_of(run_card(self.name, self.pipeline, self._store))

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        done = pipeline_asking(self.pipeline, self.engine).execute(searches_of(rows), progress=progress)
        self.skipped.update(stage for search in done for stage in search.get("skipped", ()))
        return outputs_of(done, {})

    def described(self) -> dict[str, Any]:
        """What it is, for the result."""
        return self.request.model_dump() | {"stages": self.pipeline.labels}


def search_grades(service: Service) -> SearchGrades:
    """The topics and judgments of the server. Raises `ApiError` 404 without any."""
    if service.grades is None:
        message = "This server has no topics. Start it with --topics FILE --qrels FILE, or --grades FOLDER."
        raise ApiError(404, "no_topics", message)
    return service.grades


def comparing(service: Service, body: ComparisonRequest) -> Callable[[BackgroundJob], ComparisonResult]:
    """Gains and losses of a system against a baseline, over all topics.

    Raises:
        ApiError, UsageError: for a request that cannot be computed.
    """
    topics, qrels = _judged(service)
    systems = [ServedSystem(SYSTEM, service, body.system), ServedSystem(BASELINE, service, body.baseline)]
    _circular(service, systems, topics, body.allow_circular)

    def work(job: BackgroundJob) -> ComparisonResult:
        begun = iter(range(0, len(systems) * len(topics), len(topics)))
        for system in systems:
            system.engine = JobEngine(service, job)

        def steps(label: str) -> Progress:
            before, units = next(begun), len(systems) * len(topics)
            job.progress(before, units, label)
            return lambda done, _, note="": job.progress(before + done, units, note or label)

        comparison = measure(
            systems,
            [{"id": topic, **fields} for topic, fields in topics.items()],
            RetrievalMeasures(qrels, [body.measure], card=search_grades(service).card, unjudged=False),
            service.topic_cache,
            candidate=SYSTEM,
            baseline=BASELINE,
            allow_circular=body.allow_circular,
            steps=steps,
        ).comparison
        name = comparison.measures[0]
        pair, values, gains = comparison.pair(SYSTEM, BASELINE, name), comparison.values[name], comparison.gains
        read = {field for system in systems for field in service.pipelines.get(system.request.pipeline).fields}

        def measured(system: ServedSystem) -> MeasuredSystem:
            return {**system.described(), **_figure(comparison.row(system.name, name))}  # type: ignore[typeddict-item]

        def shown(topic: str, gain: float) -> TopicGain:
            return {
                "topic": topic,
                "query": str(topics[topic]["query"]),
                "fields": shown_fields(topic, topics[topic], read),
                "system": values[SYSTEM][topic],
                "baseline": values[BASELINE][topic],
                "gain": gain,
            }

        by_gain = sorted(gains(SYSTEM, BASELINE).items(), key=lambda each: (-each[1], each[0]))
        skips = [note for each in systems for note in _skip_notes(each.skipped, f"{each.name.capitalize()}: ")]
        return {
            "object": "comparison",
            "measure": name,
            "system": measured(systems[0]),
            "baseline": measured(systems[1]),
            "difference": _number(pair.difference),
            "low": _number(pair.low),
            "high": _number(pair.high),
            "p": _number(pair.p),
            "n": pair.n,
            "wins": pair.wins,
            "losses": pair.losses,
            "ties": pair.ties,
            "circular": dict(comparison.circular),
            "notes": [*comparison.notes, *skips],
            "topics": [shown(topic, gain) for topic, gain in by_gain],
        }

    return work


def weighing(service: Service, body: WeightsRequest) -> Callable[[BackgroundJob], WeightsResult]:
    """The measure under each choice of weights of a pipeline's first fusion, of its hits before later stages.

    Raises:
        ApiError, UsageError: for a request that cannot be computed.
    """
    topics, qrels = _judged(service)
    if body.system.weights:
        message = "All fusion weights are measured: leave the weights out."
        raise ApiError(400, "invalid_value", message, param="system.weights")
    system, served = ServedSystem(SYSTEM, service, body.system), service.pipelines.get(body.system.pipeline)
    fusion = fusion_of(system.pipeline.settings)
    if fusion is None or len(fusion[1].parts) not in PARTS:
        message = "Fusion weights are measured for a pipeline that fuses two or three parts, and this one does not."
        raise ApiError(400, "invalid_value", message, param="system")
    off = [slot for slot in served.slots if body.system.slots.get(slot.name) == "off"]
    names = kept_parts(served.pipeline.settings, *off)  # parts of one kind are numbered as in the unchanged pipeline
    circular = _circular(service, [system], topics, body.allow_circular)

    def work(job: BackgroundJob) -> WeightsResult:
        pipeline = pipeline_asking(system.pipeline, JobEngine(service, job))
        searched = search_parts(pipeline, [search_of(topic, fields) for topic, fields in topics.items()], job.progress)
        scores = measure_weights(searched, qrels, measure=body.measure, progress=job.progress)
        fusions: list[Any] = [{"weights": list(score.weights), **_figure(score)} for score in scores]
        skips = Counter(stage for search in searched.searches for stage in search.get("skipped", ()))
        return {
            "object": "weights",
            "measure": body.measure,
            "system": system.described(),
            "stage": pipeline.labels[fusion[0]],
            "parts": list(names if len(names) == len(searched.settings.parts) else part_names(searched.settings)),
            "n": scores[0].n,
            "fusions": fusions,
            "best": scores.index(best_weights(scores)),
            "circular": circular,
            "notes": [
                "The figures are for the fused hits, before later stages.",
                "The best weights were chosen on these topics: expect less on other topics.",
                *_skip_notes(skips),
            ],
        }

    return work


def search_of(topic: str, fields: Mapping[str, Any]) -> SearchContext:
    """The search of a topic."""
    return with_history({"id": topic, **fields}, f"topic {topic}")


def shown_fields(topic: str, fields: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    """The fields of a topic that stages read, in the form that a search takes."""
    return {name: value for name, value in search_of(topic, fields).items() if name in read}


def _skip_notes(counts: Mapping[str, int], system: str = "") -> list[str]:
    """A note for each stage without which topics ran."""
    return [
        f"{system}{count} {'topic' if count == 1 else 'topics'} ran without stage {stage}."
        for stage, count in counts.items()
    ]


def _judged(service: Service) -> tuple[Topics, Qrels]:
    topics, qrels = search_grades(service).judged()
    if not topics:
        message = "No topic has a relevant document yet. Grade hits, or start the server with --topics and --qrels."
        raise ApiError(400, "no_judgments", message)
    return topics, qrels


def _circular(service: Service, systems: Sequence[ServedSystem], topics: Topics, allow: bool) -> dict[str, str]:
    """System -> why its figures are circular. Raises `ApiError` for a circular one unless they are allowed."""
    card = search_grades(service).card
    if card is None or not card.judge_lineage:
        return {}
    queries = {topic: str(fields["query"]) for topic, fields in topics.items()}
    try:
        return refuse_circular(card, {system.name: system.lineage for system in systems}, queries, allow=allow)
    except UsageError as error:
        raise ApiError(400, "circular", f"{error.what[:1].upper()}{error.what[1:]}.", param="allow_circular") from None


def _figure(figure: SystemScore | WeightsScore) -> FigureEntry:
    return {"value": _number(figure.value), "low": _number(figure.low), "high": _number(figure.high)}


def _number(value: float) -> float | None:
    """None in place of nan, which JSON does not have."""
    return None if math.isnan(value) else value
