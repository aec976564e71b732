"""Why a document is where it is in a search, or at which stage it fell out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, RequestRefused
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.explain import explain
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import FUSED_QUERIES, Stage
from searchlora.records import Document
from searchlora.task import load_generation_task
from tests.factories import random_adapter, write_jsonl
from tests.pipelines import rewriting

DOCUMENTS = [
    Document("d1", "red couch for two"),
    Document("d2", "red red couch"),
    Document("d3", "red tent"),
    Document("d4", "a couch that is as long as a room, and very wide, and not cheap at all"),
    Document("d5", "blue lamp"),
]
QUERY = "the red couch"


def built(stages, tmp_path):
    return build_pipeline("p", parse_stages(stages, "p"), store=Store(tmp_path), documents=DOCUMENTS)


@dataclass(frozen=True)
class Changes(Stage):
    """A stage that lays fields over each search."""

    label: str = ""
    fields: dict = field(default_factory=dict)

    def __call__(self, searches):
        return [{**search, **{name: made(search) for name, made in self.fields.items()}} for search in searches]


def test_a_hit_has_the_rank_and_score_of_the_search_and_its_words_add_up_to_it(tmp_path):
    pipeline = built([{"bm25": {"k": 3}}], tmp_path)
    hits = pipeline.search(QUERY)["hits"]
    for rank, hit in enumerate(hits, 1):
        explanation = explain(pipeline, QUERY, hit["document"])
        (stage,) = explanation.stages
        assert (stage.rank, stage.score, stage.hits) == (rank, hit["score"], 3)
        assert explanation.verdict == f"{hit['document']} is at rank {rank} of 3"
        assert explanation.missing_at is None
        assert list(stage.retrieved.terms) == ["red", "couch"]
        assert sum(stage.retrieved.terms.values()) == pytest.approx(hit["score"], rel=1e-5)


def test_a_stage_that_was_skipped_says_why():
    class Lost:
        def search(self, *_):
            raise EngineError("index lost")

    found = explain(rewriting.built(rewriting.Rewriter(), {"on_failure": "skip"}), "too long", "d1")
    assert found.stages[0].notes == ("the stage was skipped: does not fit.",)
    assert found.stages[1].notes == ("it contains no word of the query: too, long",)
    with pytest.raises(RequestRefused, match="does not fit"):
        explain(rewriting.built(rewriting.Rewriter()), "too long", "d1")

    pipeline = rewriting.built(rewriting.Rewriter(), bm25={"on_failure": "skip"})
    lost = replace(pipeline, stages=[pipeline.stages[0], RetrieveStage(Lost(), 10, "bm25")])
    found = explain(lost, "kicks", "d1")
    assert found.stages[0].notes == ("the query 'kicks' became 'boots'",)
    assert found.verdict == "d1 is missing since stage 2, bm25: the stage was skipped: index lost."


def test_a_document_behind_the_hits_has_its_rank_and_one_without_a_word_of_the_query_says_so(tmp_path):
    pipeline = built([{"bm25": {"k": 2}}, {"passages": {"k": 1}}], tmp_path)
    order = [hit["document"] for hit in built([{"bm25": {"k": 9}}], tmp_path).search(QUERY)["hits"]]
    behind = explain(pipeline, QUERY, order[3])
    assert (behind.stages[0].rank, behind.stages[0].retrieved.rank, behind.missing_at) == (None, 4, 0)
    assert behind.verdict == f"{order[3]} is missing since stage 1, bm25(k=2): at rank 4, and the first 2 are kept"
    lamp = explain(pipeline, QUERY, "d5")
    assert lamp.stages[0].retrieved.terms == {"red": 0.0, "couch": 0.0}
    assert lamp.verdict.endswith("it contains no word of the query: red, couch")
    second = explain(pipeline, QUERY, order[1])
    assert second.verdict == f"{order[1]} is at rank 2 of 2"
    assert second.stages[1].notes == ("at rank 2; later stages read the first 1 only",)


def test_each_retriever_under_fuse_says_where_it_ranks_the_document(tmp_path):
    inner = {"fuse": {"k": 3, "of": [{"bm25": {"k": 3}}, {"bm25": {"k": 1, "b": 0}}]}}
    pipeline = built([{"fuse": {"k": 2, "of": [{"bm25": {"k": 2}}, inner]}}], tmp_path)
    best = explain(pipeline, QUERY, "d2").stages[0].retrieved
    assert [best.rank, *(part.rank for part in best.parts)] == [1, 1, 1]
    retrieved = explain(pipeline, QUERY, "d4").stages[0].retrieved
    bm25, fused = retrieved.parts
    assert (bm25.retriever, bm25.k, bm25.rank) == ("bm25", 2, 4)
    assert (fused.retriever, [part.k for part in fused.parts]) == ("fuse", [3, 1])
    assert retrieved.rank is None
    kept = "and the first {} are kept"
    assert retrieved.reason == (
        f"bm25 (at rank 4, {kept.format(2)}); fuse (bm25 (at rank 4, {kept.format(3)}); "
        f"bm25 (at rank {fused.parts[1].rank}, {kept.format(1)}))"
    )


def test_a_document_that_fusion_places_behind_k_has_its_rank_there(tmp_path):
    pipeline = built([{"fuse": {"k": 1, "of": [{"bm25": {"k": 4}}, {"bm25": {"k": 4, "b": 0}}]}}], tmp_path)
    whole = built([{"fuse": {"k": 9, "of": [{"bm25": {"k": 4}}, {"bm25": {"k": 4, "b": 0}}]}}], tmp_path)
    order = [hit["document"] for hit in whole.search(QUERY)["hits"]]
    explanation = explain(pipeline, QUERY, order[2])
    assert explanation.stages[0].retrieved.rank == 3
    assert explanation.verdict.endswith("at rank 3, and the first 1 are kept")


def test_a_changed_query_and_a_stage_that_removes_the_document_are_told(tmp_path):
    bm25 = built([{"bm25": {"k": 5}}], tmp_path)
    rewrites = Changes("rewriter@1", {"query": lambda _: "blue lamp"})
    removes = Changes("filter", {"hits": lambda search: search["hits"][1:]})
    pipeline = Pipeline("p", [rewrites, *bm25.stages, removes], (), bm25.documents)
    explanation = explain(pipeline, QUERY, "d5")
    first, second, third = explanation.stages
    assert first.notes == (f"the query '{QUERY}' became 'blue lamp'",)
    assert (first.hits, second.rank, third.rank) == (None, 1, None)
    assert list(second.retrieved.terms) == ["blue", "lamp"]
    assert explanation.verdict == (
        "d5 is missing since stage 3, filter, after rank 1 before it: the stage removed it from rank 1"
    )
    assert explain(Pipeline("p", [rewrites]), QUERY, "x").verdict.startswith("no stage retrieves")


def test_a_hit_of_the_rewritten_query_that_fusion_drops_is_told(tmp_path):
    documents = [Document("a", "alpha alpha"), Document("b", "alpha beta beta"), Document("c", "beta gamma")]
    bm25 = build_pipeline("p", parse_stages([{"bm25": {"k": 2}}], "p"), store=Store(tmp_path), documents=documents)
    queries = {"query": lambda _: "beta", FUSED_QUERIES: lambda search: (search["query"], "beta")}
    pipeline = Pipeline("p", [Changes("rewriter@1", queries), *bm25.stages], (), bm25.documents)
    explanation = explain(pipeline, "alpha", "c")
    looked = explanation.stages[1].retrieved
    assert [(part.retriever, part.rank) for part in looked.parts] == [("'alpha'", None), ("'beta'", 2)]
    assert looked.rank == 3
    assert explanation.verdict.endswith("bm25(k=2): at rank 3, and the first 2 are kept")


def test_a_later_stage_that_retrieves_again_decides(tmp_path):
    first = built([{"bm25": {"k": 5}}, {"bm25": {"k": 1}}], tmp_path)
    explanation = explain(first, QUERY, "d4")
    assert (explanation.stages[0].rank, explanation.missing_at) == (4, 1)
    assert "stage 2, bm25(k=1), after rank 4 before it: at rank 4, and the first 1 are kept" in explanation.verdict


@pytest.mark.parametrize("document", ["d1", "d9"])
def test_hits_of_another_engine_are_taken_as_they_are(tmp_path, document):
    (tmp_path / "run.trec").write_text("1 Q0 d1 1 3.5 x\n1 Q0 d2 2 1.5 x\n")
    pipeline = built([{"from_run": {"run": str(tmp_path / "run.trec")}}], tmp_path)
    pipeline = Pipeline("p", pipeline.stages, pipeline.settings)  # without documents any id can be asked for
    explanation = explain(pipeline, QUERY, document)
    if document == "d1":
        assert (explanation.stages[0].rank, explanation.stages[0].score) == (1, 3.5)
    else:
        assert explanation.verdict.endswith("not among the 2 hits that the stage takes")


@pytest.mark.slow
def test_a_judge_shows_the_grade_that_moved_the_document(tiny_base, tmp_path):
    store, judgment = Store(tmp_path), load_generation_task("judgment")
    task = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    random_adapter(store, "judge", task, tiny_base, tmp_path / "made", seed=1)
    judge = {"adapter": {"name": "judge@1", "continue_after_choice": False}}
    pipeline = built([{"bm25": {"k": 4}}, {"passages": {"k": 3}}, judge], tmp_path)
    found = pipeline.search(QUERY)
    for rank, hit in enumerate(found["hits"], 1):
        explanation = explain(pipeline, QUERY, hit["document"])
        assert explanation.stages[-1].rank == rank
        (grade,) = [{**each} for each in found["grades"] if each["id"] == hit["document"]] or [None]
        shown = explanation.stages[-1].wrote.get("grades")
        assert shown == ({key: value for key, value in grade.items() if key != "id"} if grade else None)
    assert {explain(pipeline, QUERY, hit["document"]).stages[0].rank for hit in found["hits"]} == {1, 2, 3, 4}


@pytest.mark.slow
def test_a_saved_index_explains_as_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": each.id, "text": each.text} for each in DOCUMENTS])
    (tmp_path / "p.yaml").write_text("name: p\nstages: [{bm25: {k: 2}}]\n")
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index", pipelines=[tmp_path / "p.yaml"])
    saved, read = (Pipeline.load(tmp_path / "p.yaml", corpus=tmp_path / name) for name in ("index", "corpus.jsonl"))
    for document in DOCUMENTS:
        assert explain(saved, QUERY, document.id) == explain(read, QUERY, document.id)


@pytest.mark.slow
def test_the_command_prints_it(cli, refused, tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": each.id, "text": each.text} for each in DOCUMENTS])
    (tmp_path / "p.yaml").write_text("name: p\nstages: [{bm25: {k: 2}}, {passages: {k: 1}}]\n")
    command = ("search", tmp_path / "p.yaml", QUERY, "--corpus", tmp_path / "corpus.jsonl")
    called = cli(*command, "--explain", "d4")
    assert called.code == 0, called
    assert "missing" in called.out and "red absent" in called.out
    assert called.out.splitlines()[-1].startswith("d4 is missing since stage 1")
    assert json.loads(cli(*command, "--explain", "d2", "--json").out)["verdict"] == "d2 is at rank 1 of 2"
    assert "there is no document 'd9'" in refused(*command, "--explain", "d9")
