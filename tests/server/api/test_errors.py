"""Error responses: status, code and parameter; the server keeps serving."""

from __future__ import annotations

import json

import httpx
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, DeadlineExceeded, EngineError, PipelineError, RequestRefused, StaleIndex
from searchlora.server.api.errors import api_error_of, public_message
from tests.factories import first_word, random_adapter
from tests.server.api.serving import asked, made_service, served

CHAT, SCORE, EMBED, LOAD = "/v1/chat/completions", "/v1/score", "/v1/embeddings", "/v1/adapters/load"


@pytest.fixture(autouse=True, scope="module")
def still_answering(client):
    """The server goes on after all these errors."""
    yield
    assert client.post(CHAT, json=asked(max_tokens=1)).status_code == 200


def refused(answer, status, *words):
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    for word in words:
        assert word in error["message"], error
    return error


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nothing", b"\xff\xfe", b"[" * 100_000, b'{"model": "one", "model', b"null", b"[]", b'"one"']
)
def test_bodies_that_are_not_json_objects_are_errors(client, body):
    refused(client.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": 1}, "invalid_value", "model"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_parameter", "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not_offered", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "invalid_value", "messages.0.content"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "\ud800"}}}},
            "invalid_value",
            "response_format.json_schema.schema.const",
        ),
        ({"max_tokens": "8"}, "invalid_value", "max_tokens"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
        ({"stop": ""}, "invalid_value", "stop.0"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"logit_bias": {"50256": -100}}, "not_offered", "logit_bias"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "not_offered", "tool_choice"),
        ({"max_token": 8}, "unknown_parameter", "max_token"),
        ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}}, "not_served", None),
        ({"structured_outputs": {}}, "invalid_value", "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "invalid_value", "structured_outputs"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "context_length_exceeded", None),
    ],
)
def test_invalid_fields_are_named(client, change, code, param):
    error = refused(client.post(CHAT, content=json.dumps(asked() | change), headers=JSON), 400)
    assert (error["code"] if code else None, error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert "\ud800" not in error["message"]


JSON = {"content-type": "application/json"}


def test_a_too_deeply_nested_schema_is_an_error(client):
    schema = '{"items":' * 900 + "{}" + "}" * 900
    body = json.dumps(asked())[:-1] + f', "structured_outputs": {{"json": {schema}}}}}'
    refused(client.post(CHAT, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "name", ["../one", "/etc/passwd", "one/1", "..", "one@../1", "one@1/..", "C:\\one", "One", "", "one\x00", "%2e%2e"]
)
def test_an_adapter_is_a_name_and_never_a_path(client, name):
    refused(client.post(CHAT, json=asked(model=name)), 400, "is not")
    refused(client.post(EMBED, json={"model": name, "input": "x"}), 400, "is not")
    for verb in ("load", "unload"):
        refused(client.post(f"/v1/adapters/{verb}", json={"adapter": name}), 400, "is not")


@pytest.mark.parametrize("name", ["four", "one@9", "one@production", "encoder", "gpt-4o"])
def test_a_missing_adapter_is_404(client, name, store):
    for answer in (client.post(CHAT, json=asked(model=name)), client.post(LOAD, json={"adapter": name})):
        assert str(store.root) not in refused(answer, 404, "no")["message"]
    refused(client.post(CHAT, json=asked(model=name, stream=True)), 404)


def test_a_model_of_the_wrong_kind_is_an_error(client):
    reported = refused(client.post(CHAT, json=asked(model="meaning")), 409, "meaning@1: was trained on 'encoder'")[
        "message"
    ]
    assert "/" not in reported
    refused(client.post(EMBED, json={"model": "one", "input": "x"}), 404, "no adapter of an encoder", "encoder")
    refused(client.post(EMBED, json={"model": "tiny", "input": "x"}), 404)


def test_permanent_errors_carry_x_should_retry_false(client):
    assert client.post(CHAT, json=asked(model="meaning")).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in client.post(CHAT, json=asked(model="four")).headers


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "Request 3: the prompt of"),
        ({"model": "four"}, 404, "Request 3: store: there is no adapter 'four'"),
        ({"model": "../one"}, 400, "Request 3: "),
    ],
)
def test_errors_name_the_position_in_a_batch(client, change, status, words):
    good = {"model": "one", "messages": [{"role": "user", "content": "x"}], "choices": ["a"]}
    reported = refused(client.post(SCORE, json={"requests": [good, good, good | change]}), status, words)["message"]
    alone = refused(client.post(SCORE, json=good | change), status)["message"]
    assert "request 1" not in (reported + alone).lower()


def test_a_foreign_folder_in_the_store_hides_no_adapter(client, store):
    stray = store.root / "Backup 2026" / "1"
    stray.mkdir(parents=True)
    try:
        assert "one@1" in {model["id"] for model in client.get("/v1/models").json()["data"]}
        refused(client.post(CHAT, json=asked(model="four")), 404, "no adapter 'four'")
    finally:
        stray.rmdir()
        stray.parent.rmdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": [1, 2.5]}, "whole numbers from 0"),
        ({"input": [[1, 2], []]}, "item 2 is neither"),
        ({"input": ["a", "\ud800"]}, "surrogate"),
        ({"input": [100_256]}, "no text token 100256"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x" * 63}, "Text 1 has 65 tokens, and encoder reads 64"),
        ({"dimensions": 17}, "cannot be truncated"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_invalid_embedding_inputs_are_errors(client, change, words):
    body = json.dumps({"model": "encoder", "input": "x"} | change)
    error = refused(client.post(EMBED, content=body, headers=JSON), 400, words)
    assert "/" not in error["message"]


def test_a_long_text_is_truncated_on_request(client):
    answer = client.post(EMBED, json={"model": "encoder", "input": "x" * 500, "truncate": True})
    assert (answer.status_code, answer.json()["usage"]["prompt_tokens"]) == (200, 64)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"choices": []}, "choices"),
        ({"choices": ["a"] * 1001}, "choices"),
        ({"choices": ["a" * 16_001]}, "choices"),
        ({"prune_margin": -1}, "prune_margin"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_invalid_choices_are_errors(client, change, param):
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}], "choices": ["a", "b"]} | change
    assert refused(client.post(SCORE, json=body), 400)["param"] == param
    assert refused(client.post(SCORE, json={"requests": [body]}), 400)["param"] == f"requests.0.{param}"


def test_unknown_paths_and_methods_are_errors(client):
    for path in ("/docs", "/openapi.json", "/v1/nothing", "/v1/../etc", "/v1/threads", "/v1/a%0d%0ab"):
        for method in ("GET", "POST", "DELETE"):
            error = refused(client.request(method, path), 404, "/v1/completions, ", "/v1/tasks/{task}, ", "/healthz")
            assert error["code"] == "not_found"
    error = refused(client.get(CHAT), 405, "This path takes POST")
    assert error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/v1/healthz", "/healthz"),
        ("/models", "/v1/models"),
    ],
)
def test_a_path_that_is_nearly_right_is_answered_with_the_right_one(client, path, meant):
    refused(client.post(path, json={}), 404, f"Did you mean {meant}?")


@pytest.mark.slow
def test_a_tampered_adapter_is_refused_with_the_reason(tiny_base, tmp_path):
    own = Store(tmp_path / "store")
    task = first_word(tmp_path / "task")
    for seed, name in enumerate(("good", "bad")):
        stored = random_adapter(own, name, task, tiny_base, tmp_path / name, seed=seed)
    file = stored.path / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with served(made_service(tiny_base, own)) as url, httpx.Client(base_url=url, timeout=30) as here:
        for body in (asked(model="bad"), asked(model="bad", stream=True)):
            error = refused(here.post(CHAT, json=body), 409, "sha256")
            assert error["code"] == "adapter_refused"
            assert error["message"].startswith("adapter_model.safetensors: ")
        refused(here.post(LOAD, json={"adapter": "bad"}), 409, "sha256")
        assert here.post(CHAT, json=asked(model="good")).status_code == 200
        assert "bad@1" in {model["id"] for model in here.get("/v1/models").json()["data"]}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            DataError("cannot be read", where="/srv/shop/topics.jsonl, row 3"),
            "topics.jsonl, row 3: cannot be read.",
        ),
        (
            StaleIndex("the corpus /srv/shop/corpus.jsonl was changed", where="/srv/shop/index", fix="Build: /srv/x y"),
            "index: the corpus corpus.jsonl was changed. Build: x y",
        ),
        (
            EngineError("PostgreSQL cannot be reached (host 10.0.0.5, port 5432)", where="postgresql://db:5432/shop"),
            "PostgreSQL cannot be reached.",
        ),
        (
            DeadlineExceeded("took longer (1 s)", where="stage bm25", fix="Raise 'budget_s'."),
            "stage bm25: took longer (1 s). Raise 'budget_s'.",
        ),
        (PipelineError("http://db:9200 refuses", where="/srv/shop/own.yaml"), "own.yaml: another server refuses."),
        (RequestRefused("the grammar /a/b/ is invalid", where="request 1"), "The grammar /a/b/ is invalid."),
    ],
)
def test_no_message_holds_a_path_of_the_server_or_an_address_of_another(error, message):
    assert public_message(error) == message == api_error_of(error).message
