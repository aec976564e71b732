"""Generated requests through the running server: each answer is one that the OpenAPI document names."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchlora.server.api.app import create_app
from searchlora.server.api.openapi import openapi_document

DOCUMENT = openapi_document("test")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["one", "tiny", "encoder", "two@production", "meaning", "four", "../one", "", "One", "one@9"])
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": st.text(max_size=5)})
valid = st.fixed_dictionaries(
    {},
    optional={
        "model": names,
        "adapter": names,
        "messages": st.lists(message, max_size=2),
        "max_tokens": st.integers(-1, 3),
        "stream": st.booleans(),
        "choices": st.lists(st.text(max_size=3), max_size=3),
        "input": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2),
        "dimensions": st.integers(0, 20),
        "structured_outputs": st.fixed_dictionaries({}, optional={"regex": st.text(max_size=4), "choice": anything}),
        "answer_prefix": st.text(max_size=3),
        "prune_margin": st.floats(),
        "prompt": st.text(max_size=3)
        | st.lists(st.integers(-1, 300), max_size=3)
        | st.lists(st.text(max_size=3), max_size=2),
        "n": st.integers(0, 3),
        "temperature": st.sampled_from([0, 0.5, 2, 3, -1, None]),
        "top_p": st.floats(0, 1.1),
        "top_k": st.integers(-2, 400),
        "min_p": st.floats(-0.1, 1),
        "seed": st.integers() | st.none(),
        "presence_penalty": st.floats(-2.1, 2),
        "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=3),
        "logprobs": st.booleans() | st.integers(-1, 21),
        "top_logprobs": st.integers(-1, 21),
        "max_output_tokens": st.integers(-1, 3),
        "instructions": st.text(max_size=3),
        "tools": st.lists(anything, max_size=2),
        "tool_choice": st.sampled_from(["none", "auto", "required", None]),
    },
)


def fields(path):
    """The parameters of a path, so that many generated bodies have no unknown ones."""
    sampling = {"temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "stop", "stream"}
    names = {
        "/v1/chat/completions": {
            *("model", "messages", "max_tokens", "structured_outputs", "answer_prefix", "n", "logprobs"),
            *("top_logprobs", "tools", "tool_choice"),
            *sampling,
        },
        "/v1/completions": {"model", "prompt", "max_tokens", "structured_outputs", "n", "logprobs", *sampling},
        "/v1/responses": {"model", "input", "max_output_tokens", "instructions", "top_logprobs", *sampling},
        "/v1/score": {"model", "messages", "choices", "answer_prefix", "prune_margin"},
        "/v1/embeddings": {"model", "input", "dimensions"},
    }
    return names.get(path, {"adapter"})


@st.composite
def requests(draw):
    template = draw(st.sampled_from(list(DOCUMENT["paths"])))
    path = template.replace("{model}", draw(st.sampled_from(["one", "one@1", "none", "a/b", "%00", "x%0ay", "%2e%2e"])))
    method = draw(st.sampled_from(["GET", "POST", "POST", *METHODS]))
    body = draw(valid | anything)
    if isinstance(body, dict) and draw(st.booleans()):
        body = {key: value for key, value in body.items() if key in fields(template)}
    content = json.dumps(body).encode()
    content = draw(st.sampled_from([content, content, content, content[:-1], b"", b"\xff"]))
    content_type = draw(
        st.sampled_from(["application/json", "application/json", "text/plain", "", "application/json; x"])
    )
    extra = draw(
        st.sampled_from([{}, {}, {"origin": "http://evil.example"}, {"host": "evil.example"}, {"x": "a" * 70_000}])
    )
    headers = {"content-type": content_type, **extra}
    query = draw(st.sampled_from(["", "", "?x=1", "?%ff"]))
    return template, method, path + query, content, headers


def check(answer, template, method):
    """An answer is documented: its status, its content type, and its content."""
    operation = DOCUMENT["paths"][template].get(method.lower())
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if operation is None:
        # Not a method of the path; the guard may refuse the request before that is looked at.
        assert answer.status_code in (405, 400, 403, 404, 431), (method, template, answer.text)
        if answer.status_code == 405:
            assert answer.headers["allow"] == ", ".join(sorted(DOCUMENT["paths"][template])).upper()
        return
    documented = operation["responses"].get(str(answer.status_code))
    assert documented is not None, (method, template, answer.status_code, answer.text)
    assert kind in documented["content"], (method, template, answer.status_code, kind)
    if kind == "application/json":
        schema = documented["content"][kind]["schema"] | {"components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


@pytest.mark.slow
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(requests())
def test_every_answer_is_documented(client, generated):
    template, method, path, content, headers = generated
    answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code < 500, (generated, answer.text)
    check(answer, template, method)


@pytest.mark.parametrize("template", DOCUMENT["paths"])
def test_405_carries_the_allowed_methods(client, template):
    for method in METHODS:
        if method.lower() not in DOCUMENT["paths"][template]:
            answer = client.request(method, template.replace("{model}", "one"))
            assert answer.status_code == 405, (method, template)
            assert answer.headers["allow"] == ", ".join(sorted(DOCUMENT["paths"][template])).upper()


def test_unknown_paths_are_404_with_and_without_a_slash(client):
    for path in ("/v1/score/", "/healthz/", "/v1", "/v1//models", "/v1/models/"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        jsonschema.validate(answer.json(), DOCUMENT["components"]["schemas"]["Error"])


def test_the_document_names_the_routes_of_the_application(service):
    app = create_app(service)
    assert app.openapi()["paths"] == DOCUMENT["paths"]
    templates = {path.replace("{model}", "{model:path}"): methods for path, methods in DOCUMENT["paths"].items()}
    found = {}
    for route in app.routes:
        for inner in getattr(getattr(route, "original_router", None), "routes", [route]):
            found.setdefault(inner.path, set()).update(inner.methods)
    assert {path: {method.lower() for method in methods} for path, methods in found.items()} == {
        path: set(methods) for path, methods in templates.items()
    }


def test_every_reference_in_the_document_resolves():
    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    schemas = DOCUMENT["components"]["schemas"]
    found = set(references(DOCUMENT))
    assert found and all(each.removeprefix("#/components/schemas/") in schemas for each in found)
