"""OpenAPI document of the HTTP API: every path with every status and content type that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from searchlora.server.api import openapi_search as of_search
from searchlora.server.api.generation_schemas import ChatRequest, CompletionRequest, ResponseRequest
from searchlora.server.api.openapi_parts import BOOLEAN, INTEGER, NULLABLE_STRING, NUMBER, STRING, a_list, an_object
from searchlora.server.api.schemas import (
    AdapterRequest,
    AnswerRequest,
    ClassifyRequest,
    EmbeddingRequest,
    RerankRequest,
    RewriteRequest,
    ScoreRequest,
    ScoreRequests,
    TaskRequest,
)
from searchlora.server.api.search_schemas import (
    ComparisonRequest,
    DisagreementsRequest,
    JudgmentRequest,
    SearchRequest,
    WeightsRequest,
)
from searchlora.server.playground.page import FILES, MEDIA_TYPES, PAGE

_TEMPLATE = "#/components/schemas/{model}"

#: Statuses of every path: invalid HTTP, a header that is too slow or too long, an unexpected error, a time-out.
_ALWAYS = (400, 408, 431, 500, 501, 503, 504)

#: Statuses of every path except the health probes: authentication, body size, rate limit.
_GUARDED = (401, 403, 413, 429)


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
        *(ComparisonRequest, WeightsRequest, DisagreementsRequest),
    )
    _, schemas = models_json_schema([(model, "validation") for model in bodies], ref_template=_TEMPLATE)
    chat, completion, response = (
        {"application/json": schema, "text/event-stream": STRING} for schema in (_CHAT, _COMPLETION, _RESPONSE)
    )
    parameter = {"name": "model", "in": "path", "required": True, "schema": STRING, "description": "A model id."}
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
                | {"parameters": [{"name": "task", "in": "path", "required": True, "schema": STRING}]}
            },
            "/v1/rerank": {"post": _post("Rerank documents", [RerankRequest], {"application/json": _RERANKED})},
            "/v1/classify": {"post": _post("Classify texts", [ClassifyRequest], {"application/json": _CLASSIFIED})},
            "/v1/rewrite": {"post": _post("Rewrite a query", [RewriteRequest], {"application/json": _REWRITTEN})},
            "/v1/answers": {"post": _post("Answer from passages", [AnswerRequest], {"application/json": _ANSWERED})},
            **_searching(),
            "/v1/adapters/load": {"post": _post("Load an adapter", [AdapterRequest], {"application/json": _LOADED})},
            "/v1/adapters/unload": {
                "post": _post("Unload an adapter", [AdapterRequest], {"application/json": _UNLOADED})
            },
            PAGE: {"get": _operation("The playground", {"text/html": STRING}, ())},
            f"{FILES}{{file}}": {"get": _page_file()},
            "/healthz": {"get": _get("Liveness probe", _STATUS, guarded=False)},
            "/readyz": {"get": _get("Readiness probe", _STATUS, guarded=False)},
            "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": STRING}, _GUARDED)},
        },
        "components": {
            "schemas": schemas["$defs"] | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _searching() -> dict[str, Any]:
    """The paths that search and measure."""
    search = {"application/json": {"oneOf": [of_search.SEARCHED, of_search.EXPLAINED]}, "text/event-stream": STRING}
    job = {"application/json": of_search.JOB}
    one_job = [{"name": "job", "in": "path", "required": True, "schema": STRING, "description": "Id of a job."}]
    examples = of_search.EXAMPLES

    def started(path: str, summary: str, body: type[BaseModel]) -> dict[str, Any]:
        return {"post": _post(summary, [body], job, examples[path])}

    return {
        "/v1/pipelines": {"get": _get("List the pipelines", of_search.LIST_OF_PIPELINES)},
        "/v1/search": {"post": _post("Search by a pipeline", [SearchRequest], search, examples["/v1/search"])},
        "/v1/judgments": {
            "post": _post(
                "Grade a hit", [JudgmentRequest], {"application/json": of_search.JUDGMENT}, examples["/v1/judgments"]
            )
        },
        "/v1/topics": {"get": _get("Describe the judged topics", of_search.TOPICS)},
        **{
            path: started(path, summary, body)
            for path, summary, body in (
                ("/v1/topics/compare", "Compare two systems on all topics", ComparisonRequest),
                ("/v1/topics/weights", "Measure every mix of a fusion", WeightsRequest),
                ("/v1/topics/disagreements", "Find where a judge and people disagree", DisagreementsRequest),
            )
        },
        "/v1/jobs/{job}": {
            "get": _get("Describe a background job", of_search.JOB, 404) | {"parameters": one_job},
            "delete": _get("Cancel a background job", of_search.JOB, 404) | {"parameters": one_job},
        },
        "/v1/adapters": {"get": _get("List the adapters", of_search.LIST_OF_ADAPTERS)},
    }


def _get(summary: str, schema: Mapping[str, Any], *statuses: int, guarded: bool = True) -> dict[str, Any]:
    return _operation(summary, {"application/json": schema}, (*statuses, *(_GUARDED if guarded else ())))


def _page_file() -> dict[str, Any]:
    file = {"name": "file", "in": "path", "required": True, "schema": STRING, "description": "Name of the file."}
    content = dict.fromkeys(MEDIA_TYPES.values(), STRING)
    return _operation("A file of the playground", content, (404,)) | {"parameters": [file]}


def _post(
    summary: str, bodies: list[type[BaseModel]], content: Mapping[str, Any], example: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    schemas = [{"$ref": _TEMPLATE.format(model=body.__name__)} for body in bodies]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    sent = {"schema": schema} | ({"example": dict(example)} if example is not None else {})
    body = {"required": True, "content": {"application/json": sent}}
    return _operation(summary, content, (*_GUARDED, 404, 409)) | {"requestBody": body}


def _operation(summary: str, content: Mapping[str, Any], statuses: tuple[int, ...]) -> dict[str, Any]:
    responses = {
        "200": {"description": "OK", "content": {kind: {"schema": schema} for kind, schema in content.items()}}
    }
    error = {"application/json": {"schema": {"$ref": _TEMPLATE.format(model="Error")}}}
    for status in sorted({*_ALWAYS, *statuses}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    return {"summary": summary, "responses": responses}


_ERROR = an_object({"error": an_object({"message": STRING, "type": STRING, "param": NULLABLE_STRING, "code": STRING})})

_STATUS = an_object({"status": STRING})

_MODEL = an_object(
    {
        "id": STRING,
        "object": {"const": "model"},
        "created": INTEGER,
        "owned_by": STRING,
        "root": STRING,
        "parent": NULLABLE_STRING,
    }
)

_MODEL["properties"] |= {"precision": STRING, "batch_invariant": {"type": "boolean"}}  # of the base

_LIST_OF_MODELS = an_object({"object": {"const": "list"}, "data": a_list(_MODEL)})

_FINISH = {"enum": ["stop", "length"]}

_USAGE = an_object({"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER})

_TOP_LOGPROB = {"token": STRING, "logprob": NUMBER, "bytes": a_list(INTEGER)}

_LOGPROB = an_object(_TOP_LOGPROB | {"top_logprobs": a_list(an_object(_TOP_LOGPROB))})

_CHAT = an_object(
    {
        "id": STRING,
        "object": {"const": "chat.completion"},
        "created": INTEGER,
        "model": STRING,
        "choices": a_list(
            an_object(
                {
                    "index": INTEGER,
                    "message": an_object({"role": {"const": "assistant"}, "content": STRING}),
                    "logprobs": {"oneOf": [{"type": "null"}, an_object({"content": a_list(_LOGPROB)})]},
                    "finish_reason": _FINISH,
                }
            )
        ),
        "usage": _USAGE,
    }
)

_LOGPROB_LISTS = an_object(
    {
        "tokens": a_list(STRING),
        "token_logprobs": a_list(NUMBER),
        "top_logprobs": a_list({"type": "object", "additionalProperties": NUMBER}),
        "text_offset": a_list(INTEGER),
    }
)

_COMPLETION = an_object(
    {
        "id": STRING,
        "object": {"const": "text_completion"},
        "created": INTEGER,
        "model": STRING,
        "choices": a_list(
            an_object(
                {
                    "index": INTEGER,
                    "text": STRING,
                    "logprobs": {"oneOf": [{"type": "null"}, _LOGPROB_LISTS]},
                    "finish_reason": _FINISH,
                }
            )
        ),
        "usage": _USAGE,
    }
)

_OUTPUT_TEXT = an_object({"type": {"const": "output_text"}, "text": STRING, "logprobs": a_list(_LOGPROB)})

_RESPONSE = an_object(
    {
        "id": STRING,
        "object": {"const": "response"},
        "created_at": INTEGER,
        "model": STRING,
        "status": {"enum": ["completed", "incomplete"]},
        "output": a_list(
            an_object(
                {
                    "id": STRING,
                    "type": {"const": "message"},
                    "role": {"const": "assistant"},
                    "content": a_list(_OUTPUT_TEXT),
                }
            )
        ),
        "usage": an_object({"input_tokens": INTEGER, "output_tokens": INTEGER, "total_tokens": INTEGER}),
    }
)

_SCORED = an_object(
    {
        "object": {"const": "score"},
        "model": STRING,
        "log_probabilities": a_list(NUMBER),
        "probabilities": a_list(NUMBER),
        "usage": an_object({"prompt_tokens": INTEGER, "scored_tokens": INTEGER}),
    }
)

_SCORE = {"oneOf": [_SCORED, an_object({"results": a_list(_SCORED)})]}

_EMBEDDINGS = an_object(
    {
        "object": {"const": "list"},
        "model": STRING,
        "data": a_list(
            an_object(
                {
                    "object": {"const": "embedding"},
                    "index": INTEGER,
                    "embedding": {"oneOf": [a_list(NUMBER), STRING]},
                }
            )
        ),
        "usage": an_object({"prompt_tokens": INTEGER, "total_tokens": INTEGER}),
    }
)

_OUTPUT = an_object({"valid": BOOLEAN, "value": {}})

_TASK_HEAD = {"object": {"const": "task_output"}, "model": STRING, "task": STRING}

_TASK_OUTPUT = {
    "oneOf": [an_object(_TASK_HEAD | {"output": _OUTPUT}), an_object(_TASK_HEAD | {"outputs": a_list(_OUTPUT)})]
}

_RERANKED = an_object(
    {"id": STRING, "model": STRING, "results": a_list(an_object({"index": INTEGER, "relevance_score": NUMBER}))}
)

_CLASSIFIED = an_object(
    {
        "id": STRING,
        "object": {"const": "list"},
        "created": INTEGER,
        "model": STRING,
        "data": a_list(
            an_object(
                {
                    "index": INTEGER,
                    "label": NULLABLE_STRING,
                    "probs": a_list(NUMBER),
                    "num_classes": INTEGER,
                    "labels": a_list(STRING),
                }
            )
        ),
    }
)

_REWRITTEN = an_object({"object": {"const": "rewrite"}, "model": STRING, "query": STRING})

_ANSWERED = an_object(
    {
        "object": {"const": "answer"},
        "model": STRING,
        "answer": NULLABLE_STRING,
        "valid": BOOLEAN,
        "citations": a_list(an_object({"number": INTEGER, "id": STRING})),
    }
)

_LOADED = an_object({"adapter": STRING, "loaded": BOOLEAN})

_UNLOADED = an_object({"adapter": STRING, "loaded": BOOLEAN, "was_loaded": BOOLEAN})
