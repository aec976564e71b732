"""Outputs of tasks as JSON: of any task, and in the shapes of reranking, classification, rewriting and answering."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from searchlora.outputs import CitedAnswer, Grade, Graded, InvalidOutput, Label, OneLabel
from searchlora.records import Record
from searchlora.server.api.model_task import ModelTask
from searchlora.server.api.response_schemas import Classifications, Classified, Reranked, RerankResult, Rewritten
from searchlora.server.api.schemas import AnswerRequest, ClassifyRequest, RerankRequest, RewriteRequest
from searchlora.task import GenerationTask


def output_json(task: GenerationTask, record: Record, output: Any) -> dict[str, Any]:
    """A parsed output as JSON: `valid`, `value`, and what belongs to its kind, such as probabilities by choice.

    An output that did not parse has `valid` false, the `text`, the `reason`, and the task's fallback as `value`.

    Examples:
        >>> from searchlora.task import load_task, generation_task
        >>> output_json(generation_task(load_task("rewriting")), {"id": "1", "query": "telly"}, "television")
        {'valid': True, 'value': 'television'}
    """
    if isinstance(output, InvalidOutput):
        fallback = task.fallback(record)
        value = _details(task, record, fallback).get("value") if fallback is not None else None
        return {"valid": False, "value": value, "text": output.raw, "reason": output.reason}
    return {"valid": True, **_details(task, record, output)}


def _details(task: GenerationTask, record: Record, output: Any) -> dict[str, Any]:
    if isinstance(output, Label):
        return {"value": output.value} | _probabilities(task.output(record).choices, output.probabilities)
    if isinstance(output, Grade):
        spec = task.output(record)
        grades = spec.scale.values() if isinstance(spec, Graded) else ()
        reason = {} if output.reason is None else {"reason": output.reason}
        return {"value": output.value} | _probabilities(tuple(map(str, grades)), output.probabilities) | reason
    if isinstance(output, CitedAnswer):
        return {"value": output.text, **{name: each for name, each in asdict(output).items() if name != "text"}}
    return {"value": asdict(output) if is_dataclass(output) and not isinstance(output, type) else output}


def _probabilities(choices: Sequence[str] | None, probabilities: Sequence[float] | None) -> dict[str, Any]:
    if not choices or probabilities is None:
        return {}
    return {"probabilities": dict(zip(choices, probabilities, strict=True))}


def reranked(model: ModelTask, body: RerankRequest) -> Reranked:
    """Cohere's shape: the documents by relevance score, which is the expected grade, scaled to between 0 and 1."""
    passages = [{"id": str(number), **document} for number, document in enumerate(body.fields)]
    search = {"id": "1", "query": body.query, "passages": passages, "hits": []}
    records = model.records_of(search)
    spec = model.task.output(records[0])
    if not isinstance(spec, Graded) or len(records) != len(passages):
        raise model.unsuitable("grades no passages")
    grades = sorted(spec.scale.values())
    results: list[RerankResult] = []
    for number, (record, output) in enumerate(model.ask(records)):
        grade = model.task.fallback(record) if isinstance(output, InvalidOutput) else output
        expected = _expected(grade, tuple(spec.scale.values())) if grade is not None else float(grades[0])
        score = (expected - grades[0]) / (grades[-1] - grades[0])
        result: RerankResult = {"index": number, "relevance_score": score}
        if isinstance(output, InvalidOutput):
            result["invalid"] = output.reason
        if body.return_documents:
            result["document"] = body.fields[number]
        results.append(result)
    results.sort(key=lambda result: (-result["relevance_score"], result["index"]))
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": model.name, "results": results[: body.top_n]}


def _expected(grade: Grade, grades: Sequence[int]) -> float:
    if grade.probabilities is None:
        return float(grade.value)
    return sum(value * share for value, share in zip(grades, grade.probabilities, strict=True))


def classified(model: ModelTask, body: ClassifyRequest) -> Classifications:
    """vLLM's shape: one label per text with the probabilities of all labels."""
    records = [
        {**record, "id": str(number), "group": str(number)}
        for number, text in enumerate(body.input)
        for record in model.records_of({"id": str(number), "query": text})
    ]
    if not isinstance(model.task.output(records[0]), OneLabel):
        raise model.unsuitable("gives no single label")
    data: list[Classified] = []
    for number, (record, output) in enumerate(model.ask(records)):
        value = output_json(model.task, record, output)
        probabilities = value.get("probabilities", {})
        data.append(
            {
                "index": number,
                "label": value["value"],
                "probs": list(probabilities.values()),
                "num_classes": len(probabilities),
                "labels": list(probabilities),
            }
        )
        if not value["valid"]:
            data[-1]["invalid"] = value["reason"]
    identity = f"classify-{uuid.uuid4().hex}"
    return {"id": identity, "object": "list", "created": int(time.time()), "model": model.name, "data": data}


def rewritten(model: ModelTask, body: RewriteRequest) -> Rewritten:
    """The query to search with."""
    context = {"query": body.query, **({"history": body.turns} if body.history else {})}
    searched, output = model.search(context, "query")
    result: Rewritten = {"object": "rewrite", "model": model.name, "query": str(searched["query"])}
    if isinstance(output, InvalidOutput):
        result["invalid"] = output.reason
    return result


def answered(model: ModelTask, body: AnswerRequest) -> dict[str, Any]:
    """An answer from passages, with the ids of the cited ones."""
    history = {"history": body.turns} if body.history else {}
    context = {"query": body.query, "passages": body.passage_fields, **history}
    _, output = model.search(context, "answer")
    record = model.records_of({"id": "1", **context})[0]
    value = output_json(model.task, record, output)
    cited = value.pop("citations", ())
    ids = [passage["id"] for passage in body.passage_fields]
    envelope = {"object": "answer", "model": model.name, "answer": value.pop("value"), **value}
    return envelope | {"citations": [{"number": each, "id": ids[each - 1]} for each in cited if each <= len(ids)]}
