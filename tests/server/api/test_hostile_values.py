"""Hostile values in every field of every route, and each kind of adapter on every route: only documented answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import jsonschema
import pytest

from searchlora.adapters.store import Store
from searchlora.server.api.app import document
from searchlora.task import load_task
from tests.factories import random_adapter, random_encoder_adapter, shout
from tests.server.api.serving import made_service, served
from tests.server.searching import judged_by, served_files

LABELS = {"kind": "label", "labels": ["buy", "return"], "out_of_scope": None}
OBJECT = {"kind": "object", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}
SETTINGS = {
    "rewriter": ("rewriting", None),
    "judge": ("judgment", None),
    "answerer": ("rag_answer", None),
    "intent": ("intent", LABELS),
    "fields": ("intent", OBJECT),
}
MODELS = (*SETTINGS, "meaning", "tiny", "encoder", "none", "judge@9", "judge@production", "../judge", "")

TAKES = {
    "/v1/rerank": ("judge",),
    "/v1/classify": ("intent",),
    "/v1/rewrite": ("rewriter",),
    "/v1/embeddings": ("meaning", "encoder"),
}

DOCUMENT = document()
MESSAGES = [{"role": "user", "content": "red couch"}]
PASSAGE = {"id": "p1", "title": "Red couch", "text": "A couch for two."}
TURN = {"role": "user", "text": "a sofa"}
SAMPLED = {"n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 1, "stop": ["a"]}
CONSTRAINED = {"structured_outputs": {"regex": "[ab]{2}"}, "presence_penalty": 0.1, "frequency_penalty": 0.1}
CHAT = {"model": "rewriter", "messages": MESSAGES, "max_tokens": 2}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer", "multipleOf": 2}}}

#: A body that each route takes; several for a route whose fields exclude each other.
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**CHAT, **SAMPLED, **CONSTRAINED, "logprobs": True, "top_logprobs": 1}),
    ("/v1/chat/completions", {**CHAT, "response_format": FORMAT, "stream": True, "answer_prefix": "a"}),
    ("/v1/chat/completions", {"model": "rewriter", "task_input": {"query": "tv", "history": [TURN]}, "max_tokens": 2}),
    (
        "/v1/completions",
        {"model": "rewriter", "prompt": ["a"], "max_tokens": 2, "logprobs": 1} | SAMPLED | CONSTRAINED,
    ),
    ("/v1/completions", {"model": "judge", "prompt": [5, 6], "max_tokens": 2, "prompt_format": "raw"}),
    (
        "/v1/score",
        {"model": "judge", "messages": MESSAGES, "choices": ["a", "b"], "answer_prefix": "a"}
        | {"choice_suffix": "c", "prune_margin": 1.5},
    ),
    ("/v1/score", {"requests": [{"model": "judge", "messages": MESSAGES, "choices": ["a"]}]}),
    (
        "/v1/embeddings",
        {"model": "meaning", "input": ["a"], "dimensions": 2, "encoding_format": "float"}
        | {"truncate": True, "input_type": "document"},
    ),
    ("/v1/embeddings", {"model": "encoder", "input": [[5, 6]]}),
    ("/v1/rerank", {"model": "judge", "query": "couch", "documents": [PASSAGE, "a"], "top_n": 1}),
    ("/v1/classify", {"model": "intent", "input": ["a", "b"]}),
    ("/v1/rewrite", {"model": "rewriter", "query": "telly", "history": [TURN]}),
    ("/v1/tasks/judgment", {"model": "judge", "input": {"query": "a", "passage": "b", "title": "c"}}),
    ("/v1/tasks/rewriting", {"model": "rewriter", "inputs": [{"query": "a", "history": [TURN]}]}),
    ("/v1/tasks/rag_answer", {"model": "answerer", "input": {"question": "a", "passages": [PASSAGE]}}),
    ("/v1/tasks/intent", {"model": "fields", "input": {"query": "a"}}),
    ("/v1/adapters/load", {"adapter": "judge"}),
    ("/v1/adapters/load", {"adapter": "training", "folder": "judge/1"}),
    ("/v1/adapters/unload", {"adapter": "judge"}),
    (
        "/v1/search",
        {"pipeline": "rewritten", "query": "couch", "fields": {"history": [TURN], "n": 1}, "top": 2}
        | {"slots": {"rewriter": "off"}, "weights": [1.0], "explain": "d1", "trace": True},
    ),
    ("/v1/search", {"pipeline": "mixed", "query": "couch", "weights": [0.5, 0.5], "stream": True}),
    ("/v1/search", {"pipeline": "judged", "query": "couch", "slots": {"judge": "judge@1"}}),
    (
        "/v1/judgments",
        {"query": "red couch", "document": "d1", "grade": 1, "rater": "ann", "seconds": 1.5}
        | {"rankings": [["d1", "d2"]], "fields": {"n": 1}},
    ),
]  # fmt: skip

NESTED: Any = []
for _ in range(200):
    NESTED = [NESTED, {"a": NESTED}] if not NESTED else [NESTED]
HOSTILE: list[Any] = [
    *(None, True, 0, -1, 2**31, 2**64, 10**300, 0.5, 1e308, float("nan"), -float("inf")),
    *("", "\x00", "a\udfff", "\ufeff", "x" * 3000, "../..", "1", "base", "judge@9999999999", "(a?){999}a{999}"),
    *([], [[]], {}, {"": ""}, [None], ["a"] * 3, ["\ud800"], [-1], [2**40], [[1, 2]], {"\x00": "\x00"}, NESTED),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_base, encoder_base, pipeline_files, corpus_of_search, grades_folder):
    """A server with an adapter of every task, an encoder, pipelines and topics."""
    folder = tmp_path_factory.mktemp("hostile")
    store = Store(folder / "store")
    for seed, (name, (task, settings)) in enumerate(SETTINGS.items()):
        random_adapter(store, name, load_task(task).bound(settings), tiny_base, folder / name, seed)
    random_encoder_adapter(store, "meaning", shout(folder / "shout"), encoder_base, folder / "meaning")
    settings = served_files(pipeline_files, corpus_of_search) | judged_by(grades_folder, folder / "collected")
    service = made_service(tiny_base, store, encoder_base, **settings)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a body."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a body with another value at a place."""
    copy = json.loads(json.dumps(body))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return copy


def posted(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    """JSON as Python writes it: with NaN, infinities, and surrogates as escapes."""
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@cache
def schema_of(path: str, status: int, kind: str) -> jsonschema.Draft202012Validator | None:
    """The schema that the OpenAPI document has for an answer; None if it does not name the answer."""
    template = "/v1/tasks/{task}" if path.startswith("/v1/tasks/") else path
    documented = DOCUMENT["paths"][template]["post"]["responses"].get(str(status), {}).get("content", {})
    schema = {"components": DOCUMENT["components"], **documented[kind]["schema"]} if kind in documented else None
    return jsonschema.Draft202012Validator(schema) if schema is not None else None


def failed(client: httpx.Client, path: str, body: Any) -> str | None:
    """Why an answer is an internal error, of a stream, too; or that it is not documented."""
    answer = posted(client, path, body)
    if answer.status_code >= 500:
        return f"{answer.status_code} {answer.text[:200]}"
    kind = answer.headers["content-type"].partition(";")[0]
    schema = schema_of(path, answer.status_code, kind)
    if schema is None or (kind == "application/json" and not schema.is_valid(answer.json())):
        return f"not documented: {answer.status_code} {kind} {answer.text[:200]}"
    return answer.text[-300:] if "internal_error" in answer.text else None


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), BODIES, ids=[f"{n}{path}" for n, (path, _) in enumerate(BODIES)])
def test_answers_to_any_value_of_any_field_are_documented(client, caplog, path, body):
    caplog.set_level(logging.CRITICAL)
    valid = posted(client, path, body)
    assert valid.status_code in (200, 400, 409), valid.text
    found = {}
    for place in (*places(body), ("unknown",)):
        for value in HOSTILE:
            if why := failed(client, path, changed(body, place, value)):
                found[place, repr(value)[:40]] = why
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), [each for each in BODIES if "model" in each[1]])
def test_a_model_of_another_kind_is_refused(client, path, body):
    for model in MODELS:
        answer = posted(client, path, {**body, "model": model})
        assert answer.status_code < 500, (model, answer.text)
        if path in TAKES:
            assert (answer.status_code == 200) == (model in TAKES[path]), (model, answer.text)


@pytest.mark.slow
def test_no_path_or_query_is_an_internal_error(client):
    parts = ("%00", "%ed%a0%80", "a%0ab", "..%2f..", "a" * 5000, "judge@%00", "judge@0", "@", "judge@" + "9" * 400)
    for template, methods in DOCUMENT["paths"].items():
        name = template.partition("{")[2].partition("}")[0]
        for part in parts:
            for method in methods:
                path = template.replace(f"{{{name}}}", part) if name else f"{template}?{part}={part}"
                answer = client.request(method.upper(), path, json={"model": "judge"})
                assert answer.status_code < 500, (method, path[:80], answer.text)
