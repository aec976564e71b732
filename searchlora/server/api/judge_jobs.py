"""The background job that finds where a judge of a pipeline and people grade differently."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from searchlora.experiments.judge.disagreements import Disagreement, disagreements
from searchlora.outputs import Graded, InvalidOutput
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.records import Document, Record
from searchlora.server.api.client_engine import JobEngine, asking
from searchlora.server.api.errors import ApiError
from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.response_schemas import DisagreementEntry, DisagreementsResult
from searchlora.server.api.search_schemas import DisagreementsRequest
from searchlora.server.api.service import Service
from searchlora.server.api.topic_jobs import search_grades, search_of, shown_fields
from searchlora.server.grading.search_grades import HumanGrade

#: Disagreements that a result holds.
_SHOWN = 500

#: Pairs that a judge grades in one step.
_PAIRS = 32


def disagreeing(service: Service, body: DisagreementsRequest) -> Callable[[BackgroundJob], DisagreementsResult]:
    """Where a judge and people grade differently, over pairs that people graded. Raises `ApiError`."""
    grades, served = search_grades(service), service.pipelines.get(body.pipeline)
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
        nothing = "People have graded nothing yet."
        nothing = f"The queries of all {len(graded)} graded pairs are unknown." if graded else nothing
        message = f"{nothing} Start the server with --topics and --qrels, or grade hits."
        raise ApiError(400, "no_grades", message)
    scale = scale_of(stage)
    _check_scale(scale, {body.grades.get(pair.grade, pair.grade) for pair in known_pairs})

    def work(job: BackgroundJob) -> DisagreementsResult:
        documents, read = pipeline.documents, set(served.fields)
        there = [pair for pair in known_pairs if pair.document in documents]
        pairs = there[: body.limit]
        judge = asking(stage, JobEngine(service, job))
        assert isinstance(judge, AdapterStage)
        outputs: list[Any] = []
        for start in range(0, len(pairs), _PAIRS):
            job.progress(start, len(pairs), "pairs")
            batch = pairs[start : start + _PAIRS]
            outputs += judge.ask([row for pair in batch for row in _records(stage, pair, documents[pair.document])])
        valid = [
            (pair.topic, pair.document, body.grades.get(pair.grade, pair.grade), output)
            for pair, output in zip(pairs, outputs, strict=True)
            if not isinstance(output, InvalidOutput)
        ]
        differing = disagreements(valid, scale)
        by_pair = {(pair.topic, pair.document): pair for pair in pairs}
        return {
            "object": "disagreements",
            "pipeline": body.pipeline,
            "judge": judge.label,
            "scale": scale,
            "pairs": len(pairs),
            "left_out": len(there) - len(pairs),
            "missing": len(known_pairs) - len(there),
            "unknown": len(graded) - len(known_pairs),
            "invalid": len(pairs) - len(valid),
            "differing": len(differing),
            "rows": [
                _entry(one, by_pair[one.topic, one.document], documents[one.document], read)
                for one in differing[:_SHOWN]
            ],
        }

    return work


def _records(stage: AdapterStage, pair: HumanGrade, document: Document) -> Sequence[Record]:
    """The record of a pair, as the judge's stage makes it in a pipeline."""
    passage = {"id": document.id, "title": document.title, "text": document.text, "score": 0.0}
    return stage.task.records_from({**search_of(pair.topic, pair.fields), "passages": [passage]})


def _entry(one: Disagreement, pair: HumanGrade, document: Document, read: set[str]) -> DisagreementEntry:
    return {
        "topic": one.topic,
        "query": str(pair.fields.get("query", "")),
        "fields": shown_fields(one.topic, pair.fields, read),
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


def scale_of(judge: AdapterStage) -> list[int]:
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
