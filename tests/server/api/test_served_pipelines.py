"""Slots of served pipelines: adapters of queries share vectors, and versions that the store gets later."""

from __future__ import annotations

import httpx
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.retrieval.encoder import Encoder
from searchlora.task import load_task
from tests.factories import encoder_recipe_for, random_adapter, random_encoder_adapter, shout
from tests.server.api.serving import made_service, served

pytestmark = pytest.mark.slow


def searched(client, slots, status=200):
    response = client.post("/v1/search", json={"pipeline": "own", "query": "red couch", "slots": slots})
    assert response.status_code == status, response.text
    return response.json()


def slots_of(client):
    return {each["name"]: each["choices"] for each in client.get("/v1/pipelines").json()["data"][0]["slots"]}


@pytest.fixture
def start(tmp_path, tiny_base, corpus_of_search):
    """Starts a server with a pipeline of these stages."""

    def start(store, *stages):
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump({"name": "own", "stages": list(stages)}), encoding="utf-8")
        return served(made_service(tiny_base, store, pipelines=(str(file),), corpora=(corpus_of_search,)))

    return start


def test_an_adapter_of_queries_is_exchanged_without_encoding_the_corpus_again(
    start, tmp_path, encoder_base, monkeypatch
):
    store, task = Store(tmp_path / "store"), shout(tmp_path / "task")
    random_encoder_adapter(store, "both", task, encoder_base, tmp_path / "both", seed=1)
    monkeypatch.setattr("tests.factories.encoder_recipe_for", lambda base: encoder_recipe_for(base, "sides=query"))
    for seed in (2, 3):
        random_encoder_adapter(store, "asker", task, encoder_base, tmp_path / f"asker{seed}", seed=seed)
    encoded, encode = [], Encoder.encode_documents

    def counted(self, texts, **more):
        encoded.append(len(texts))
        return encode(self, texts, **more)

    monkeypatch.setattr(Encoder, "encode_documents", counted)
    model = str(encoder_base.path)
    parts = [{"dense": {"model": model, "adapter": name}} for name in ("asker@1", "both@1")]
    with start(store, {"fuse": {"of": parts}}) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert slots_of(client) == {
            "dense(asker)": ["on", "off", "base", "asker@1", "asker@2"],
            "dense(both)": ["on", "off"],
        }
        labels = {
            choice: searched(client, {"dense(asker)": choice, "dense(both)": "off"})["stages"][0]["label"]
            for choice in ("on", "base", "asker@2")
        }
        assert "asker@1" in labels["on"] and "asker" not in labels["base"] and "asker@2" in labels["asker@2"]
        for refused in ({"dense(both)": "base"}, {"dense(both)": "both@1"}, {"dense(asker)": "both@1"}):
            assert searched(client, refused, 400)["error"]["param"] == "slots"
    assert len(encoded) == 2  # for the base, which both versions search, and for the other adapter


def test_a_version_that_is_stored_later_can_be_selected_at_once(start, tmp_path, tiny_base):
    store, task = Store(tmp_path / "store"), load_task("rewriting").bound(None)
    random_adapter(store, "rewriter", task, tiny_base, tmp_path / "one", 0)
    stages = [{"adapter": {"name": "rewriter", "max_new_tokens": 4}}, {"bm25": {"k": 3}}]
    with start(store, *stages) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert slots_of(client)["rewriter"] == ["on", "off", "base", "rewriter@1"]
        searched(client, {"rewriter": "rewriter@2"}, 400)
        random_adapter(store, "rewriter", task, tiny_base, tmp_path / "two", 1)
        assert slots_of(client)["rewriter"] == ["on", "off", "base", "rewriter@1", "rewriter@2"]
        assert searched(client, {"rewriter": "rewriter@2"})["stages"][0]["label"] == "rewriter@2"
        (adapter,) = client.get("/v1/adapters").json()["data"]
        assert adapter["pipelines"] == ["own"]
