"""Pipelines follow the aliases of their adapters: weights, moves, and shadow searches of a candidate."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.events.log import EventLog
from searchlora.events.shadow_figures import shadow_figures
from searchlora.server.api.search_execution import SearchJob
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.server.api.serving import made_service, served


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("weighted")
    store = Store(folder / "store")
    for seed in range(3):
        random_adapter(store, "rewriter", load_task("rewriting").bound(None), tiny_base, folder / f"{seed}", seed)
    return store


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    file = tmp_path_factory.mktemp("pipelines") / "followed.yaml"
    stages = [{"adapter": {"name": "rewriter@production", "max_new_tokens": 4}}, {"bm25": {"k": 3}}]
    file.write_text(yaml.safe_dump({"name": "followed", "stages": stages}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def events_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def service(store, tiny_base, pipeline, corpus_of_search, events_folder):
    store.alias("rewriter", "production", 1)
    settings = {"events": str(events_folder), "shadow": "candidate"}
    return made_service(tiny_base, store, pipelines=(str(pipeline),), corpora=(corpus_of_search,), **settings)


@pytest.fixture(scope="module")
def client(service):
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def production(store):
    store.alias("rewriter", "production", 1)


def searched(client, status=200, **more):
    response = client.post("/v1/search", json={"pipeline": "followed", "query": "red couch", **more})
    assert response.status_code == status, response.text
    return response.json()


def version(client, **more):
    return searched(client, **more)["stages"][0]["adapter"]


def test_a_running_server_follows_an_alias(client, store):
    assert version(client) == "rewriter@1"
    store.alias("rewriter", "production", 3)
    assert version(client) == "rewriter@3"
    store.rollback("rewriter", "production")
    assert version(client) == "rewriter@1"


def test_users_share_the_versions_and_keep_theirs(client, store):
    store.split("rewriter", "production", {1: 0.5, 2: 0.5}, main=1)
    by_user = {user: version(client, user=user) for user in map(str, range(12))}
    assert set(by_user.values()) == {"rewriter@1", "rewriter@2"}
    assert {user: version(client, user=user) for user in by_user} == by_user
    assert {version(client) for _ in range(20)} == {"rewriter@1", "rewriter@2"}
    assert version(client, user="0", slots={"rewriter": "rewriter@3"}) == "rewriter@3"


def test_chats_with_an_alias_are_shared_too(client, store):
    store.split("rewriter", "production", {1: 0.5, 2: 0.5}, main=1)
    body = {"model": "rewriter@production", "messages": [{"role": "user", "content": "tent"}], "max_tokens": 2}
    answers = {}
    for user in map(str, range(8)):
        found = [client.post("/v1/chat/completions", json=body | {"user": user}).json() for _ in range(2)]
        texts = {answer["choices"][0]["message"]["content"] for answer in found}
        assert len(texts) == 1
        expected = store.choose("rewriter@production", user)
        direct = client.post("/v1/chat/completions", json=body | {"model": expected}).json()
        assert direct["choices"][0]["message"]["content"] in texts
        answers[expected] = texts
    assert len(answers) == 2


def test_a_version_that_cannot_be_loaded_is_left_for_the_one_that_was(client, store, service, caplog, tmp_path):
    random_adapter(store, "rewriter", load_task("rewriting").bound(None), service.engine.base, tmp_path / "broken", 9)
    newest = store.versions("rewriter")[-1]
    weights = store.root / "rewriter" / str(newest) / "searchlora.json"
    weights.chmod(0o644)
    weights.write_text("{", encoding="utf-8")
    store.split("rewriter", "production", {1: 0.01, newest: 0.99}, main=1)
    assert {version(client) for _ in range(5)} == {"rewriter@1"}
    assert f"rewriter@{newest} cannot be served" in caplog.text


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def shadows(folder, ids):
    return [row for row in EventLog(folder).shadows() if row[0]["id"] in ids]


def test_a_candidate_searches_again_what_was_asked_live_and_is_never_served(client, store, events_folder):
    store.alias("rewriter", "candidate", 2)
    found = [
        searched(client, query=query, session=f"s{n}") for n, query in enumerate(("red couch", "tent", "red couch"))
    ]
    ids = {each["id"] for each in found}
    assert {each["stages"][0]["adapter"] for each in found} == {"rewriter@1"}
    wait_until(lambda: len(shadows(events_folder, ids)) == 3)
    for live, versions, shadow in shadows(events_folder, ids):
        assert (versions, shadow["stages"][0]["adapter"], live["stages"][0]["adapter"]) == (
            "rewriter@2",
            "rewriter@2",
            "rewriter@1",
        )
        again = searched(client, query=live["query"], slots={"rewriter": "rewriter@2"}, record=False)
        assert shadow["hits"] == [hit["document"] for hit in again["hits"]]
    figures = shadow_figures(shadows(events_folder, ids))["rewriter@2"]
    assert figures.n == 3
    assert 0 <= figures.changed.low <= figures.changed.value <= figures.changed.high <= 1
    store.alias("rewriter", "candidate", 1)


def test_a_live_request_withdraws_the_shadow_search_which_is_tried_again(client, store, events_folder, monkeypatch):
    store.alias("rewriter", "candidate", 2)
    going, runs = threading.Event(), []
    run = SearchJob.run

    def slow(job):
        if job.client_id == "shadow":
            runs.append(job)
            if len(runs) == 1:
                going.set()
                until = time.monotonic() + 10
                while not job.cancelled and time.monotonic() < until:
                    time.sleep(0.01)
        return run(job)

    monkeypatch.setattr(SearchJob, "run", slow)
    first = searched(client)["id"]
    assert going.wait(10)
    began = time.monotonic()
    second = searched(client)["id"]
    assert time.monotonic() - began < 5
    assert runs[0].cancelled
    wait_until(lambda: len(shadows(events_folder, {first, second})) == 2)
    assert len(runs) >= 3
    store.alias("rewriter", "candidate", 1)


def test_the_budget_of_rows_holds(store, tiny_base, pipeline, corpus_of_search, tmp_path):
    store.alias("rewriter", "candidate", 2)
    settings = {"events": str(tmp_path / "events"), "shadow": "candidate", "shadow_rows": 2.0}
    service = made_service(tiny_base, store, pipelines=(str(pipeline),), corpora=(corpus_of_search,), **settings)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        ids = {searched(client)["id"] for _ in range(6)}
        wait_until(lambda: len(shadows(tmp_path / "events", ids)) == 2)
        time.sleep(2)
        assert len(shadows(tmp_path / "events", ids)) == 2
    store.alias("rewriter", "candidate", 1)


@pytest.mark.slow
def test_only_the_version_of_the_stage_that_failed_is_blamed(tiny_base, corpus_of_search, tmp_path):
    """Two aliases move; the weights of one version are damaged, and are read when a request is computed."""
    other = Store(tmp_path / "store")
    for name, seed in (("first", 1), ("second", 2), ("first", 3), ("second", 4)):
        random_adapter(other, name, load_task("rewriting").bound(None), tiny_base, tmp_path / f"{seed}", seed)
    for name in ("first", "second"):
        other.alias(name, "production", 1)
    stages = [{"adapter": {"name": f"{name}@production", "max_new_tokens": 4}} for name in ("first", "second")]
    file = tmp_path / "followed.yaml"
    file.write_text(yaml.safe_dump({"name": "followed", "stages": [*stages, {"bm25": {"k": 3}}]}), encoding="utf-8")
    service = made_service(
        tiny_base, other, pipelines=(str(file),), corpora=(corpus_of_search,), events=str(tmp_path / "events")
    )
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert version(client) == "first@1"
        weights = other.root / "second" / "2" / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(b"damaged" * 100)
        for name in ("first", "second"):
            other.alias(name, "production", 2)
        assert version(client) == "first@2"  # only the failed version is replaced
    (*_, (event, _)) = EventLog(tmp_path / "events").searches()
    assert event["unserved"] == {"second@2": "failed"}


def test_a_slot_that_is_on_follows_its_alias(client, store):
    store.alias("rewriter", "production", 3)
    assert version(client, slots={"rewriter": "on"}) == "rewriter@3"
