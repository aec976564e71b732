"""What background jobs compute on all judged topics: gains and losses, fusion weights, disagreements of a judge."""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from searchlora.errors import UsageError
from searchlora.eval.figures import SystemScore
from searchlora.eval.judgments.lineage import RunLineage, lineage_of, refuse_circular
from searchlora.experiments.fusion_weights import PARTS, WeightsScore, best_weights, measure_weights, search_parts
from searchlora.experiments.judge.disagreements import Disagreement, disagreements
from searchlora.experiments.slots import fusion_parts, fusion_place, kept_parts
from searchlora.files.result_cache import cache_key
from searchlora.outputs import Graded, InvalidOutput
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.stage import StageSettings
from searchlora.progress import Progress, silent
from searchlora.records import Document, Record, SearchContext
from searchlora.server.api.errors import ApiError
from searchlora.server.api.job_engine import JOB_BATCH, JobEngine, for_job
from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.search_schemas import (
    ComparisonRequest,
    DisagreementsRequest,
    SystemRequest,
    WeightsRequest,
)
from searchlora.server.api.served_pipelines import VariantKey
from searchlora.server.api.service import Service
from searchlora.server.grading.search_grades import HumanGrade, SearchGrades
from searchlora.systems.measure import measure
from searchlora.systems.measures import RetrievalMeasures
from searchlora.systems.pipeline import outputs_of, run_card, searches_of, with_history
from searchlora.systems.system import Outputs, System

#: Scores of documents that stay in memory as runs over the topics: about a gigabyte.
_SCORES = 5_000_000

#: Disagreements that a result holds.
_SHOWN = 500

#: Pairs that a judge grades in one step of a job.
_PAIRS = 32

_UNGRADED = "People have graded nothing yet."

#: Names of the two systems in the comparison.
SYSTEM, BASELINE = "system", "baseline"

Topics: TypeAlias = Mapping[str, Mapping[str, Any]]

#: What a job computes.
Work: TypeAlias = Callable[[BackgroundJob], dict[str, Any]]


class TopicCache:
    """Results of pipelines on topics in memory: a topic is executed once. Thread-safe.

    Args:
        scores: Scores that are kept; beyond it the results that were used the longest ago are dropped.
    """

    def __init__(self, scores: int = _SCORES) -> None:
        self._left = scores
        self._values: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any | None:
        """See `systems.measure.Cache`."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put_all(self, values: Mapping[str, Any], label: str = "") -> None:
        """See `systems.measure.Cache`."""
        del label
        with self._lock:
            for key, value in values.items():
                self._left += _scores(self._values.pop(key, None)) - _scores(value)
                self._values[key] = value
            while self._left < 0:
                self._left += _scores(self._values.popitem(last=False)[1])


def _scores(value: Any) -> int:
    return len(value["hits"]) if value else 0


@dataclass(frozen=True)
class RequestedSystem:
    """A pipeline of a request, as it is executed."""

    request: SystemRequest
    key: VariantKey
    pipeline: Pipeline

    def json(self) -> dict[str, Any]:
        """What it is, for the result."""
        return self.request.model_dump() | {"stages": self.pipeline.labels}


class _JobSystem(System):
    """A pipeline that a job executes with the server's engine, a few topics at a time.

    Attributes:
        skipped: Stage -> number of topics that ran without it.
    """

    batch_size = JOB_BATCH

    def __init__(self, name: str, requested: RequestedSystem, engine: JobEngine) -> None:
        self.name, self.skipped = name, Counter[str]()
        self._requested, self._store = requested, engine.service.store
        self._pipeline = for_job(engine, requested.pipeline)

    @property
    def fingerprint(self) -> str:
        name, slots, weights = self._requested.key
        return cache_key(name, sorted(slots), weights)

    @property
    def lineage(self) -> RunLineage | None:
        return lineage_of(run_card(self.name, self._requested.pipeline, self._store))

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        done = self._pipeline.execute(searches_of(rows), progress=progress)
        self.skipped.update(stage for search in done for stage in search.get("skipped", ()))
        return outputs_of(done, {})


def system_of(service: Service, request: SystemRequest) -> RequestedSystem:
    """The pipeline of a request. Raises `ApiError` 400 or 404, see `ServedPipelines.variant`."""
    key, pipeline = service.pipelines.variant_with_key(request.pipeline, request.slots, request.weights)
    return RequestedSystem(request, key, pipeline)


def measured(service: Service) -> SearchGrades:
    """The topics and judgments of the server. Raises `ApiError` 404 without any."""
    if service.grades is None:
        message = "This server has no topics. Start it with --topics FILE --qrels FILE, or --grades FOLDER."
        raise ApiError(404, "no_topics", message)
    return service.grades


def comparing(service: Service, cache: TopicCache, body: ComparisonRequest) -> Work:
    """Gains and losses of a system against a baseline, over all topics.

    Raises:
        ApiError, UsageError: for a request that cannot be computed.
    """
    topics, qrels = _judged(service)
    requested = {SYSTEM: system_of(service, body.system), BASELINE: system_of(service, body.baseline)}
    _circular(service, requested, topics, body.allow_circular)

    def work(job: BackgroundJob) -> dict[str, Any]:
        engine = JobEngine(service, job)
        systems = [_JobSystem(name, system, engine) for name, system in requested.items()]
        units = len(systems) * len(topics)
        begun = iter(range(0, units, len(topics)))

        def steps(label: str) -> Progress:
            before = next(begun)
            job.progress(before, units, label)
            return lambda done, _, note="": job.progress(before + done, units, note or label)

        comparison = measure(
            systems,
            [{"id": topic, **fields} for topic, fields in topics.items()],
            RetrievalMeasures(qrels, [body.measure], card=measured(service).card, unjudged=False),
            cache,
            candidate=SYSTEM,
            baseline=BASELINE,
            allow_circular=body.allow_circular,
            steps=steps,
        ).comparison
        name = comparison.measures[0]
        pair, values = comparison.pair(SYSTEM, BASELINE, name), comparison.values[name]
        gains = comparison.gains(SYSTEM, BASELINE)
        read = {field for each in (body.system, body.baseline) for field in service.pipelines.get(each.pipeline).fields}
        skips = [note for system in systems for note in _skip_notes(system.skipped, f"{system.name.capitalize()}: ")]
        return {
            "object": "comparison",
            "measure": name,
            **{key: system.json() | _figure(comparison.row(key, name)) for key, system in requested.items()},
            **{key: _number(getattr(pair, key)) for key in ("difference", "low", "high", "p")},
            **{key: getattr(pair, key) for key in ("n", "wins", "losses", "ties")},
            "circular": dict(comparison.circular),
            "notes": [*comparison.notes, *skips],
            "topics": [
                {
                    "topic": topic,
                    "query": str(topics[topic]["query"]),
                    "fields": _shown_fields(topic, topics[topic], read),
                    "system": values[SYSTEM][topic],
                    "baseline": values[BASELINE][topic],
                    "gain": gains[topic],
                }
                for topic in sorted(gains, key=lambda topic: (-gains[topic], topic))
            ],
        }

    return work


def weighing(service: Service, body: WeightsRequest) -> Work:
    """The measure under each choice of weights of a pipeline's first fusion, of its hits before later stages.

    Raises:
        ApiError, UsageError: for a request that cannot be computed.
    """
    topics, qrels = _judged(service)
    if body.system.weights:
        message = "Every mix is measured: leave the weights out."
        raise ApiError(400, "invalid_value", message, param="system.weights")
    system = system_of(service, body.system)
    place = fusion_place(system.pipeline.settings)
    fusion = system.pipeline.settings[place] if place is not None else None
    if place is None or fusion is None or len(fusion.parts) not in PARTS:
        message = "Mixes are measured for a pipeline that fuses two or three parts, and this one does not."
        raise ApiError(400, "invalid_value", message, param="system")
    circular = _circular(service, {SYSTEM: system}, topics, body.allow_circular)

    def work(job: BackgroundJob) -> dict[str, Any]:
        pipeline = for_job(JobEngine(service, job), system.pipeline)
        searched = search_parts(pipeline, [_search(topic, fields) for topic, fields in topics.items()], job.progress)
        scores = measure_weights(searched, qrels, measure=body.measure, progress=job.progress)
        return {
            "object": "weights",
            "measure": body.measure,
            "system": system.json(),
            "stage": pipeline.labels[place],
            "parts": _part_names(service, body.system, searched.settings),
            "n": scores[0].n,
            "mixes": [{"weights": list(score.weights), **_figure(score)} for score in scores],
            "best": scores.index(best_weights(scores)),
            "circular": circular,
            "notes": [
                "The figures are for the fused hits, before later stages.",
                "The best mix was chosen on these topics: expect less on other topics.",
                *_skip_notes(Counter(stage for search in searched.searches for stage in search.get("skipped", ()))),
            ],
        }

    return work


def _part_names(service: Service, request: SystemRequest, settings: StageSettings) -> list[str]:
    """The names of the parts that are fused, as in the unchanged pipeline: parts of one kind are numbered there."""
    served = service.pipelines.get(request.pipeline)
    off = [slot for slot in served.slots if request.slots.get(slot.name) == "off"]
    names = kept_parts(served.pipeline.settings, *off)
    return list(names if len(names) == len(settings.parts) else fusion_parts(settings))


def disagreeing(service: Service, body: DisagreementsRequest) -> Work:
    """Where a judge and people grade differently, over pairs that people graded. Raises `ApiError`."""
    grades = measured(service)
    served = service.pipelines.get(body.pipeline)
    place = served.judges.get(body.judge)
    if place is None:
        known = ", ".join(served.judges) or "none"
        message = f"'{body.judge[:64]}' is no judge of this pipeline. Its judges: {known}."
        raise ApiError(400, "invalid_value", message, param="judge")
    if body.version == "off":
        raise ApiError(400, "invalid_value", "A judge that is off grades nothing.", param="version")
    pipeline = service.pipelines.variant(body.pipeline, {body.judge: body.version})
    stage = pipeline.stages[place]
    assert isinstance(stage, AdapterStage)
    graded = grades.human_grades()
    known_pairs = [pair for pair in graded if "query" in pair.fields]
    if not known_pairs:
        nothing = f"The queries of all {len(graded)} graded pairs are unknown." if graded else _UNGRADED
        message = f"{nothing} Start the server with --topics and --qrels, or grade hits."
        raise ApiError(400, "no_grades", message)
    scale = _scale(stage)
    _check_scale(scale, {body.grades.get(pair.grade, pair.grade) for pair in known_pairs})

    def work(job: BackgroundJob) -> dict[str, Any]:
        documents = pipeline.documents
        there = [pair for pair in known_pairs if pair.document in documents]
        pairs = there[: body.limit]
        (judge,) = for_job(JobEngine(service, job), replace(pipeline, stages=[stage])).stages
        assert isinstance(judge, AdapterStage)
        outputs: list[Any] = []
        for start in range(0, len(pairs), _PAIRS):
            job.progress(start, len(pairs), "pairs")
            batch = pairs[start : start + _PAIRS]
            outputs += judge.ask([row for pair in batch for row in _judged_records(stage, pair, documents)])
        valid = [
            (pair.topic, pair.document, body.grades.get(pair.grade, pair.grade), output)
            for pair, output in zip(pairs, outputs, strict=True)
            if not isinstance(output, InvalidOutput)
        ]
        differing = disagreements(valid, scale)
        by_pair = {(pair.topic, pair.document): pair for pair in pairs}
        read = set(service.pipelines.get(body.pipeline).fields)
        return {
            "object": "disagreements",
            "pipeline": body.pipeline,
            "judge": judge.label,
            "scale": list(scale),
            "pairs": len(pairs),
            "left_out": len(there) - len(pairs),
            "missing": len(known_pairs) - len(there),
            "unknown": len(graded) - len(known_pairs),
            "invalid": len(pairs) - len(valid),
            "differing": len(differing),
            "rows": [
                _disagreement(one, by_pair[one.topic, one.document], documents[one.document], read)
                for one in differing[:_SHOWN]
            ],
        }

    return work


def _judged_records(stage: AdapterStage, pair: HumanGrade, documents: Mapping[str, Document]) -> list[Record]:
    """The record of a pair, as the judge's stage makes it in a pipeline."""
    document = documents[pair.document]
    passage = {"id": document.id, "title": document.title, "text": document.text, "score": 0.0}
    return list(stage.task.records_from({**_search(pair.topic, pair.fields), "passages": [passage]}))


def _disagreement(one: Disagreement, pair: HumanGrade, document: Document, read: set[str]) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "query": str(pair.fields.get("query", "")),
        "fields": _shown_fields(one.topic, pair.fields, read),
        "document": one.document,
        "title": document.title,
        "text": document.text,
        "grade": one.human,
        "given": pair.grade,
        "raters": list(pair.raters),
        "judge_grade": one.judge,
        "expected": one.expected,
        "difference": one.difference,
        "probabilities": [{"grade": grade, "probability": share} for grade, share in one.probabilities],
        "reason": one.reason,
    }


def _scale(judge: AdapterStage) -> list[int]:
    """The grades of a judge."""
    spec = judge.task.output(judge.task.examples[0])
    assert isinstance(spec, Graded)
    return list(spec.scale.values())


def _check_scale(scale: Sequence[int], grades: Collection[int]) -> None:
    """Refuse grades of people that the judge cannot give: each would count as a difference."""
    others = sorted({*grades} - {*scale})
    if not others:
        return
    judged, example = ", ".join(map(str, sorted(scale))), ",".join(f"{grade}={max(scale)}" for grade in others)
    message = (
        f"The judge's grades are {judged}, and people gave {', '.join(map(str, others))} as well."
        f" Map grades of people to the judge's, for example {example}."
    )
    raise ApiError(400, "other_scale", message, param="grades")


def _skip_notes(counts: Mapping[str, int], system: str = "") -> list[str]:
    """A note for each stage without which topics ran."""
    return [
        f"{system}{count} {'topic' if count == 1 else 'topics'} ran without stage {stage}."
        for stage, count in counts.items()
    ]


def _judged(service: Service) -> tuple[Topics, Mapping[str, Mapping[str, int]]]:
    topics, qrels = measured(service).judged()
    if not topics:
        message = "No topic has a relevant document yet. Grade hits, or start the server with --topics and --qrels."
        raise ApiError(400, "no_judgments", message)
    return topics, qrels


def _circular(service: Service, systems: Mapping[str, RequestedSystem], topics: Topics, allow: bool) -> dict[str, str]:
    """System -> why its figures are circular. Raises `ApiError` for a circular one unless they are allowed."""
    card = measured(service).card
    if card is None or not card.judge_lineage:
        return {}
    lineages = {name: lineage_of(run_card(name, system.pipeline, service.store)) for name, system in systems.items()}
    try:
        return refuse_circular(card, lineages, {topic: str(of["query"]) for topic, of in topics.items()}, allow=allow)
    except UsageError as error:
        raise ApiError(400, "circular", f"{error.what[:1].upper()}{error.what[1:]}.", param="allow_circular") from None


def _search(topic: str, fields: Mapping[str, Any]) -> SearchContext:
    return with_history({"id": topic, **fields}, f"topic {topic}")


def _shown_fields(topic: str, fields: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    """The fields of a topic that stages read, in the form that a search takes."""
    search = _search(topic, fields)
    return {name: value for name, value in search.items() if name in read}


def _figure(figure: SystemScore | WeightsScore) -> dict[str, float | None]:
    return {"value": _number(figure.value), "low": _number(figure.low), "high": _number(figure.high)}


def _number(value: float) -> float | None:
    """None in place of nan, which JSON does not have."""
    return None if math.isnan(value) else value
