"""`serve --events`: searches are recorded, and what users do is acknowledged when it is on disk."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from searchlora.errors import EngineError, UsageError
from searchlora.events.log import EventLog
from searchlora.events.replay import replay, replay_figures
from searchlora.http_client import HttpClient
from searchlora.server.api.metrics import Metrics
from searchlora.server.api.search_execution import SearchJob
from tests.server.api.serving import made_service, served


@pytest.fixture(scope="module")
def events_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def service(store_of_search, tiny_base, pipeline_files, corpus_of_search, events_folder):
    pipelines = tuple(str(pipeline_files / f"{name}.yaml") for name in ("lexical", "rewritten"))
    settings = {"pipelines": pipelines, "corpora": (corpus_of_search,), "events": str(events_folder)}
    return made_service(tiny_base, store_of_search, price_prompt=1e6, price_output=2e6, **settings)


@pytest.fixture(scope="module")
def url(service):
    with served(service) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def searched(client, query="red couch", pipeline="lexical", **more):
    response = client.post("/v1/search", json={"pipeline": pipeline, "query": query, **more})
    assert response.status_code == 200, response.text
    return response.json()


def sent(client, *events, status=200):
    response = client.post("/v1/events", json={"events": list(events)})
    assert response.status_code == status, response.text
    return response.json()


def recorded(folder, id_):
    found = [(event, rows) for event, rows in EventLog(folder).searches() if event["id"] == id_]
    return found[0] if found else None


def test_a_search_is_recorded_with_its_stages_versions_and_hits(client, events_folder):
    found = searched(client, "red couch", "rewritten", top=2, session="my session")
    sent(client, {"search": found["id"], "action": "click", "document": found["hits"][0]["document"]})
    event, _ = recorded(events_folder, found["id"])
    assert (event["pipeline"], event["query"], event["total"]) == ("rewritten", "red couch", found["total"])
    assert event["hits"] == [hit["document"] for hit in found["hits"]]
    assert [stage["label"] for stage in event["stages"]] == [stage["label"] for stage in found["stages"]]
    assert event["stages"][0]["adapter"] == "rewriter@2"
    assert event["stages"][0]["flags"] == found["stages"][0]["flags"]
    assert event["stages"][0]["milliseconds"] == found["stages"][0]["milliseconds"]
    assert all("hits" not in stage["output"] for stage in event["stages"])
    assert abs(event["time"] / 1000 - time.time()) < 60
    assert "my session" not in str(event)


def test_a_click_is_on_disk_when_it_is_acknowledged(client, events_folder):
    found = searched(client)
    click = {"search": found["id"], "action": "click", "document": "P1"}
    grade = {"search": found["id"], "action": "grade", "document": "P1", "grade": 2, "rater": "anna"}
    assert sent(client, click, grade) == {
        "object": "events",
        "recorded": 2,
        "data": [{"outcome": "new"}, {"outcome": "new"}],
    }
    _, rows = recorded(events_folder, found["id"])
    assert {(row.action, row.document, row.grade) for row in rows} == {("click", "P1", None), ("grade", "P1", 2)}
    assert sent(client, click)["data"] == [{"outcome": "repeated"}]


def test_forged_and_late_feedback_is_refused_and_counted(client, service):
    late = service.events.log.new_id(time.time() - 2 * 86_400)
    answer = sent(client, *[{"search": search, "action": "cart", "document": "P1"} for search in ("made up", late)])
    assert [row["outcome"] for row in answer["data"]] == ["forged", "late"]
    assert answer["recorded"] == 0
    metrics = client.get("/metrics").text
    for outcome in ("forged", "late"):
        assert f'searchlora_feedback_total{{action="cart",outcome="{outcome}"}} 1.0' in metrics


def test_metrics_count_stages_by_version_and_searches_without_hits(client):
    searched(client, "zzz", "lexical")
    searched(client, "red couch", "rewritten")
    metrics = client.get("/metrics").text
    assert 'searchlora_stage_seconds_count{pipeline="rewritten",stage="rewriter@2"}' in metrics
    assert 'searchlora_searches_without_hits_total{pipeline="lexical"} 1.0' in metrics
    assert 'searchlora_stage_flags_total{flag="invalid",pipeline="rewritten",stage="rewriter@2"}' in metrics


def test_tokens_of_searches_have_a_price(client):
    before = Counter(cost_and_tokens(client.get("/metrics").text))
    traced = searched(client, "a query of its own", "rewritten", trace=True)
    of_model = Counter(cost_and_tokens(client.get("/metrics").text)) - before
    (request,) = (request for stage in traced["stages"] for request in stage.get("requests", ()))
    assert (of_model["prompt"], of_model["completion"]) == (request["tokens"]["prompt"], request["tokens"]["output"])
    assert of_model["cost"] == pytest.approx(of_model["prompt"] + 2 * of_model["completion"])


def test_answers_that_were_known_cost_nothing():
    tokens = {"prompt": 10, "output": 3}
    requests = [{"tokens": tokens, "cached": True}, {"tokens": tokens}, {"tokens": tokens, "log_probabilities": {}}]
    metrics = Metrics("base", 1e6, 2e6)
    metrics.stage("shop", {"adapter": "rewriter@2", "milliseconds": 1.0, "flags": [], "requests": requests})
    assert cost_and_tokens(metrics.text().decode()) == {"prompt": 20, "completion": 3, "scored": 3, "cost": 32}


def cost_and_tokens(text):
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    of_model = [sample for sample in samples if sample.labels.get("model") == "rewriter@2"]
    found = {sample.labels["kind"]: sample.value for sample in of_model if sample.name == "searchlora_tokens_total"}
    return found | {"cost": sum(sample.value for sample in of_model if sample.name == "searchlora_cost_total")}


def test_a_search_that_shall_not_be_recorded_is_not(client, events_folder):
    found = searched(client, "nobody records this", record=False)
    assert "id" not in found
    again = searched(client)
    sent(client, {"search": again["id"], "action": "click", "document": "P1"})
    assert "nobody records this" not in {event["query"] for event, _ in EventLog(events_folder).searches()}


def test_a_streamed_search_has_an_id_too(client, service):
    body = {"pipeline": "lexical", "query": "red couch", "stream": True}
    last = client.post("/v1/search", json=body).text.strip().rpartition("data: ")[2]
    assert service.events.log.issued(json.loads(last)["id"]) is not None


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"action": "grade", "document": "P1"}, "'grade' belongs"),
        ({"action": "click", "document": "P1", "grade": 1}, "'grade' belongs"),
        ({"action": "looked", "document": "P1"}, "action"),
        ({"action": "click", "document": ""}, "document"),
        ({"action": "click", "document": "a\0b"}, "NUL"),
    ],
)
def test_a_malformed_event_is_refused(client, event, said):
    error = sent(client, {"search": "0", **event}, status=400)["error"]
    assert said in f"{error['message']} {error['param']}"


def test_a_server_that_records_nothing_says_how_to(search_service):
    with served(search_service) as url, httpx.Client(base_url=url) as client:
        click = {"search": "0", "action": "click", "document": "P1"}
        error = client.post("/v1/events", json={"events": [click]}).json()["error"]
        assert (error["code"], "--events" in error["message"]) == ("events_not_recorded", True)
        assert "id" not in searched(client)


def test_a_replay_says_what_has_changed(client, url, service):
    ids = [searched(client, query)["id"] for query in ("red couch", "tent", "lamp")]
    sent(client, {"search": ids[-1], "action": "click", "document": "P1"})
    searches = [(event, rows) for event, rows in service.events.log.searches() if event["id"] in ids]
    before = len(list(service.events.log.searches()))
    same = replay_figures(list(replay(searches, HttpClient(url))))
    assert (same.n, same.failed, same.changed.value) == (3, 0, 0)
    changed = [({**event, "hits": ["X1", *event["hits"][1:]]}, rows) for event, rows in searches]
    found = replay_figures(list(replay(changed, HttpClient(url), concurrency=2)))
    assert found.changed.value == 1
    gone = list(replay(searches, HttpClient(url, retries=0), pipeline="none"))
    assert [row.error is not None for row in gone] == [True] * 3
    time.sleep(1)
    assert len(list(service.events.log.searches())) == before  # a replay is not recorded


def test_two_pipelines_answer_each_search_that_is_recorded(
    store_of_search, tiny_base, tmp_path, corpus_of_search, monkeypatch
):
    for name, b in (("old", 0.75), ("new", 0)):
        stages = [{"bm25": {"k": 3, "b": b}}] if name == "old" else [{"bm25": {"k": 3, "b": b, "k1": 3}}]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "stages": stages}), encoding="utf-8")
    settings = {"events": str(tmp_path / "events"), "interleave": "old=new"}
    pipelines = tuple(str(tmp_path / f"{name}.yaml") for name in ("old", "new"))
    service = made_service(tiny_base, store_of_search, pipelines=pipelines, corpora=(corpus_of_search,), **settings)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        alone = [
            [hit["document"] for hit in searched(client, "red couch", name, record=False)["hits"]]
            for name in ("old", "new")
        ]
        found = searched(client, "red couch", "old", top=3)
        assert {hit["document"] for hit in found["hits"]} <= {*alone[0], *alone[1]}
        assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
        assert len(found["stages"]) == 2
        sent(client, {"search": found["id"], "action": "click", "document": found["hits"][0]["document"]})
        event, _ = recorded(tmp_path / "events", found["id"])
        assert (event["interleaved"]["other"], len(event["interleaved"]["credits"])) == ("new", 3)
        with monkeypatch.context() as patch:
            patch.setattr(SearchJob, "_interleaved", lambda *_: (_ for _ in ()).throw(EngineError("B fails")))
            assert [hit["document"] for hit in searched(client, "red couch", "old")["hits"]] == alone[0]
        plain = searched(client, "red couch", "new")
        assert [hit["document"] for hit in plain["hits"]] == alone[1]
    with pytest.raises(UsageError, match="no pipeline 'other'"):
        made_service(tiny_base, store_of_search, **settings | {"interleave": "old=other"}, pipelines=pipelines)
    sampled = settings | {"events": str(tmp_path / "sampled"), "events_sample": 0.4}
    service = made_service(tiny_base, store_of_search, pipelines=pipelines, corpora=(corpus_of_search,), **sampled)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        answers = [
            searched(client, "red couch", "old", **more) for more in [{}] * 20 + [{"user": f"{n}"} for n in range(20)]
        ]
    assert {("id" in answer, len(answer["stages"])) for answer in answers} == {(True, 2), (False, 1)}
