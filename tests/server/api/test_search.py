"""`/v1/search`: pipelines on the server's engine, stages as they finish, slots, explanations and grades of hits."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.judgments.ratings import read_ratings
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.local import LocalEngine
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.server.api import search, search_execution
from searchlora.server.api.served_pipelines import ServerEngines
from searchlora.server.grading.search_grades import SearchGrades
from tests.server.api.serving import made_service, served
from tests.server.searching import DOCUMENTS, TOPICS, judged_by


@pytest.fixture(scope="module")
def service(search_service):
    return search_service


@pytest.fixture(scope="module")
def client(service):
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def searched(client, pipeline="lexical", query="red couch", status=200, **more):
    response = client.post("/v1/search", json={"pipeline": pipeline, "query": query, **more})
    assert response.status_code == status, response.text
    return response.json()


def streamed(client, **body):
    with client.stream("POST", "/v1/search", json={"query": "red couch", "stream": True, **body}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [block for block in "".join(response.iter_text()).split("\n\n") if block]
    named = [event.split("\n", 1) for event in events]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in named]


def test_slots_without_which_the_pipeline_cannot_be_built_are_refused(client, monkeypatch):
    def refused(*_, **__):
        raise PipelineError("the model is of another kind", where="/srv/model", fix="Name another.")

    monkeypatch.setattr(Pipeline, "build", refused)
    part = next(each for each in client.get("/v1/pipelines").json()["data"] if each["id"] == "triple")["slots"][0]
    error = searched(client, "triple", status=400, slots={part["name"]: "off"})["error"]
    assert (error["message"], error["param"]) == ("The model is of another kind. Name another.", "slots")


def test_hits_are_those_of_the_pipeline_with_their_texts(client, corpus_of_search, pipeline_files):
    found = searched(client, top=2)
    expected = Pipeline.load(pipeline_files / "lexical.yaml", corpus=corpus_of_search).search("red couch")["hits"]
    assert [(hit["document"], hit["score"]) for hit in found["hits"]] == [
        (hit["document"], hit["score"]) for hit in expected[:2]
    ]
    texts = {row["id"]: (row["title"], row["text"]) for row in DOCUMENTS}
    assert all((hit["title"], hit["text"]) == texts[hit["document"]] for hit in found["hits"])
    assert (found["total"], found["pipeline"], found["query"]) == (3, "lexical", "red couch")
    (stage,) = found["stages"]
    assert (stage["label"], stage["stage"], len(stage["output"]["hits"])) == ("bm25(k=3)", 1, 2)
    assert 0 < stage["milliseconds"] <= found["milliseconds"]


@pytest.mark.slow
def test_an_adapter_stage_uses_the_servers_engine_and_tells_prompt_output_version_and_tokens(client, service):
    found = searched(client, "rewritten", trace=True)
    (_, served_pipeline), *_ = [each for each in service.pipelines if each[0] == "rewritten"]
    assert served_pipeline.pipeline.stages[0].engine is service.engine
    stage = found["stages"][0]
    assert stage["adapter"] == stage["label"] == "rewriter@2"
    (request,) = stage["requests"]
    assert "red couch" in request["prompt"][-1]["content"]
    assert stage["tokens"] == request["tokens"]
    own = LocalEngine(service.engine.base, service.store, precision="fp32")
    task = service.adapter_task("rewriter@2").prompted
    (output,) = AdapterStage(task, own, "rewriter@2", 4).ask(task.records_from({"id": "1", "query": "red couch"}))
    assert stage["flags"] == ([] if isinstance(output, str) else [f"invalid: {output.reason}"])
    assert stage["output"].get("query", "red couch") == (output if isinstance(output, str) else "red couch")
    assert not {"requests", "input"} & searched(client, "rewritten")["stages"][0].keys()
    graded = searched(client, "judged", trace=True)
    judge = graded["stages"][2]
    assert len(judge["requests"]) >= len(graded["hits"])
    assert any(request.get("log_probabilities") for request in judge["requests"])


@pytest.mark.slow
def test_rows_of_the_trace_are_those_of_a_run_with_trace(client, service):
    for name in ("rewritten", "judged", "mixed"):
        rows = []
        pipeline = service.pipelines.get(name).pipeline
        pipeline.execute([{"id": "1", "query": "red couch"}], trace=rows.append)
        found = searched(client, name, trace=True, top=100)
        assert len(rows) == len(found["stages"]) == len(pipeline.stages)
        for expected, row in zip(rows, found["stages"], strict=True):
            assert list(row) == list(expected)
            assert row | {"milliseconds": 0} == json.loads(json.dumps({**expected, "milliseconds": 0}))


def test_a_streamed_search_is_graded_and_encoded_outside_the_event_loop(client, monkeypatch):
    loops, workers = set(), set()
    next_event, encoded, graded = search._SearchStream.next, search.sent_event, SearchGrades.of_search

    def recorded(function):
        return lambda *given: workers.add(threading.get_ident()) or function(*given)

    async def next_(self):
        loops.add(threading.get_ident())
        return await next_event(self)

    monkeypatch.setattr(search._SearchStream, "next", next_)
    monkeypatch.setattr(search, "sent_event", recorded(encoded))
    monkeypatch.setattr(SearchGrades, "of_search", recorded(graded))
    *_, (last, result) = streamed(client, pipeline="lexical")
    assert last == "result" and result["measured"]["measure"] == "nDCG@10"
    assert workers and loops and not loops & workers


@pytest.mark.slow
def test_stages_are_sent_as_they_finish_and_the_result_is_that_of_a_whole_answer(client, monkeypatch):
    whole = searched(client, "judged")
    *stages, (last, result) = streamed(client, pipeline="judged")
    assert [name for name, _ in stages] == ["stage"] * 3
    assert [event["label"] for _, event in stages] == [stage["label"] for stage in whole["stages"]]
    assert last == "result"
    assert [hit["document"] for hit in result["hits"]] == [hit["document"] for hit in whole["hits"]]
    released = threading.Event()
    original = search_execution.execute_stage

    def held(stage, *more):
        if stage.label == "passages(3)":
            assert released.wait(20)
        return original(stage, *more)

    monkeypatch.setattr(search_execution, "execute_stage", held)
    body = {"pipeline": "judged", "query": "red couch", "stream": True}
    with client.stream("POST", "/v1/search", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: stage"  # the first stage is here, and the second has not begun
        assert json.loads(next(lines).removeprefix("data: "))["label"] == "bm25(k=3)"
        released.set()
        assert "event: result" in list(lines)


def test_a_stage_that_takes_too_long_is_skipped_where_the_pipeline_says_so(client):
    found = searched(client, "careful")
    first, second = found["stages"]
    assert first["flags"][0].startswith("skipped: ") and "budget" in first["flags"][0] and second["flags"] == []
    assert found["hits"] == searched(client, "lexical")["hits"] != []


@pytest.mark.slow
def test_reasons_of_skipped_stages_name_no_path(client, service, monkeypatch):
    def fails(*_):
        raise DataError("cannot be read", where="/srv/shop/index/vectors.npy")

    monkeypatch.setattr(AdapterStage, "__call__", fails)
    settings = service.pipelines.get("careful").pipeline.settings[0]
    monkeypatch.setitem(settings.__dict__, "budget_s", None)
    found, explained = searched(client, "careful"), searched(client, "careful", explain="d5")
    assert found["stages"][0]["flags"] == ["skipped: vectors.npy: cannot be read."]
    assert "/srv" not in json.dumps([found, explained]) and "vectors.npy" in json.dumps(explained)


def test_a_stage_that_fails_ends_the_stream_and_before_the_first_stage_the_error_has_its_status(client, monkeypatch):
    original = search_execution.execute_stage

    def fails(stage, *more):
        if stage.label.startswith("passages"):
            raise KeyError("secret")
        return original(stage, *more)

    monkeypatch.setattr(search_execution, "execute_stage", fails)
    *_, (name, error) = streamed(client, pipeline="judged")
    assert (name, error["error"]["code"]) == ("error", "internal_error")
    assert "secret" not in json.dumps(error)
    monkeypatch.setattr(search_execution, "execute_stage", lambda *_: 1 / 0)
    response = client.post("/v1/search", json={"pipeline": "lexical", "query": "x", "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"pipeline": "none"}, 404, "pipeline"),
        ({"query": ""}, 400, "query"),
        ({"top": 0}, 400, "top"),
        ({"unknown": 1}, 400, "unknown"),
        ({"slots": {"none": "off"}}, 400, "slots"),
        ({"slots": {"bm25": "off"}}, 400, "slots"),
        ({"slots": {"bm25": "base"}}, 400, "slots"),
        ({"slots": {"bm25": "rewriter@1"}}, 400, "slots"),
        ({"pipeline": "rewritten", "slots": {"rewriter": "judge@1"}}, 400, "slots"),
        ({"pipeline": "rewritten", "slots": {"rewriter": "rewriter@9"}}, 400, "slots"),
        ({"pipeline": "rewritten", "slots": {"rewriter": "../x"}}, 400, "slots"),
        ({"explain": "d9"}, 400, "explain"),
        ({"fields": {"query": "x"}}, 400, "fields"),
        ({"fields": {"fused_queries": ["a", "b"]}}, 400, "fields"),
        ({"pipeline": "rewritten", "fields": {"history": 5}}, 400, "fields"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_invalid_requests_are_refused_by_name(client, change, status, param, stream):
    body = {"pipeline": "lexical", "query": "red couch", "stream": stream} | change
    response = client.post("/v1/search", json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"].partition(".")[0] == param


def test_limits_are_those_of_the_other_endpoints(client, service, monkeypatch):
    assert client.post("/v1/search", content=b"x" * 20_001).status_code == 413
    assert client.get("/v1/search").status_code == 405
    monkeypatch.setitem(service._in_progress, "127.0.0.1", service.config.requests_per_client)
    assert client.post("/v1/search", json={"pipeline": "lexical", "query": "x"}).status_code == 429


@pytest.mark.slow
def test_slots_are_switched_for_one_request(client):
    (rewriter, bm25) = next(each for each in client.get("/v1/pipelines").json()["data"] if each["id"] == "rewritten")[
        "slots"
    ]
    assert (rewriter["adapter"], rewriter["choices"]) == (
        "rewriter@2",
        ["on", "off", "base", "rewriter@1", "rewriter@2"],
    )
    assert bm25["choices"] == ["on"]
    labels = {
        choice: [stage["label"] for stage in searched(client, "rewritten", slots={"rewriter": choice})["stages"]]
        for choice in rewriter["choices"]
    }
    assert labels == {
        "on": ["rewriter@2", "bm25(k=3)"],
        "off": ["bm25(k=3)"],
        "base": ["base(rewriting)", "bm25(k=3)"],
        "rewriter@1": ["rewriter@1", "bm25(k=3)"],
        "rewriter@2": ["rewriter@2", "bm25(k=3)"],
    }
    parts = next(each for each in client.get("/v1/pipelines").json()["data"] if each["id"] == "mixed")["slots"]
    assert [part["choices"] for part in parts] == [["on", "off"]] * 2
    one = searched(client, "mixed", slots={parts[0]["name"]: "off"})
    assert one["stages"][0]["label"] != searched(client, "mixed")["stages"][0]["label"]
    searched(client, "mixed", status=400, slots={part["name"]: "off" for part in parts})


def test_weights_of_a_fusion_are_changed_for_one_request(client):
    by_id = {each["id"]: each for each in client.get("/v1/pipelines").json()["data"]}
    assert by_id["lexical"]["fusion"] is None
    assert by_id["mixed"]["fusion"] == {
        "stage": 1,
        "method": "rrf",
        "parts": ["bm25 (1)", "bm25 (2)"],
        "weights": [1.0, 1.0],
    }
    shifted = searched(client, "mixed", weights=[1, 9])
    assert shifted["stages"][0]["label"].endswith("weights=1:9)")
    assert shifted["hits"][0]["score"] != searched(client, "mixed")["hits"][0]["score"]
    parts = by_id["mixed"]["slots"]
    one = searched(client, "mixed", weights=[0, 1])
    off = searched(client, "mixed", slots={parts[0]["name"]: "off"})
    assert [hit["document"] for hit in one["hits"]] == [hit["document"] for hit in off["hits"]]
    for weights, pipeline in (([0, 0], "mixed"), ([1], "mixed"), ([-1, 2], "mixed"), ([1, 2], "lexical")):
        refused = searched(client, pipeline, status=400, weights=weights)
        assert refused["error"]["param"].partition(".")[0] == "weights"


def test_explain_says_why_a_document_is_missing(client):
    missing = searched(client, explain="d5")
    assert missing["verdict"].endswith("it contains no word of the query: red, couch")
    assert (missing["object"], missing["missing_at"]) == ("explanation", 0)
    (name, event) = streamed(client, pipeline="lexical", explain="d5")[-1]
    assert (name, event["verdict"]) == ("result", missing["verdict"])


def test_a_grade_is_on_disk_with_its_rater_and_moves_the_measure(client, grades_folder):
    found = searched(client)
    ranking = [hit["document"] for hit in found["hits"]]
    assert (found["topic"], found["measured"]["judged"]) == ("t1", 1)
    assert next(hit["grade"] for hit in found["hits"] if hit["document"] == "d1") == 2
    other = next(document for document in ranking if document != "d1")
    body = {"query": "red couch", "document": other, "grade": 3, "rater": "anna", "seconds": 2.0}
    saved = client.post("/v1/judgments", json=body | {"rankings": [ranking, ranking[::-1]]}).json()
    assert (saved["topic"], saved["grade"]) == ("t1", 3)
    assert saved["measured"][0]["judged"] == 2
    assert saved["measured"][0]["value"] != found["measured"]["value"]
    assert saved["measured"][0]["value"] != saved["measured"][1]["value"]
    assert searched(client)["measured"] == saved["measured"][0]
    rating = read_ratings(grades_folder / "collected" / "ratings.jsonl")[-1]
    assert (rating.topic, rating.document, rating.grade, rating.rater) == ("t1", other, 3, "anna")


@pytest.mark.parametrize(
    "change",
    [
        *({"grade": 10}, {"grade": -1}, {"grade": "1"}, {"rater": "A B"}, {"document": "a b"}, {"more": 1}),
        *({"fields": {"history": 5}}, {"fields": {"skipped": {}}}),  # else the topic could not be executed later
    ],
)
def test_invalid_grades_are_refused(client, change):
    body = {"query": "red couch", "document": "d1", "grade": 1, "rater": "anna"} | change
    assert client.post("/v1/judgments", json=body).status_code == 400


def test_pipelines_that_cannot_be_served_are_refused_at_start(service, pipeline_files, corpus_of_search, tmp_path):
    pipelines = service.pipelines
    with pytest.raises(UsageError, match="two pipelines are called 'lexical'"):
        pipelines.add(str(pipeline_files / "lexical.yaml"), corpus_of_search)
    other = tmp_path / "other.yaml"
    other.write_text("name: other\nstages: [{bm25: {k: 3}}]\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="needs documents"):
        pipelines.add(str(other))


@pytest.mark.slow
def test_slots_are_filled_at_start_and_answers_are_cached(store_of_search, tiny_base, corpus_of_search, tmp_path):
    slotted = {"name": "slotted", "parameters": {"rewriter": None}, "stages": [
        {"adapter": {"name": "$rewriter", "max_new_tokens": 4}}, {"bm25": {"k": 3}}]}  # fmt: skip
    plain = {"name": "plain", "parameters": {"depth": 3}, "stages": [{"bm25": {"k": "$depth"}}]}
    files = tuple(str(tmp_path / f"{content['name']}.yaml") for content in (slotted, plain))
    for file, content in zip(files, (slotted, plain), strict=True):
        Path(file).write_text(yaml.safe_dump(content), encoding="utf-8")
    own = {"pipelines": files, "corpora": (corpus_of_search,), "cache": tmp_path / "answers.sqlite"}
    service = made_service(tiny_base, store_of_search, parameters=("rewriter=rewriter@1", "depth=2"), **own)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        stages = [each["stages"] for each in client.get("/v1/pipelines").json()["data"]]
        first, again = (searched(client, "slotted", trace=True) for _ in range(2))
    assert stages == [["rewriter@1", "bm25(k=3)"], ["bm25(k=2)"]]
    assert "cached" not in first["stages"][0]["flags"] and "cached" in again["stages"][0]["flags"]
    assert first["hits"] == again["hits"] and len(AnswerCache(own["cache"])) == 1
    with pytest.raises(PipelineError, match="'judge=judge@1' sets no parameter"):
        made_service(tiny_base, store_of_search, parameters=("judge=judge@1",), **own)
    with pytest.raises(UsageError, match="no pipeline whose parameter 'judge' could be set"):
        made_service(tiny_base, store_of_search, parameters=("judge=judge@1",))


def test_an_adapter_of_another_base_is_refused_and_no_second_base_is_loaded(service, tmp_path):
    base = service.engine.base
    engines = ServerEngines(service.store, service.engine)
    assert engines.get(base, "bf16") is service.engine
    with pytest.raises(PipelineError, match="and this server's is") as refused:
        engines.get(replace(base, path=tmp_path), "bf16")
    assert "--base" in refused.value.fix


def test_the_page_is_told_the_scale_of_grades_and_judged_queries(client):
    assert client.get("/v1/topics").json() == {
        "object": "topics",
        "collects_grades": True,
        "scale": [0, 1, 2, 3],
        "examples": [{"query": query, "fields": {}} for query, _ in TOPICS.values()],
    }


@pytest.mark.slow
def test_without_a_judge_the_grades_are_those_of_the_judgments_and_without_topics_titles_are_offered(
    store_of_search, tiny_base, pipeline_files, corpus_of_search, tmp_path
):
    (tmp_path / "topics.jsonl").write_text('{"id": "t1", "query": "a tent"}\n')
    (tmp_path / "qrels").write_text("t1 0 d3 1\n")
    lexical = {"pipelines": (str(pipeline_files / "lexical.yaml"),), "corpora": (corpus_of_search,)}
    for more, scale, first in ((judged_by(tmp_path, None), [0, 1], "a tent"), ({}, [0, 1, 2, 3], "Red couch")):
        with served(made_service(tiny_base, store_of_search, **lexical, **more)) as url:
            found = httpx.get(f"{url}/v1/topics").json()
            assert (found["scale"], found["examples"][0]) == (scale, {"query": first, "fields": {}})
