"""What background jobs compute on all judged topics: gains and losses, mixes of a fusion, disagreements of a judge.

The measures and their intervals are those of `searchlora.experiments` and `searchlora.eval`.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from searchlora.errors import PipelineError, UsageError
from searchlora.eval.figures import SystemScore
from searchlora.eval.trec import Run
from searchlora.experiments.fusion_weights import PARTS, WeightsScore, best_weights, measure_weights, search_parts
from searchlora.experiments.judge.disagreements import disagreements
from searchlora.experiments.run import with_history
from searchlora.experiments.slots import fusion_parts, fusion_place, kept_parts
from searchlora.experiments.topic_gains import BASELINE, SYSTEM, circular_pipelines, topic_gains
from searchlora.outputs import Graded, InvalidOutput
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.records import SearchContext
from searchlora.server.api.errors import ApiError
from searchlora.server.api.job_engine import JobEngine, executed, for_job
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

#: Scores of documents that stay in memory as runs over the topics: about a gigabyte.
_SCORES = 5_000_000

#: Disagreements that a result holds.
_SHOWN = 500

#: Pairs that a judge grades in one step of a job.
_PAIRS = 32

_UNGRADED = "People have graded nothing yet."

Topics: TypeAlias = Mapping[str, Mapping[str, Any]]


class TopicRuns:
    """Runs over the judged topics by pipeline: a topic is executed once. Thread-safe.

    Args:
        scores: Scores that are kept; beyond it the runs that were used the longest ago are dropped, but not the newest.
    """

    def __init__(self, scores: int = _SCORES) -> None:
        self._scores = scores
        self._runs: OrderedDict[VariantKey, dict[str, Mapping[str, float]]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, key: VariantKey) -> dict[str, Mapping[str, float]]:
        """Topic -> document -> score, of the topics that were executed."""
        with self._lock:
            return dict(self._runs.get(key, {}))

    def add(self, key: VariantKey, run: Run) -> None:
        """Add the results of topics."""
        with self._lock:
            self._runs.setdefault(key, {}).update(run)
            self._runs.move_to_end(key)
            while len(self._runs) > 1 and sum(map(_scores, self._runs.values())) > self._scores:
                self._runs.popitem(last=False)


def _scores(run: Run) -> int:
    return sum(map(len, run.values()))


@dataclass(frozen=True)
class System:
    """A pipeline of a request, as it is executed."""

    request: SystemRequest
    key: VariantKey
    pipeline: Pipeline

    def json(self) -> dict[str, Any]:
        """What it is, for the result."""
        return self.request.model_dump() | {"stages": self.pipeline.labels}


def system_of(service: Service, request: SystemRequest) -> System:
    """The pipeline of a request. Raises `ApiError` 400 or 404, see `ServedPipelines.variant`."""
    key, pipeline = service.pipelines.variant_with_key(request.pipeline, request.slots, request.weights)
    return System(request, key, pipeline)


def measured(service: Service) -> SearchGrades:
    """The topics and judgments of the server. Raises `ApiError` 404 without any."""
    if service.grades is None:
        message = "This server has no topics. Start it with --topics FILE --qrels FILE, or --grades FOLDER."
        raise ApiError(404, "no_topics", message)
    return service.grades


@dataclass(frozen=True)
class Comparing:
    """Gains and losses of a system against a baseline.

    Args:
        circular: System -> why its figures are circular.
    """

    service: Service
    runs: TopicRuns
    body: ComparisonRequest
    systems: Mapping[str, System]
    topics: Topics
    qrels: Mapping[str, Mapping[str, int]]
    circular: Mapping[str, str]

    @classmethod
    def of(cls, service: Service, runs: TopicRuns, body: ComparisonRequest) -> Comparing:
        """Check a request. Raises `ApiError` and `UsageError` for one that cannot be computed."""
        topics, qrels = _judged(service)
        systems = {SYSTEM: system_of(service, body.system), BASELINE: system_of(service, body.baseline)}
        circular = _circular(service, systems, topics, body.allow_circular)
        return cls(service, runs, body, systems, topics, qrels, circular)

    def __call__(self, job: BackgroundJob) -> dict[str, Any]:
        """Execute both pipelines on all topics, and compare them."""
        engine = JobEngine(self.service, job)
        runs = {name: self.runs.known(system.key) for name, system in self.systems.items()}
        missing = {name: [topic for topic in self.topics if topic not in run] for name, run in runs.items()}
        same = self.systems[SYSTEM].key == self.systems[BASELINE].key
        if same:
            missing[BASELINE] = []
        total, done = sum(map(len, missing.values())), 0
        skips: list[str] = []
        for name, system in self.systems.items():
            searches = [_search(topic, self.topics[topic]) for topic in missing[name]]
            found = executed(engine, system.pipeline, searches, f"topics, {name}", done, total)
            runs[name].update(_run_of(found))
            # A skip may be a matter of the moment: such a topic is executed again by the next comparison.
            skipped = {str(search["id"]) for search in found if search.get("skipped")}
            self.runs.add(system.key, {topic: hits for topic, hits in runs[name].items() if topic not in skipped})
            skips += _skip_notes(found, f"{name.capitalize()}: ")
            done += len(searches)
        if same:
            runs[BASELINE] = runs[SYSTEM]
        gains = topic_gains(
            runs[SYSTEM],
            runs[BASELINE],
            self.topics,
            self.qrels,
            measure=self.body.measure,
            circular=self.circular,
        )
        fields = {name for system in self.systems.values() for name in _fields(self.service, system)}
        figures = {name: _figure(gains.row(name)) for name in self.systems}
        pair = gains.pair
        return {
            "object": "comparison",
            "measure": gains.comparison.measures[0],
            **{name: system.json() | figures[name] for name, system in self.systems.items()},
            **{key: _number(getattr(pair, key)) for key in ("difference", "low", "high", "p")},
            **{key: getattr(pair, key) for key in ("n", "wins", "losses", "ties")},
            "circular": dict(self.circular),
            "notes": [*gains.comparison.notes, *skips],
            "topics": [
                {
                    "topic": each.topic,
                    "query": str(self.topics[each.topic]["query"]),
                    "fields": _shown_fields(each.topic, self.topics[each.topic], fields),
                    "system": each.system,
                    "baseline": each.baseline,
                    "gain": each.gain,
                }
                for each in gains.topics
            ],
        }


@dataclass(frozen=True)
class Weighing:
    """The measure under each mix of a pipeline's first fusion, of its hits before later stages."""

    service: Service
    body: WeightsRequest
    system: System
    topics: Topics
    qrels: Mapping[str, Mapping[str, int]]
    circular: Mapping[str, str]

    @classmethod
    def of(cls, service: Service, body: WeightsRequest) -> Weighing:
        """Check a request. Raises `ApiError` and `UsageError` for one that cannot be computed."""
        topics, qrels = _judged(service)
        if body.system.weights:
            message = "Every mix is measured: leave the weights out."
            raise ApiError(400, "invalid_value", message, param="system.weights")
        system = system_of(service, body.system)
        place = fusion_place(system.pipeline.settings)
        fusion = system.pipeline.settings[place] if place is not None else None
        if not isinstance(fusion, FuseSettings) or len(fusion.of) not in PARTS:
            message = "Mixes are measured for a pipeline that fuses two or three parts, and this one does not."
            raise ApiError(400, "invalid_value", message, param="system")
        circular = _circular(service, {SYSTEM: system}, topics, body.allow_circular)
        return cls(service, body, system, topics, qrels, circular)

    def __call__(self, job: BackgroundJob) -> dict[str, Any]:
        """Search the parts once for each topic, and measure each mix."""
        engine = JobEngine(self.service, job)
        pipeline = for_job(engine, self.system.pipeline)
        place = fusion_place(pipeline.settings)
        assert place is not None
        searches = [_search(topic, fields) for topic, fields in self.topics.items()]
        searched = search_parts(pipeline, searches, job.progress)
        scores = measure_weights(searched, self.qrels, measure=self.body.measure, progress=job.progress)
        return {
            "object": "weights",
            "measure": self.body.measure,
            "system": self.system.json(),
            "stage": pipeline.labels[place],
            "parts": self._parts(searched.settings),
            "n": scores[0].n,
            "mixes": [{"weights": list(score.weights), **_figure(score)} for score in scores],
            "best": scores.index(best_weights(scores)),
            "circular": dict(self.circular),
            "notes": [
                "The figures are for the fused hits, before later stages.",
                "The best mix was chosen on these topics: expect less on other topics.",
                *_skip_notes(searched.searches),
            ],
        }

    def _parts(self, settings: FuseSettings) -> list[str]:
        """The names of the parts that are fused, as in the unchanged pipeline: parts of one kind are numbered there."""
        served = self.service.pipelines.get(self.body.system.pipeline)
        off = [slot for slot in served.slots if self.body.system.slots.get(slot.name) == "off"]
        kept = kept_parts(served.pipeline.settings, *off)
        return list(kept if len(kept) == len(settings.of) else fusion_parts(settings))


@dataclass(frozen=True)
class Disagreeing:
    """Where a judge and people grade differently, over pairs that people graded.

    Args:
        pairs: Those whose query is known.
        scale: The judge's grades.
        unknown: Number of pairs whose query is not.
    """

    service: Service
    body: DisagreementsRequest
    stage: AdapterStage
    pipeline: Pipeline
    pairs: Sequence[HumanGrade]
    scale: Sequence[int]
    unknown: int

    @classmethod
    def of(cls, service: Service, body: DisagreementsRequest) -> Disagreeing:
        """Check a request. Raises `ApiError` for one that cannot be computed."""
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
        pairs = [pair for pair in graded if "query" in pair.fields]
        if not pairs:
            nothing = f"The queries of all {len(graded)} graded pairs are unknown." if graded else _UNGRADED
            message = f"{nothing} Start the server with --topics and --qrels, or grade hits."
            raise ApiError(400, "no_grades", message)
        scale = _scale(stage)
        _check_scale(scale, {body.grades.get(pair.grade, pair.grade) for pair in pairs})
        return cls(service, body, stage, pipeline, pairs, scale, len(graded) - len(pairs))

    def __call__(self, job: BackgroundJob) -> dict[str, Any]:
        """Let the judge grade each pair."""
        documents = self.pipeline.documents
        there = [pair for pair in self.pairs if pair.document in documents]
        pairs = there[: self.body.limit]
        (judge,) = for_job(JobEngine(self.service, job), replace(self.pipeline, stages=[self.stage])).stages
        assert isinstance(judge, AdapterStage)
        outputs: list[Any] = []
        for start in range(0, len(pairs), _PAIRS):
            job.progress(start, len(pairs), "pairs")
            records = [record for pair in pairs[start : start + _PAIRS] for record in self._records(pair)]
            outputs += judge.ask(records)
        valid = [
            (pair.topic, pair.document, self.body.grades.get(pair.grade, pair.grade), output)
            for pair, output in zip(pairs, outputs, strict=True)
            if not isinstance(output, InvalidOutput)
        ]
        found = disagreements(valid, self.scale)
        by_pair = {(pair.topic, pair.document): pair for pair in pairs}
        read = set(self.service.pipelines.get(self.body.pipeline).fields)
        rows = []
        for each in found[:_SHOWN]:
            pair, document = by_pair[each.topic, each.document], documents[each.document]
            rows.append(
                {
                    "topic": each.topic,
                    "query": str(pair.fields.get("query", "")),
                    "fields": _shown_fields(each.topic, pair.fields, read),
                    "document": each.document,
                    "title": document.title,
                    "text": document.text,
                    "grade": each.human,
                    "given": pair.grade,
                    "raters": list(pair.raters),
                    "judge_grade": each.judge,
                    "expected": each.expected,
                    "difference": each.difference,
                    "probabilities": [{"grade": grade, "probability": share} for grade, share in each.probabilities],
                    "reason": each.reason,
                }
            )
        return {
            "object": "disagreements",
            "pipeline": self.body.pipeline,
            "judge": judge.label,
            "scale": list(self.scale),
            "pairs": len(pairs),
            "left_out": len(there) - len(pairs),
            "missing": len(self.pairs) - len(there),
            "unknown": self.unknown,
            "invalid": len(pairs) - len(valid),
            "differing": len(found),
            "rows": rows,
        }

    def _records(self, pair: HumanGrade) -> list[Mapping[str, Any]]:
        """The record of a pair, as the judge's stage makes it in a pipeline."""
        document = self.pipeline.documents[pair.document]
        passage = {"id": document.id, "title": document.title, "text": document.text, "score": 0.0}
        search = _search(pair.topic, pair.fields)
        return list(self.stage.task.records_from({**search, "passages": [passage]}))


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


def _skip_notes(searches: Iterable[SearchContext], system: str = "") -> list[str]:
    """A note for each stage without which topics ran."""
    counts = Counter(stage for search in searches for stage in search.get("skipped", ()))
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


def _circular(service: Service, systems: Mapping[str, System], topics: Topics, allow: bool) -> dict[str, str]:
    pipelines = {name: system.pipeline for name, system in systems.items()}
    try:
        return circular_pipelines(pipelines, measured(service).card, topics, service.store, allow=allow)
    except UsageError as error:
        raise ApiError(400, "circular", f"{error.what[:1].upper()}{error.what[1:]}.", param="allow_circular") from None


def _search(topic: str, fields: Mapping[str, Any]) -> SearchContext:
    return with_history({"id": topic, **fields}, f"topic {topic}")


def _run_of(searches: Sequence[SearchContext]) -> Run:
    for search in searches:
        if "hits" not in search:
            raise PipelineError("no stage retrieves, so there is nothing to measure", where=f"topic {search['id']}")
    return run_of(searches)


def _fields(service: Service, system: System) -> list[str]:
    return service.pipelines.get(system.request.pipeline).fields


def _shown_fields(topic: str, fields: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    """The fields of a topic that stages read, in the form that a search takes."""
    search = _search(topic, fields)
    return {name: value for name, value in search.items() if name in read}


def _figure(figure: SystemScore | WeightsScore) -> dict[str, float | None]:
    return {"value": _number(figure.value), "low": _number(figure.low), "high": _number(figure.high)}


def _number(value: float) -> float | None:
    """None in place of nan, which JSON does not have."""
    return None if math.isnan(value) else value
