"""OpenAPI document of the HTTP API: every path with every status and content type that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from searchlora.server.api.generation_schemas import ChatRequest, CompletionRequest, ResponseRequest
from searchlora.server.api.schemas import (
    AdapterRequest,
    AnswerRequest,
    ClassifyRequest,
    EmbeddingRequest,
    JudgmentRequest,
    RerankRequest,
    RewriteRequest,
    ScoreRequest,
    ScoreRequests,
    SearchRequest,
    TaskRequest,
)
from searchlora.server.playground.page import PAGE_FILES

_TEMPLATE = "#/components/schemas/{model}"

#: Statuses of every path: invalid HTTP, a header that is too slow or too long, an unexpected error, a time-out.
_ALWAYS = (400, 408, 431, 500, 501, 503, 504)

#: Statuses of every path except the health probes: authentication, body size, rate limit.
_GUARDED = (401, 403, 413, 429)

_STRING, _INTEGER, _NUMBER, _BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))


def openapi_document(version: str) -> dict[str, Any]:
    """The document, in OpenAPI 3.1.

    Args:
        version: Version of searchlora.

    Examples:
        >>> sorted(openapi_document("1")["paths"]["/v1/models"]["get"]["responses"])[:3]
        ['200', '400', '401']
    """
    bodies: tuple[type[BaseModel], ...] = (
        *(
            ChatRequest,
            CompletionRequest,
            ResponseRequest,
            ScoreRequest,
            ScoreRequests,
            EmbeddingRequest,
            AdapterRequest,
        ),
        *(TaskRequest, RerankRequest, ClassifyRequest, RewriteRequest, AnswerRequest, SearchRequest, JudgmentRequest),
    )
    _, schemas = models_json_schema([(model, "validation") for model in bodies], ref_template=_TEMPLATE)
    chat, completion, response = (
        {"application/json": schema, "text/event-stream": _STRING} for schema in (_CHAT, _COMPLETION, _RESPONSE)
    )
    search = {"application/json": {"oneOf": [_SEARCHED, _EXPLAINED]}, "text/event-stream": _STRING}
    parameter = {"name": "model", "in": "path", "required": True, "schema": _STRING, "description": "A model id."}
    list_models, one_model = _get("List models", _LIST_OF_MODELS), _get("Describe a model", _MODEL, 404)
    # A model id may contain slashes, as hub ids do.
    one_model["parameters"] = [parameter | {"x-allow-slashes": True}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "searchlora", "version": version, "description": "Base model, adapters and encoders."},
        "paths": {
            "/v1/models": {"get": list_models},
            "/v1/models/{model}": {"get": one_model},
            "/v1/chat/completions": {"post": _post("Generate an answer", [ChatRequest], chat)},
            "/v1/completions": {"post": _post("Continue texts", [CompletionRequest], completion)},
            "/v1/responses": {"post": _post("Generate a response", [ResponseRequest], response)},
            "/v1/score": {"post": _post("Score choices", [ScoreRequest, ScoreRequests], {"application/json": _SCORE})},
            "/v1/embeddings": {"post": _post("Embed texts", [EmbeddingRequest], {"application/json": _EMBEDDINGS})},
            "/v1/tasks/{task}": {
                "post": _post("Run a task", [TaskRequest], {"application/json": _TASK_OUTPUT})
                | {"parameters": [{"name": "task", "in": "path", "required": True, "schema": _STRING}]}
            },
            "/v1/rerank": {"post": _post("Rerank documents", [RerankRequest], {"application/json": _RERANKED})},
            "/v1/classify": {"post": _post("Classify texts", [ClassifyRequest], {"application/json": _CLASSIFIED})},
            "/v1/rewrite": {"post": _post("Rewrite a query", [RewriteRequest], {"application/json": _REWRITTEN})},
            "/v1/answers": {"post": _post("Answer from passages", [AnswerRequest], {"application/json": _ANSWERED})},
            "/v1/pipelines": {"get": _get("List the pipelines", _LIST_OF_PIPELINES)},
            "/v1/search": {"post": _post("Search by a pipeline", [SearchRequest], search)},
            "/v1/judgments": {"post": _post("Grade a hit", [JudgmentRequest], {"application/json": _JUDGMENT})},
            "/v1/adapters/load": {"post": _post("Load an adapter", [AdapterRequest], {"application/json": _LOADED})},
            "/v1/adapters/unload": {
                "post": _post("Unload an adapter", [AdapterRequest], {"application/json": _UNLOADED})
            },
            **{path: {"get": _page(kind)} for path, kind in PAGE_FILES.items()},
            "/healthz": {"get": _get("Liveness probe", _STATUS, guarded=False)},
            "/readyz": {"get": _get("Readiness probe", _STATUS, guarded=False)},
            "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": _STRING}, _GUARDED)},
        },
        "components": {
            "schemas": schemas["$defs"] | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _get(summary: str, schema: Mapping[str, Any], *statuses: int, guarded: bool = True) -> dict[str, Any]:
    return _operation(summary, {"application/json": schema}, (*statuses, *(_GUARDED if guarded else ())))


def _page(kind: str) -> dict[str, Any]:
    return _operation("A file of the playground", {kind: _STRING}, ())


def _post(summary: str, bodies: list[type[BaseModel]], content: Mapping[str, Any]) -> dict[str, Any]:
    schemas = [{"$ref": _TEMPLATE.format(model=body.__name__)} for body in bodies]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return _operation(summary, content, (*_GUARDED, 404, 409)) | {"requestBody": body}


def _operation(summary: str, content: Mapping[str, Any], statuses: tuple[int, ...]) -> dict[str, Any]:
    responses = {
        "200": {"description": "OK", "content": {kind: {"schema": schema} for kind, schema in content.items()}}
    }
    error = {"application/json": {"schema": {"$ref": _TEMPLATE.format(model="Error")}}}
    for status in sorted({*_ALWAYS, *statuses}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    return {"summary": summary, "responses": responses}


_NULLABLE_STRING = {"type": ["string", "null"]}

_ERROR = _object({"error": _object({"message": _STRING, "type": _STRING, "param": _NULLABLE_STRING, "code": _STRING})})

_STATUS = _object({"status": _STRING})

_MODEL = _object(
    {
        "id": _STRING,
        "object": {"const": "model"},
        "created": _INTEGER,
        "owned_by": _STRING,
        "root": _STRING,
        "parent": _NULLABLE_STRING,
    }
)

_MODEL["properties"] |= {"precision": _STRING, "batch_invariant": {"type": "boolean"}}  # of the base

_LIST_OF_MODELS = _object({"object": {"const": "list"}, "data": _list(_MODEL)})

_FINISH = {"enum": ["stop", "length"]}

_USAGE = _object({"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER})

_TOP_LOGPROB = {"token": _STRING, "logprob": _NUMBER, "bytes": _list(_INTEGER)}

_LOGPROB = _object(_TOP_LOGPROB | {"top_logprobs": _list(_object(_TOP_LOGPROB))})

_CHAT = _object(
    {
        "id": _STRING,
        "object": {"const": "chat.completion"},
        "created": _INTEGER,
        "model": _STRING,
        "choices": _list(
            _object(
                {
                    "index": _INTEGER,
                    "message": _object({"role": {"const": "assistant"}, "content": _STRING}),
                    "logprobs": {"oneOf": [{"type": "null"}, _object({"content": _list(_LOGPROB)})]},
                    "finish_reason": _FINISH,
                }
            )
        ),
        "usage": _USAGE,
    }
)

_LOGPROB_LISTS = _object(
    {
        "tokens": _list(_STRING),
        "token_logprobs": _list(_NUMBER),
        "top_logprobs": _list({"type": "object", "additionalProperties": _NUMBER}),
        "text_offset": _list(_INTEGER),
    }
)

_COMPLETION = _object(
    {
        "id": _STRING,
        "object": {"const": "text_completion"},
        "created": _INTEGER,
        "model": _STRING,
        "choices": _list(
            _object(
                {
                    "index": _INTEGER,
                    "text": _STRING,
                    "logprobs": {"oneOf": [{"type": "null"}, _LOGPROB_LISTS]},
                    "finish_reason": _FINISH,
                }
            )
        ),
        "usage": _USAGE,
    }
)

_OUTPUT_TEXT = _object({"type": {"const": "output_text"}, "text": _STRING, "logprobs": _list(_LOGPROB)})

_RESPONSE = _object(
    {
        "id": _STRING,
        "object": {"const": "response"},
        "created_at": _INTEGER,
        "model": _STRING,
        "status": {"enum": ["completed", "incomplete"]},
        "output": _list(
            _object(
                {
                    "id": _STRING,
                    "type": {"const": "message"},
                    "role": {"const": "assistant"},
                    "content": _list(_OUTPUT_TEXT),
                }
            )
        ),
        "usage": _object({"input_tokens": _INTEGER, "output_tokens": _INTEGER, "total_tokens": _INTEGER}),
    }
)

_SCORED = _object(
    {
        "object": {"const": "score"},
        "model": _STRING,
        "log_probabilities": _list(_NUMBER),
        "probabilities": _list(_NUMBER),
        "usage": _object({"prompt_tokens": _INTEGER, "scored_tokens": _INTEGER}),
    }
)

_SCORE = {"oneOf": [_SCORED, _object({"results": _list(_SCORED)})]}

_EMBEDDINGS = _object(
    {
        "object": {"const": "list"},
        "model": _STRING,
        "data": _list(
            _object(
                {
                    "object": {"const": "embedding"},
                    "index": _INTEGER,
                    "embedding": {"oneOf": [_list(_NUMBER), _STRING]},
                }
            )
        ),
        "usage": _object({"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}),
    }
)

_OUTPUT = _object({"valid": _BOOLEAN, "value": {}})

_TASK_HEAD = {"object": {"const": "task_output"}, "model": _STRING, "task": _STRING}

_TASK_OUTPUT = {"oneOf": [_object(_TASK_HEAD | {"output": _OUTPUT}), _object(_TASK_HEAD | {"outputs": _list(_OUTPUT)})]}

_RERANKED = _object(
    {"id": _STRING, "model": _STRING, "results": _list(_object({"index": _INTEGER, "relevance_score": _NUMBER}))}
)

_CLASSIFIED = _object(
    {
        "id": _STRING,
        "object": {"const": "list"},
        "created": _INTEGER,
        "model": _STRING,
        "data": _list(
            _object(
                {
                    "index": _INTEGER,
                    "label": _NULLABLE_STRING,
                    "probs": _list(_NUMBER),
                    "num_classes": _INTEGER,
                    "labels": _list(_STRING),
                }
            )
        ),
    }
)

_REWRITTEN = _object({"object": {"const": "rewrite"}, "model": _STRING, "query": _STRING})

_ANSWERED = _object(
    {
        "object": {"const": "answer"},
        "model": _STRING,
        "answer": _NULLABLE_STRING,
        "valid": _BOOLEAN,
        "citations": _list(_object({"number": _INTEGER, "id": _STRING})),
    }
)

_PIPELINE = _object(
    {
        "id": _STRING,
        "object": {"const": "pipeline"},
        "stages": _list(_STRING),
        "slots": _list(_object({"name": _STRING, "adapter": _NULLABLE_STRING, "choices": _list(_STRING)})),
        "fields": _list(_STRING),
        "documents": _INTEGER,
    }
)

_LIST_OF_PIPELINES = _object({"object": {"const": "list"}, "data": _list(_PIPELINE)})

_STAGE = _object(
    {
        "index": _INTEGER,
        "stage": _STRING,
        "adapter": _NULLABLE_STRING,
        "output": {"type": "object"},
        "milliseconds": _NUMBER,
    }
)

_SEARCHED = _object(
    {
        "object": {"const": "search"},
        "pipeline": _STRING,
        "query": _STRING,
        "hits": _list(
            _object(
                {
                    "rank": _INTEGER,
                    "document": _STRING,
                    "score": _NUMBER,
                    "title": _NULLABLE_STRING,
                    "text": _NULLABLE_STRING,
                }
            )
        ),
        "total": _INTEGER,
        "output": {"type": "object"},
        "stages": _list(_STAGE),
        "milliseconds": _NUMBER,
    }
)

_EXPLAINED = _object(
    {
        "object": {"const": "explanation"},
        "pipeline": _STRING,
        "document": _STRING,
        "query": _STRING,
        "stages": _list({"type": "object"}),
        "missing_at": {"type": ["integer", "null"]},
        "verdict": _STRING,
    }
)

_MEASURED = _object({"measure": _STRING, "value": {"type": ["number", "null"]}, "judged": _INTEGER, "of": _INTEGER})

_JUDGMENT = _object(
    {
        "object": {"const": "judgment"},
        "topic": _STRING,
        "document": _STRING,
        "grade": {"type": ["integer", "null"]},
        "measured": _list(_MEASURED),
    }
)

_LOADED = _object({"adapter": _STRING, "loaded": _BOOLEAN})

_UNLOADED = _object({"adapter": _STRING, "loaded": _BOOLEAN, "was_loaded": _BOOLEAN})
