"""A candidate that breaks, hangs or is given up on leaves one event, and users get the answer of the live version."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.errors import DeadlineExceeded, EngineBusy, RenderError
from searchlora.events.failures import failed_queries
from searchlora.events.shadow_figures import shadow_figures
from searchlora.events.summary import summaries
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.server.api.serving import made_service, served

#: Time limit of a request; a candidate gets half of it.
TIMEOUT = 6.0


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("failing")
    store = Store(folder / "store")
    for seed in range(3):
        random_adapter(store, "rewriter", load_task("rewriting").bound(None), tiny_base, folder / f"{seed}", seed)
    return store


@pytest.fixture
def server(store, tiny_base, corpus_of_search, tmp_path):
    """A client and a service; the alias is version 1 at the start, then 3 or, for most users, 2."""
    stages = [{"adapter": {"name": "rewriter@production", "max_new_tokens": 4}}, {"bm25": {"k": 3}}]
    for name in ("shop", "other"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"name": name, "stages": stages}), encoding="utf-8")
    store.alias("rewriter", "production", 1)
    service = made_service(
        tiny_base,
        store,
        pipelines=(str(tmp_path / "shop.yaml"), str(tmp_path / "other.yaml")),
        corpora=(corpus_of_search,),
        events=str(tmp_path / "events"),
        shadow="candidate",
        timeout=TIMEOUT,
    )
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        store.split("rewriter", "production", {2: 0.999, 3: 0.001}, main=3)
        yield client, service
    store.alias("rewriter", "production", 1)
    if "candidate" in store.aliases("rewriter"):
        store.alias("rewriter", "candidate", 1)


@pytest.fixture
def fails(monkeypatch):
    """Makes versions fail: each with an exception, or with seconds for which its stage sleeps."""
    failing: dict[str, Exception | float] = {}
    call = AdapterStage.__call__

    def called(stage, searches):
        failure = failing.get(stage.adapter, 0.0)
        if isinstance(failure, Exception):
            raise failure
        time.sleep(failure)
        return call(stage, searches)

    monkeypatch.setattr(AdapterStage, "__call__", called)
    return failing


def searched(client, status=200, **more):
    response = client.post("/v1/search", json={"pipeline": "shop", "query": "red couch", **more})
    assert response.status_code == status, response.text
    return response.json()


def events(service, n):
    """The events, once there are n."""
    until = time.monotonic() + 10
    while len(found := list(service.events.log.searches())) < n and time.monotonic() < until:
        time.sleep(0.05)
    assert len(found) == n
    return [event for event, _ in found]


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (ValueError("a bug"), "failed"),
        (RuntimeError("expected scalar type"), "failed"),
        (RenderError("the template fails"), "failed"),
        (DeadlineExceeded("took longer than its budget"), "timed out"),
    ],
    ids=["ValueError", "RuntimeError", "RenderError", "budget"],
)
@pytest.mark.parametrize("more", [{}, {"stream": True}, {"fields": {"history": []}}], ids=["whole", "stream", "fields"])
def test_a_candidate_that_raises_anything_is_answered_by_the_version_in_production(
    server, fails, failure, outcome, more
):
    client, service = server
    fails["rewriter@2"] = failure
    if "stream" in more:
        body = {"pipeline": "shop", "query": "red couch", **more}
        with client.stream("POST", "/v1/search", json=body) as response:
            assert response.status_code == 200
            assert '"rewriter@3"' in "".join(response.iter_text())
    else:
        assert searched(client, **more)["stages"][0]["adapter"] == "rewriter@3"
    (event,) = events(service, 1)
    assert (event["outcome"], event["unserved"]) == ("fell back", {"rewriter@2": outcome})
    assert [stage.get("adapter") for stage in event["stages"]] == ["rewriter@3", None]
    metrics = client.get("/metrics").text
    assert f'searchlora_unserved_total{{outcome="{outcome}",version="rewriter@2"}} 1.0' in metrics
    assert 'searchlora_searches_total{outcome="fell back",pipeline="shop"} 1.0' in metrics


def test_a_candidate_that_hangs_is_answered_by_the_version_in_production_in_time(server, fails):
    client, service = server
    fails["rewriter@2"] = 2 * TIMEOUT
    began = time.monotonic()
    assert searched(client)["stages"][0]["adapter"] == "rewriter@3"
    assert time.monotonic() - began < TIMEOUT
    (event,) = events(service, 1)
    assert (event["outcome"], event["unserved"]) == ("fell back", {"rewriter@2": "timed out"})


def test_the_version_of_the_start_answers_where_that_in_production_fails_too(server, fails):
    client, service = server
    fails |= {"rewriter@2": ValueError("a bug"), "rewriter@3": ValueError("another")}
    assert searched(client)["stages"][0]["adapter"] == "rewriter@1"
    (event,) = events(service, 1)
    assert event["unserved"] == {"rewriter@2": "failed", "rewriter@3": "failed"}


def test_a_search_that_no_version_answers_leaves_one_event(server, fails):
    client, service = server
    fails |= {f"rewriter@{version}": ValueError("a bug") for version in (1, 2, 3)}
    searched(client, 500)
    fails |= {f"rewriter@{version}": EngineBusy("full") for version in (1, 2, 3)}
    searched(client, 503)
    broken, busy = events(service, 2)
    assert (broken["outcome"], sorted(broken["unserved"])) == ("failed", ["rewriter@1", "rewriter@2", "rewriter@3"])
    assert (busy["outcome"], "unserved" in busy, busy["hits"]) == ("failed", False, [])


def test_a_search_that_takes_too_long_ends_and_leaves_one_event(server, fails, store):
    client, service = server
    store.alias("rewriter", "production", 1)
    fails["rewriter@1"] = 2 * TIMEOUT
    searched(client, 504)
    (event,) = events(service, 1)
    assert (event["outcome"], event["unserved"]) == ("timed out", {"rewriter@1": "timed out"})


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_that_its_client_gives_up_leaves_one_event_at_once(server, fails, stream):
    client, service = server
    fails["rewriter@2"] = 2.0
    body = {"pipeline": "shop", "query": "red couch", "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/search", json=body, timeout=0.5)
    (event,) = events(service, 1)
    assert (event["outcome"], event["unserved"], event["hits"]) == ("cancelled", {"rewriter@2": "cancelled"}, [])
    time.sleep(2.5)  # the abandoned stage ends
    events(service, 1)
    assert 'searchlora_searches_total{outcome="cancelled",pipeline="shop"} 1.0' in client.get("/metrics").text


def test_each_of_many_searches_that_end_in_any_way_leaves_one_event(server, fails):
    client, service = server

    def give_up():
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{client.base_url}/v1/search", json={"pipeline": "shop", "query": "tent"}, timeout=1.0)

    searched(client)  # it loads version 2
    fails["rewriter@2"] = 2.5
    threads = [threading.Thread(target=give_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fails["rewriter@2"] = ValueError("a bug")
    for _ in range(8):
        searched(client)
    fails.clear()
    for _ in range(4):
        searched(client)
    searched(client, 400, slots={"none": "off"})  # refused: it has not begun
    found = [event["outcome"] for event in events(service, 21)]
    assert {outcome: found.count(outcome) for outcome in found} == {"cancelled": 8, "fell back": 8, "ok": 5}
    (summary,) = summaries(service.events.log.searches()).values()
    assert (summary.searches, summary.outcomes) == (13, {"cancelled": 8, "fell back": 8})
    assert summary.unserved == {"rewriter@2": {"cancelled": 8, "failed": 8}}
    reasons = {query.query: dict(query.reasons) for query in failed_queries(service.events.log.searches())}
    assert reasons["tent"] == {"cancelled": 8, "cancelled: rewriter@2": 8}
    assert reasons["red couch"]["failed: rewriter@2"] == 8


def test_a_second_pipeline_that_fails_leaves_the_first_alone_and_is_counted(server, monkeypatch, store):
    client, service = server
    object.__setattr__(service.config, "interleave", "shop=other")
    calls = []
    store.alias("rewriter", "production", 3)

    def second(stage, searches):
        calls.append(stage.adapter)
        if len(calls) == 2:
            raise ValueError("a bug")
        return inner(stage, searches)

    inner = AdapterStage.__call__
    monkeypatch.setattr(AdapterStage, "__call__", second)
    assert searched(client)["stages"][0]["adapter"] == "rewriter@3"
    (event,) = events(service, 1)
    assert (event["outcome"], event["unserved"], "interleaved" in event) == (
        "fell back",
        {"rewriter@3": "failed"},
        False,
    )


def test_a_shadow_search_that_fails_or_hangs_is_counted_against_its_candidate(server, fails, store):
    client, service = server
    store.alias("rewriter", "production", 1)
    store.alias("rewriter", "candidate", 2)
    fails["rewriter@2"] = ValueError("a bug")
    searched(client)
    until = time.monotonic() + 10
    while not (shadows := list(service.events.log.shadows())) and time.monotonic() < until:
        time.sleep(0.05)
    assert shadows[0][2]["outcome"] == "failed"
    figures = shadow_figures(shadows)["rewriter@2"]
    assert (figures.n, figures.failed.value) == (1, 1)
    assert searched(client)["stages"][0]["adapter"] == "rewriter@1"
