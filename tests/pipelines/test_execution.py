"""Stages in a pipeline: failure policies, time budgets and traces."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest

from searchlora.errors import DeadlineExceeded, EngineError, PipelineError, RequestRefused
from searchlora.eval.trec import ranked
from searchlora.inference.engine import Completion
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.explain import explain
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import result, result_line
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import Stage
from searchlora.records import Document, Hit
from searchlora.retrieval.fusion import Fused, Source
from tests.inference.http_server import Reply, answering
from tests.pipelines.rewriting import DOCUMENTS, Rewriter, built, searches

CHOICE = {"message": {"role": "assistant", "content": "tent"}, "finish_reason": "stop"}


def test_an_error_ends_the_pipeline_unless_it_is_skipped():
    with pytest.raises(RequestRefused, match="does not fit"):
        built(Rewriter()).execute(searches("kicks", "too long"))


class Returning(Stage):
    """Returns what a test gives it."""

    label = "own"

    def __init__(self, *hits):
        self.hits = hits

    def __call__(self, searches):
        return [{**search, "hits": list(hits)} for search, hits in zip(searches, self.hits, strict=False)]


def test_what_no_stage_may_return_is_an_error_that_names_the_stage():
    ordered, mixed = [Hit("d1", 2.0), Hit("d2", 2.0), Hit("d3", 1.0)], [Hit("d3", 1.0), Hit("d1", 2.0)]
    pipeline = Pipeline("p", [Returning(ordered, mixed)])
    assert pipeline.search("tent")["hits"][2]["document"] == "d3"
    with pytest.raises(PipelineError, match="stage own: returned hits for the search 'q1' that are not in the order"):
        pipeline.execute(searches("tent", "boot"))
    with pytest.raises(PipelineError, match="stage own: returned 1 searches for 2"):
        Pipeline("p", [Returning(ordered)]).execute(searches("tent", "boot"))


def test_scores_that_are_equal_in_single_precision_are_ties_as_in_trec_eval():
    """Reciprocal ranks with weights differ in the last digits, and `ranked` orders such documents by their ids."""
    scores = {"d1": 0.01 + 1e-12, "d2": 0.01}
    hits = [Hit(document, scores[document]) for document in ranked(scores)]
    assert [hit.document for hit in hits] == ["d2", "d1"]
    assert Pipeline("p", [Returning(hits)]).search("tent")["hits"][0]["document"] == "d2"


def test_only_the_refused_search_goes_on_without_the_stage():
    engine = Rewriter()
    pipeline = built(engine, {"on_failure": "skip"})
    given = searches("kicks", "too long", "shelter")
    done = pipeline.execute(given)
    assert engine.calls == [3, 1, 2, 1, 1]  # halves, until the refused one is alone
    assert [search["query"] for search in done] == ["boots", "too long", "tent"]
    assert [search.get("skipped") for search in done] == [None, {"rewriter@3": "does not fit."}, None]
    assert "outputs" not in done[1]
    assert result(given[1], done[1], pipeline.labels)["skipped"] == {"rewriter@3": "does not fit."}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Reply({"error": {"message": "no"}}, 400), "the server refuses with 400 (no)"),
        (Reply({"choices": [CHOICE | {"finish_reason": "content_filter"}], "usage": {}}), "'content_filter'"),
    ],
)
def test_what_a_server_refuses_concerns_one_search(tiny_base, bad, reason):
    good = Reply({"choices": [CHOICE], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    with answering(lambda asked: bad if "kicks" in str(asked.body) else good) as server:
        engine = RemoteEngine(server.url, tiny_base, names={"rewriter@3": "any"}, dialect="openai")
        done = built(engine, {"on_failure": "skip", "constrained": False}).execute(searches("kicks", "shelter"))
    assert [search["query"] for search in done] == ["kicks", "tent"]
    assert reason in done[0]["skipped"]["rewriter@3"]
    assert "skipped" not in done[1]


def test_an_engine_that_cannot_be_asked_is_asked_once():
    engine = Rewriter()
    done = built(engine, {"on_failure": "skip"}).execute(searches("kicks", "server", "shelter"))
    assert engine.calls == [3]
    assert [list(search["skipped"]) for search in done] == [["rewriter@3"]] * 3
    assert [search["query"] for search in done] == ["kicks", "server", "shelter"]


def test_a_stage_that_exceeds_its_budget_fails():
    slow = Rewriter(seconds=0.5)
    with pytest.raises(DeadlineExceeded, match=r"rewriter@3: took longer than its budget of 0.01 s for each of 2"):
        built(slow, {"budget_s": 0.01}).execute(searches("kicks", "shelter"))
    started = time.perf_counter()
    done = built(slow, {"budget_s": 0.01, "on_failure": "skip"}).execute(searches("kicks", "shelter"))
    assert time.perf_counter() - started < 0.5
    assert [search["query"] for search in done] == ["kicks", "shelter"]
    assert all("budget of 0.01 s" in search["skipped"]["rewriter@3"] for search in done)
    (fast,) = built(Rewriter(), {"budget_s": 30}).execute(searches("kicks"))
    assert fast["query"] == "boots"
    with pytest.raises(RequestRefused, match="does not fit"):
        built(Rewriter(), {"budget_s": 30}).execute(searches("too long"))


class Sometimes:
    """A retriever of documents that refuses one query, and cannot be asked about another."""

    def __init__(self, *documents):
        self.hits = [Hit(document, 1.0) for document in documents]
        self.calls = []

    def search(self, queries, k):
        self.calls.append(len(queries))
        if "too long" in queries:
            raise RequestRefused("does not fit")
        if "server" in queries:
            raise EngineError("the index is gone", where="http://db:9200")
        return [self.hits[:k] for _ in queries]


class Always(Sometimes):
    """A retriever that answers every query."""

    def search(self, queries, k):
        return [self.hits[:k] for _ in queries]


def fusion(retriever, **policy):
    """A pipeline that fuses BM25 with a retriever."""
    settings = FuseSettings(k=10, of=(Bm25Settings(), Bm25Settings(**policy)))
    bm25 = settings.of[0].over(DOCUMENTS)
    return Pipeline("p", [settings.of_parts([bm25, RetrieveStage(retriever, 100, "engine", kind="http")])])


def test_the_other_parts_of_a_fusion_are_fused_where_an_optional_one_fails():
    broken, rows = Sometimes("d9"), []
    pipeline = fusion(broken, on_failure="skip")
    done = pipeline.execute(searches("tent", "too long", "boots"), trace=rows.append)
    assert broken.calls == [3, 1, 1, 1]  # one bad request fails alone
    assert ["d9" in [hit.document for hit in search["hits"]] for search in done] == [True, False, True]
    assert [search.get("skipped") for search in done] == [None, {"engine": "does not fit."}, None]
    assert [row["flags"] for row in rows] == [[], ["skipped: engine: does not fit."], []]
    assert all("failed_parts" not in search for search in done)
    broken = Sometimes("d9")
    done = fusion(broken, on_failure="skip").execute(searches("tent", "server"))
    assert broken.calls == [2]
    assert [list(search["skipped"]) for search in done] == [["engine"]] * 2
    assert {hit.document for hit in done[0]["hits"]} == {"d2", "d3"}
    with pytest.raises(EngineError, match="the index is gone"):
        fusion(Sometimes("d9")).execute(searches("tent", "server"))
    nothing = Fused([Source(Sometimes(), label="engine", optional=True)])
    with pytest.raises(EngineError, match="the index is gone"):
        nothing.search(["server"], 3)


def test_the_other_parts_of_a_fusion_do_not_wait_for_a_late_one():
    class Late(Sometimes):
        def search(self, queries, k):
            released.wait(60)
            return super().search(queries, k)

    released = threading.Event()
    begun = time.perf_counter()
    done = fusion(Late("d9"), budget_s=0.01, on_failure="skip").execute(searches("tent", "boots"))
    with pytest.raises(DeadlineExceeded, match="engine"):
        fusion(Late("d9"), budget_s=0.01).execute(searches("tent"))
    assert time.perf_counter() - begun < 50
    released.set()
    assert all("longer than its budget of 0.01 s" in search["skipped"]["engine"] for search in done)
    assert {hit.document for search in done for hit in search["hits"]} == {"d1", "d2", "d3"}


def test_parts_with_one_label_fail_each_for_itself():
    """Two requests to one path of two servers have one label."""
    settings = FuseSettings(k=10, of=(Bm25Settings(on_failure="skip"), Bm25Settings(on_failure="skip")))
    parts = [RetrieveStage(each, 100, "engine", kind="http") for each in (Sometimes("d8"), Always("d9"))]
    pipeline = Pipeline("p", [settings.of_parts(parts)])
    (found,) = pipeline.execute(searches("server"))
    assert found["skipped"] == {"engine (1)": "http://db:9200: the index is gone."}
    assert [hit.document for hit in found["hits"]] == ["d9"]
    explained = explain(pipeline, "server", "d9", lambda error: error.what).stages[0].retrieved
    assert explained.rank == 1 and [part.failed for part in explained.parts] == ["the index is gone", ""]
    missing = explain(fusion(Sometimes("d9"), on_failure="skip"), "server", "d9", lambda error: error.what)
    assert missing.verdict.endswith("(it failed: the index is gone)")


def test_failures_in_a_fusion_of_a_fusion_are_told():
    (inner,) = fusion(Sometimes("d9"), on_failure="skip").stages
    outer = Pipeline("p", [FuseSettings(of=(inner.settings,)).of_parts([inner])])
    (found,) = outer.execute(searches("server"))
    assert found["skipped"] == {"engine": "http://db:9200: the index is gone."}


def test_an_explanation_tells_the_part_that_was_late():
    class Late(Sometimes):
        """Late for the search, and in time when it is asked again."""

        def search(self, queries, k):
            found = super().search(queries, k)
            if len(self.calls) == 1:
                released.wait(60)
            return found

    released = threading.Event()
    pipeline = fusion(Late("d9", "d2"), budget_s=0.5, on_failure="skip")
    explanation = explain(pipeline, "tent", "d9", lambda error: error.what)
    released.set()
    (stage,) = explanation.stages
    assert stage.notes[0].startswith("the part engine was skipped: ") and "its budget of 0.5 s" in stage.notes[0]
    assert stage.retrieved.rank is None and stage.retrieved.parts[1].rank == 1
    assert "bm25 (not among the first" in explanation.verdict
    assert explanation.verdict.endswith("for each of 1 searches; else at rank 1)")
    assert [part.skipped != "" for part in stage.retrieved.parts] == [False, True]


def test_the_trace_tells_what_each_stage_did_with_each_search():
    rows = []
    pipeline = built(Rewriter(), {"on_failure": "skip"}, more=[{"passages": {}}])
    done = pipeline.execute(searches("kicks", "empty", "too long"), trace=rows.append)
    assert done == pipeline.execute(searches("kicks", "empty", "too long"))
    assert [(row["id"], row["stage"]) for row in rows] == [(f"q{n}", stage) for n in range(3) for stage in (1, 2, 3)]
    rewrite, bm25, passages, *others = rows
    assert (rewrite["kind"], rewrite["label"], rewrite["adapter"]) == ("adapter", "rewriter@3", "rewriter@3")
    assert rewrite["input"]["records"][0]["query"] == "kicks"
    (request,) = rewrite["requests"]
    assert request["prompt"][-1]["content"].endswith("Query: kicks")
    assert (request["text"], request["finish"]) == ("boots", "stop")
    assert rewrite["tokens"] == request["tokens"] == {"prompt": 10, "output": 5}
    assert (rewrite["output"], rewrite["flags"]) == ({"query": "boots"}, [])
    assert bm25["input"] == {"query": "boots"}
    assert [hit["document"] for hit in bm25["output"]["hits"]] == ["d1"]
    assert "tokens" not in bm25 and "requests" not in bm25
    assert passages["input"] == {"hits": ["d1"]}
    assert passages["output"] == {"passages": [{"id": "d1", "title": "", "score": done[0]["hits"][0].score}]}
    assert others[0]["flags"] == ["invalid: empty"] and others[0]["output"] == {}
    assert others[3]["flags"] == ["skipped: does not fit."] and others[3]["requests"] == []
    assert all(row["milliseconds"] >= 0 for row in rows)
    assert [json.loads(result_line(row)) for row in rows] == rows


def test_requests_of_a_call_are_told_with_their_own_search():
    rows = []
    built(Rewriter()).execute(searches("kicks", "shelter", "kicks"), trace=rows.append)
    texts = [[request["text"] for request in row["requests"]] for row in rows if row["stage"] == 1]
    assert texts == [["boots"], ["tent"], ["boots"]]


def test_the_trace_tells_of_a_stage_that_lacks_what_it_reads():
    """A judge without passages is skipped, and its row says so instead of failing."""

    class NoPassages(type(built(Rewriter()).stages[0].task)):
        def records_from(self, context):
            raise PipelineError("there are no passages to judge", where=f"query {context['id']}")

    pipeline = built(Rewriter(), {"on_failure": "skip"})
    rewrite, bm25 = pipeline.stages
    lacking = Pipeline("p", [replace(rewrite, task=NoPassages()), bm25], pipeline.settings)
    rows = []
    (done,) = lacking.execute(searches("kicks"), trace=rows.append)
    assert done["query"] == "kicks"
    assert rows[0]["flags"] == ["skipped: query q0: there are no passages to judge."]
    assert (rows[0]["input"], rows[0]["requests"]) == ({"records": []}, [])


def test_a_rewrite_is_fused_with_the_query():
    pipeline = built(Rewriter(), {"rewrite": "fuse"})
    assert pipeline.labels[0] == "rewriter@3(rewrite=fuse)"
    both, same = pipeline.execute([{"id": "1", "query": "shelter"}, {"id": "2", "query": "tent"}])
    assert (both["query"], both["fused_queries"]) == ("tent", ("shelter", "tent"))
    assert [hit.document for hit in both["hits"]] == [hit.document for hit in same["hits"]]
    assert "fused_queries" not in same  # the rewrite is the query
    documents = [*DOCUMENTS, Document("d4", "shelter"), Document("d5", "a tent shelter")]
    rewrite, _ = pipeline.stages
    wider = Pipeline("p", [rewrite, pipeline.settings[1].over(documents)])
    (found,) = wider.execute(searches("shelter"))
    assert found["hits"][0].document == "d5"  # both queries find it
    assert found["hits"][0].score == pytest.approx(sum(1 / (60 + rank) for rank in _ranks(documents, "d5")))
    assert {hit.document for hit in found["hits"]} == {"d2", "d3", "d4", "d5"}
    (replaced,) = Pipeline("p", [AdapterStage(rewrite.task, Rewriter(), "r@3"), wider.stages[1]]).execute(
        searches("shelter")
    )
    assert {hit.document for hit in replaced["hits"]} == {"d2", "d3", "d5"}


def _ranks(documents, document):
    stage = parse_stages([{"bm25": {}}], "here")[0].over(documents)
    rankings = stage.retriever.search(["shelter", "tent"], 10)
    return [[hit.document for hit in hits].index(document) + 1 for hits in rankings]


def test_a_later_rewrite_replaces_the_one_that_was_fused():
    pipeline = built(Rewriter(), {"rewrite": "fuse"})
    rewrite, bm25 = pipeline.stages

    class Again(Rewriter):
        def generate(self, requests):
            return [Completion("boots", "stop", 10, 1) for _ in requests]

    second = AdapterStage(rewrite.task, Again(), "other@1")
    (found,) = Pipeline("p", [rewrite, second, bm25]).execute(searches("shelter"))
    assert found["fused_queries"] == ("shelter", "boots")
    assert [hit.document for hit in found["hits"]] == ["d1"]


def test_a_field_of_the_query_row_is_no_fusion():
    (found,) = Pipeline("p", built(Rewriter()).stages[1:]).execute([{"id": "1", "query": "tent", "queries": ["boots"]}])
    assert {hit.document for hit in found["hits"]} == {"d2", "d3"}
