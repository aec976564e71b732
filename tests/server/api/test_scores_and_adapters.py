"""Scores of choices, loading and unloading adapters, and metrics."""

from __future__ import annotations

import math
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from searchlora.adapters.store import Store
from searchlora.inference.engine import Request
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.server.api.serving import asked, made_service, served

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "tent"}]
CHOICES = ["yes", "no", "yellow"]


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


def test_scores_equal_the_engine(client, service):
    body = {"model": "one", "messages": MESSAGES, "choices": CHOICES}
    texts = {"answer_prefix": "It is ", "choice_suffix": "."}
    for more, fields, settings in (
        ({}, {}, {}),
        (texts, texts, {}),
        ({"prune_margin": 1e9}, {}, {"prune_margin": 1e9}),
    ):
        (wanted,) = service.engine.score([Request(tuple(MESSAGES), "one", **fields)], [CHOICES], **settings)
        found = client.post("/v1/score", json=body | more).json()
        assert found["model"] == "one@1"
        assert found["log_probabilities"] == pytest.approx(wanted.log_probabilities, abs=1e-4)
        assert sum(found["probabilities"]) == pytest.approx(1)
        ratio = math.exp(wanted.log_probabilities[0] - wanted.log_probabilities[1])
        assert found["probabilities"][0] / found["probabilities"][1] == pytest.approx(ratio, rel=1e-3)
        assert found["usage"] == {"prompt_tokens": wanted.prompt_tokens, "scored_tokens": wanted.scored_tokens}


def test_a_score_batch_may_mix_models_and_choices(client):
    several = [
        {"model": model, "messages": MESSAGES, "choices": CHOICES[:count]}
        for model, count in (("one", 3), ("two@production", 2), ("tiny", 1), ("one", 3))
    ]
    results = client.post("/v1/score", json={"requests": several}).json()["results"]
    assert [result["model"] for result in results] == ["one@1", "two@1", "tiny", "one@1"]
    for body, result in zip(several, results, strict=True):
        alone = client.post("/v1/score", json=body).json()
        assert result["log_probabilities"] == pytest.approx(alone["log_probabilities"], abs=1e-4)
    assert results[0]["log_probabilities"] != pytest.approx(results[2]["log_probabilities"], abs=1e-2)
    several[2]["model"] = "four"
    assert client.post("/v1/score", json={"requests": several}).status_code == 404


def test_a_score_batch_is_answered_by_one_version_of_an_alias(tmp_path, tiny_base):
    """Its grades are ranked against each other, so that two judges must not share a batch."""
    own = Store(tmp_path / "store")
    for seed in (1, 2):
        random_adapter(own, "judge", load_task("judgment").bound(None), tiny_base, tmp_path / str(seed), seed)
    own.alias("judge", "production", 1)
    own.split("judge", "production", {1: 0.5, 2: 0.5})
    one = {"model": "judge@production", "messages": MESSAGES, "choices": ["yes"]}
    answered = set()
    with served(made_service(tiny_base, own)) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(20):
            results = client.post("/v1/score", json={"requests": [one] * 12}).json()["results"]
            (version,) = {result["model"] for result in results}
            answered.add(version)
    assert answered == {"judge@1", "judge@2"}


def test_adapters_are_loaded_and_unloaded_by_name(client, service):
    loaded = client.post("/v1/adapters/load", json={"adapter": "two@production"})
    assert loaded.json() == {"adapter": "two@1", "loaded": True}
    assert "two@1" in service.engine.stats().loaded
    for was in (True, False):
        answer = client.post("/v1/adapters/unload", json={"adapter": "two@1"}).json()
        assert answer == {"adapter": "two@1", "loaded": False, "was_loaded": was}
    assert "two@1" not in service.engine.stats().loaded
    assert client.post(CHAT, json=asked(model="two")).status_code == 200
    assert "two@1" in service.engine.stats().loaded


def test_an_adapter_that_is_no_version_is_loaded_from_a_folder_of_the_store(client):
    """`improve` asks a server for the answers of adapters that are in training, whose runs lie in the store."""
    load = "/v1/adapters/load"
    answer = client.post(load, json={"adapter": "candidate", "folder": "one/1"})
    assert (answer.status_code, answer.json()) == (200, {"adapter": "candidate", "loaded": True})
    body = {"messages": MESSAGES, "choices": CHOICES}
    found, wanted = (client.post("/v1/score", json={"model": name, **body}).json() for name in ("candidate", "one"))
    assert found["model"] == "candidate"
    assert found["log_probabilities"] == pytest.approx(wanted["log_probabilities"], abs=1e-4)
    client.post(load, json={"adapter": "candidate", "folder": "two/1"})
    replaced = client.post("/v1/score", json={"model": "candidate", **body}).json()
    assert replaced["log_probabilities"] != pytest.approx(wanted["log_probabilities"], abs=1e-2)
    chat = {"model": "candidate", "messages": MESSAGES, "max_tokens": 2}
    assert client.post("/v1/chat/completions", json=chat).status_code == 200  # without a task, as it is
    assert client.post("/v1/adapters/unload", json={"adapter": "candidate"}).json()["was_loaded"]
    assert client.post("/v1/chat/completions", json=chat).status_code == 404  # the name is free for the store


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"adapter": "candidate", "folder": "../elsewhere"}, "folder"),
        ({"adapter": "candidate", "folder": "/etc"}, "folder"),
        ({"adapter": "candidate", "folder": ""}, "folder"),
        ({"adapter": "one", "folder": "two/1"}, "adapter"),
        ({"adapter": "tiny", "folder": "two/1"}, "adapter"),
        ({"adapter": "one@1", "folder": "two/1"}, None),
        ({"adapter": "candidate", "folder": "none"}, None),
    ],
)
def test_a_folder_outside_the_store_and_a_name_in_use_are_refused(client, service, body, param):
    before = service.engine.stats().loaded
    answer = client.post("/v1/adapters/load", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert param is None or answer.json()["error"]["param"] == param
    assert service.engine.stats().loaded == before


def test_a_link_out_of_the_store_is_not_followed(client, service, tmp_path):
    link = service.store.root / ".link"
    link.symlink_to(tmp_path, target_is_directory=True)
    try:
        answer = client.post("/v1/adapters/load", json={"adapter": "candidate", "folder": ".link"})
    finally:
        link.unlink()
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "folder")


def test_the_base_says_how_it_is_computed(client):
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert (cards["tiny"]["precision"], cards["tiny"]["batch_invariant"]) == ("fp32", False)
    assert cards["tiny"]["shares_batches"] and cards["tiny"]["batching"].startswith("adapters share batches; logits")
    assert not {"precision", "batching"} & set(cards["one@1"])


def test_an_adapter_in_use_is_not_unloaded(client, service):
    body = asked(model="three", max_tokens=1000, structured_outputs={"regex": "[a-z]{1000}"}, stream=True)
    with client.stream("POST", CHAT, json=body) as stream:
        lines = stream.iter_lines()  # keep a reference: the client disconnects when it is garbage-collected
        next(lines)
        answer = client.post("/v1/adapters/unload", json={"adapter": "three"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "in_use")
        assert "three@1" in service.engine.stats().loaded


@pytest.mark.slow
def test_metrics_count_requests_and_tokens(client, service):
    end = time.monotonic() + 30
    while service.engine.stats().generating:  # a row that a client of another test has just left
        assert time.monotonic() < end
    before = samples(client)
    answer = client.post(CHAT, json=asked(model="one")).json()
    client.post(CHAT, json=asked(model="one", max_tokens=3, structured_outputs={"regex": "[a-z]{9}"}))
    client.post(CHAT, json=asked(model="one", max_tokens=9, structured_outputs={"regex": "[a-z]{3}"}))
    client.get("/v1/models/one@1")
    with client.stream("POST", CHAT, json=asked(model="one", stream=True)) as stream:
        stream.read()
    client.post("/v1/embeddings", json={"model": "encoder", "input": "red tent"})
    client.post(CHAT, json=asked(model="four"))
    client.get("/v1/some/path/of/theirs")
    after = samples(client)

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert grown("searchlora_requests_total", path=CHAT, status="200") == 4
    assert grown("searchlora_requests_total", path="/v1/models/NAME", status="200") == 1
    assert grown("searchlora_requests_total", path=CHAT, status="404") == 1
    assert grown("searchlora_requests_total", path="other", status="404") == 1
    assert grown("searchlora_request_seconds_count", path=CHAT) == 5
    assert grown("searchlora_time_to_first_token_seconds_count") == 1
    assert grown("searchlora_invalid_outputs_total", model="one@1") == 1
    prompt, completion = answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]
    assert grown("searchlora_tokens_total", model="one@1", kind="prompt") == 4 * prompt
    assert grown("searchlora_tokens_total", model="one@1", kind="completion") == 2 * completion + 3 + 4
    assert grown("searchlora_tokens_total", model="encoder", kind="embedded") == 10
    assert grown("searchlora_engine_tokens_written_total") == 2 * completion + 3 + 4
    assert grown("searchlora_slot_hits_total") + grown("searchlora_slot_misses_total") >= 4
    assert grown("searchlora_batch_size_sum") >= grown("searchlora_batch_size_count") > 0
    assert after[("searchlora_requests_waiting",)] == after[("searchlora_rows_writing",)] == 0
    assert {"searchlora_slot_evictions_total", "searchlora_engine_prompt_tokens_reused_total"} <= {
        key[0] for key in after
    }
