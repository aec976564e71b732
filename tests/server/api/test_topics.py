"""`/v1/topics` and `/v1/jobs`: comparisons, fusion weights, disagreements, as jobs that report, stop, block nothing."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import httpx
import jsonschema
import pytest

from searchlora.eval.measures import retrieval_values
from searchlora.pipelines.pipeline import run_of
from searchlora.server.api import client_engine, judge_jobs, topic_jobs
from searchlora.server.api.app import document
from searchlora.server.api.jobs import Jobs
from searchlora.server.grading.search_grades import HumanGrade
from tests.server.api.serving import made_service, served
from tests.server.searching import DOCUMENTS, TOPICS, judged_by

LEXICAL = {"pipeline": "lexical"}
QRELS = {topic: dict(grades) for topic, (_, grades) in TOPICS.items()}


@pytest.fixture(scope="module")
def client(search_service):
    with served(search_service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def started(client, path, status=200, **body):
    response = client.post(f"/v1/topics/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def finished(client, job):
    """The job once it is over."""
    deadline = time.monotonic() + 60
    while job["status"] in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    jsonschema.validate(job, {"$ref": "#/components/schemas/JobEntry", "components": document()["components"]})
    return job


def result(client, path, **body):
    job = finished(client, started(client, path, **body))
    assert (job["status"], job["error"]) == ("done", None)
    return job["result"]


def measured(pipeline, measure="nDCG@10"):
    searches = pipeline.execute([{"id": topic, "query": query} for topic, (query, _) in TOPICS.items()])
    return retrieval_values(run_of(searches), QRELS, [measure])[measure]


def test_topics_are_described(client):
    assert client.get("/v1/topics").json() == {
        "object": "topics",
        "judged": len(TOPICS),
        "measure": "nDCG@10",
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


@pytest.mark.slow
def test_all_topics_are_ordered_by_gain_with_the_paired_interval_of_the_mean(client, search_service):
    body = {"system": {"pipeline": "lexical"}, "baseline": {"pipeline": "mixed", "weights": [0, 1]}}
    found = result(client, "compare", **body, measure="MRR@10")
    ours = measured(search_service.pipelines.get("lexical").pipeline, "MRR@10")
    theirs = measured(search_service.pipelines.variant("mixed", {}, [0, 1]), "MRR@10")
    assert {each["topic"]: (each["system"], each["baseline"]) for each in found["topics"]} == {
        topic: (ours[topic], theirs[topic]) for topic in TOPICS
    }
    gains = [each["gain"] for each in found["topics"]]
    assert gains == sorted(gains, reverse=True) == [each["system"] - each["baseline"] for each in found["topics"]]
    assert found["n"] == len(TOPICS) == found["wins"] + found["losses"] + found["ties"]
    assert found["difference"] == pytest.approx(sum(gains) / len(gains))
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["system"]["low"] <= found["system"]["value"] <= found["system"]["high"]
    assert found["topics"][0]["query"] == TOPICS[found["topics"][0]["topic"]][0]


@pytest.mark.slow
def test_a_pipeline_is_executed_once_on_each_topic(client, monkeypatch):
    executed = []
    original = topic_jobs.ServedSystem.run
    monkeypatch.setattr(
        topic_jobs.ServedSystem,
        "run",
        lambda self, rows, *more: executed.append(len(rows)) or original(self, rows, *more),
    )
    body = {"system": {"pipeline": "triple"}, "baseline": {"pipeline": "triple"}}
    same = result(client, "compare", **body)
    assert (same["difference"], same["ties"]) == (0, len(TOPICS))
    again = result(client, "compare", **body | {"baseline": {"pipeline": "triple", "weights": [1, 0, 0]}})
    assert sum(executed) == 2 * len(TOPICS)
    assert again["system"]["value"] == same["system"]["value"]


@pytest.mark.slow
def test_adapter_stages_of_a_job_use_the_servers_engine(client):
    body = {"system": {"pipeline": "rewritten"}, "baseline": {"pipeline": "rewritten", "slots": {"rewriter": "off"}}}
    found = result(client, "compare", **body)
    assert found["system"]["stages"] == ["rewriter@2", "bm25(k=3)"]
    assert found["baseline"]["stages"] == ["bm25(k=3)"]
    assert found["baseline"]["value"] == result(client, "compare", system=body["baseline"], baseline={
        "pipeline": "lexical"
    })["baseline"]["value"]  # fmt: skip


@pytest.mark.slow
def test_all_fusion_weights_are_measured(client, search_service):
    found = result(client, "weights", system={"pipeline": "triple"})
    assert len(found["fusions"]) == 66
    best = found["fusions"][found["best"]]
    assert best["value"] == max(fusion["value"] for fusion in found["fusions"])
    values = measured(search_service.pipelines.variant("triple", {}, best["weights"]))
    assert best["value"] == pytest.approx(sum(values.values()) / len(values))
    assert best["low"] <= best["value"] <= best["high"]


@pytest.mark.slow
def test_parts_keep_their_names_when_one_is_off(client):
    """They are the names of the weights of a request, which has one for each part of the unchanged pipeline."""
    found = result(client, "weights", system={"pipeline": "triple", "slots": {"bm25 (stage 1, part 1)": "off"}})
    assert found["parts"] == ["bm25 (2)", "bm25 (3)"]
    (triple,) = [each for each in client.get("/v1/pipelines").json()["data"] if each["id"] == "triple"]
    assert triple["fusion"]["parts"] == ["bm25 (1)", "bm25 (2)", "bm25 (3)"]


@pytest.mark.slow
def test_disagreements_of_a_judge_come_largest_first_with_its_probabilities(client, search_service):
    found = result(client, "disagreements", pipeline="judged", judge="judge", limit=4)
    assert (found["pairs"], found["judge"], found["missing"]) == (4, "judge@1", 0)
    assert found["left_out"] == len(search_service.grades.human_grades()) - 4
    differences = [abs(row["difference"]) for row in found["rows"]]
    assert differences == sorted(differences, reverse=True)
    assert found["differing"] == len(found["rows"]) > 0
    texts = {row["id"]: row["text"] for row in DOCUMENTS}
    for row in found["rows"]:
        assert row["judge_grade"] - row["grade"] == row["difference"] != 0
        assert (row["query"], row["fields"]) == (TOPICS[row["topic"]][0], {})
        assert row["text"] == texts[row["document"]]
        assert sum(each["probability"] for each in row["probabilities"]) == pytest.approx(1)
        assert [each["grade"] for each in row["probabilities"]] == found["scale"]


@pytest.mark.slow
def test_grades_of_people_are_those_of_the_judge_or_are_mapped_to_them(client, search_service, monkeypatch):
    monkeypatch.setattr(judge_jobs, "scale_of", lambda _: [0, 1])
    monkeypatch.setattr(judge_jobs, "disagreements", lambda valid, _: seen.extend(valid) or ())
    seen = []
    body = {"pipeline": "judged", "judge": "judge"}
    error = started(client, "disagreements", 400, **body)["error"]
    assert (error["code"], error["param"]) == ("other_scale", "grades")
    assert "grades are 0, 1, and people gave 2, 3 as well" in error["message"] and "2=1,3=1" in error["message"]
    result(client, "disagreements", **body, grades={"2": 1, "3": 1})
    assert {grade for _, _, grade, _ in seen} == {0, 1}
    assert max(pair.grade for pair in search_service.grades.human_grades()) == 3


@pytest.mark.slow
def test_pairs_whose_query_is_unknown_are_not_graded_and_are_counted(client, search_service, monkeypatch):
    pairs = search_service.grades.human_grades()
    unknown = HumanGrade("gone", {}, "d1", 1, ("anna",))
    monkeypatch.setattr(search_service.grades, "human_grades", lambda: [*pairs, unknown])
    found = result(client, "disagreements", pipeline="judged", judge="judge")
    assert (found["unknown"], found["pairs"]) == (1, len(pairs))
    assert all(row["query"] for row in found["rows"])
    monkeypatch.setattr(search_service.grades, "human_grades", lambda: [unknown])
    error = started(client, "disagreements", 400, pipeline="judged", judge="judge")["error"]
    assert error["message"].startswith("The queries of all 1 graded pairs are unknown.")


@pytest.mark.slow
def test_topics_for_which_a_stage_was_skipped_are_noted_and_not_remembered(client):
    """The stage's budget is too short for any topic; at another time it may not be."""
    body = {"system": {"pipeline": "careful"}, "baseline": LEXICAL}
    for _ in range(2):
        found = result(client, "compare", **body)
        assert found["notes"][-1] == f"System: {len(TOPICS)} topics ran without stage rewriter@2."
    assert result(client, "compare", system=LEXICAL, baseline=LEXICAL)["notes"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("compare", {"system": {"pipeline": "none"}, "baseline": {"pipeline": "lexical"}}, 404, "pipeline"),
        ("compare", {"system": {"pipeline": "lexical"}}, 400, "baseline"),
        ("compare", {"system": LEXICAL | {"slots": {"x": "off"}}, "baseline": LEXICAL}, 400, "slots"),
        ("weights", {"system": {"pipeline": "lexical"}}, 400, "system"),
        ("weights", {"system": {"pipeline": "mixed", "weights": [1, 1]}}, 400, "system.weights"),
        ("disagreements", {"pipeline": "judged", "judge": "bm25"}, 400, "judge"),
        ("disagreements", {"pipeline": "judged", "judge": "judge", "version": "off"}, 400, "version"),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused_at_once(client, path, body, status, param):
    assert started(client, path, status, **body)["error"]["param"] == param


def test_an_unknown_measure_fails_the_job_with_its_reason(client):
    body = {"system": {"pipeline": "lexical"}, "baseline": {"pipeline": "lexical"}, "measure": "nonsense"}
    job = finished(client, started(client, "compare", **body))
    assert (job["status"], job["result"]) == ("failed", None)
    assert "'nonsense' is not a measure" in job["error"]["message"]


@pytest.mark.slow
def test_a_job_reports_progress_is_cancelled_and_blocks_no_search(client, monkeypatch):
    """The job stands still in its first step, and searches are answered beside it."""
    held, reached = threading.Event(), threading.Event()
    original = client_engine.JobEngine._patiently

    def waiting(self, *asked):
        reached.set()
        assert held.wait(30)
        return original(self, *asked)

    monkeypatch.setattr(client_engine.JobEngine, "_patiently", waiting)
    body = {
        "system": {"pipeline": "rewritten", "slots": {"rewriter": "rewriter@1"}},
        "baseline": {"pipeline": "lexical"},
    }
    job = started(client, "compare", **body)
    second = started(client, "compare", system={"pipeline": "lexical"}, baseline={"pipeline": "mixed"})
    assert reached.wait(30)
    running = client.get(f"/v1/jobs/{job['id']}").json()
    assert (running["status"], running["done"]) == ("running", 0) and running["total"] >= len(TOPICS)
    assert client.get(f"/v1/jobs/{second['id']}").json()["status"] == "waiting"
    for pipeline in ("lexical", "rewritten"):
        assert client.post("/v1/search", json={"pipeline": pipeline, "query": "red couch"}).status_code == 200
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 200
    held.set()
    assert finished(client, client.get(f"/v1/jobs/{job['id']}").json())["status"] == "cancelled"
    assert finished(client, second)["status"] == "done"


def test_jobs_belong_to_their_client_and_are_bounded(client):
    assert client.get("/v1/jobs/0123").status_code == client.delete("/v1/jobs/0123").status_code == 404
    jobs, release = Jobs(), threading.Event()

    def held(_):
        release.wait(30)
        return {}

    first = jobs.start("anna", "comparison", held)
    with pytest.raises(Exception, match="no such job"):
        jobs.get("ben", first.id)
    waiting = jobs.start("anna", "comparison", lambda _: {})
    assert jobs.cancel("anna", waiting.id).status == "cancelled"
    jobs.close()
    release.set()
    while first.status == "running":
        time.sleep(0.01)
    assert first.status == "cancelled"


def test_a_job_that_is_over_keeps_its_result_only():
    class Work:
        def __call__(self, _):
            return {"n": 1}

    work, jobs = Work(), Jobs()
    held = weakref.ref(work)
    job = jobs.start("anna", "comparison", work)
    del work
    deadline = time.monotonic() + 10
    while job.status != "done" or held() is not None:
        assert time.monotonic() < deadline, "the work is still held"
        gc.collect()
        time.sleep(0.01)
    assert jobs.get("anna", job.id).result == {"n": 1}


def test_a_server_without_topics_says_so(store_of_search, tiny_base):
    service = made_service(tiny_base, store_of_search)
    with served(service) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/topics").json()["judged"] == 0
        body = {"system": {"pipeline": "lexical"}, "baseline": {"pipeline": "lexical"}}
        assert started(client, "compare", 404, **body)["error"]["code"] == "no_topics"
