"""The stage `from_run`: hits of another engine, from a TREC run or from the query rows."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, PipelineError
from searchlora.eval.judgments.card import RunCard, read_run_card, write_run_card
from searchlora.eval.judgments.lineage import read_lineage
from searchlora.eval.trec import read_run, write_run
from searchlora.experiments.run import run
from searchlora.pipelines.config import parse_stages, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.from_run import supplied_hits
from searchlora.records import Document, Hit
from tests.factories import write_jsonl

DOCUMENTS = [Document("d1", "waterproof boots", "Boots"), Document("d2", "a green tent"), Document("d3", "tent pegs")]
ENGINE_RUN = {"q1": {"d3": 9.0, "d1": 7.5, "d2": 7.5}, "q2": {"d2": 1.0}}


@pytest.fixture
def engine_run(tmp_path):
    write_run(tmp_path / "engine.trec", ENGINE_RUN, "engine")
    return tmp_path / "engine.trec"


@pytest.fixture
def files(tmp_path):
    """Queries, corpus, and a pipeline that fetches passages of the engine's hits."""
    (tmp_path / "queries.tsv").write_text("id\tquery\nq1\ttent\nq2\tgreen\nq3\tboots\n")
    rows = [{"id": each.id, "title": each.title, "text": each.text} for each in DOCUMENTS]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    (tmp_path / "take.yaml").write_text(
        "name: take\nparameters: {run: engine.trec}\nstages:\n  - from_run: {run: $run, k: 2}\n  - passages: {k: 1}\n"
    )
    return tmp_path


def executed(tmp_path, settings, *searches):
    stages = parse_stages([{"from_run": settings}], "here")
    return build_pipeline("p", stages, store=Store(tmp_path / "store"), documents=[]).execute(searches)


def taken(files, run_file, *out):
    """Execute the pipeline on the hits of a run."""
    paths = [files / name for name in out]
    overrides = [f"run={run_file}"]
    return run(read_pipeline(files / "take.yaml", overrides), files / "queries.tsv", files / "corpus.jsonl", paths)


def test_hits_of_a_query_row_are_ids_or_have_scores(tmp_path):
    scored = [{"document": "a", "score": 1}, {"document": "b", "score": 2.5}]
    by_id, by_score = executed(
        tmp_path, {"k": 5}, {"id": "1", "query": "x", "hits": ["a", "b"]}, {"id": "2", "query": "x", "hits": scored}
    )
    assert by_id["hits"] == [Hit("a", 2.0), Hit("b", 1.0)]
    assert by_score["hits"] == [Hit("b", 2.5), Hit("a", 1.0)]


@pytest.mark.parametrize(
    ("hits", "says"),
    [
        (None, "has no list 'hits'"),
        ("d1", "has no list 'hits'"),
        ([{"document": "d1"}], "not a hit"),
        ([{"document": "d1", "score": "high"}], "not a hit"),
        (["d1", {"document": "d2", "score": 1}], "not a hit"),
        ([{"document": 3, "score": 1}], "not text"),
        ([{"document": "d1", "score": float("nan")}], "not finite"),
        ([{"document": "d1", "score": 10**400}], "not a hit"),
        (["d1", "d1"], "names a document twice"),
        ([{"document": "d1", "score": 1}, {"document": "d1", "score": 2}], "names a document twice"),
    ],
)
def test_malformed_hits_are_refused_with_the_query(hits, says):
    with pytest.raises(PipelineError, match=rf"query q7: .*{says}"):
        supplied_hits({"id": "q7", "query": "x", "hits": hits})


def test_run_executes_on_the_hits_of_an_engine(files, engine_run):
    tag, count = taken(files, engine_run, "out.trec", "out.jsonl")
    assert (tag, count) == ("take_from_run(engine.trec,k=2)_passages(1)", 3)
    assert read_run(files / "out.trec") == {"q1": {"d3": 9.0, "d2": 7.5}, "q2": {"d2": 1.0}}
    first, second, third = map(json.loads, (files / "out.jsonl").read_text().splitlines())
    assert first["hits"][0] == {"rank": 1, "document": "d3", "score": 9.0}
    assert second["passages"] == [{"id": "d2", "title": "", "score": 1.0}]
    assert third["hits"] == third["passages"] == []


def test_the_card_of_the_engines_run_is_inherited(files, engine_run):
    def lineage(name):
        taken(files, engine_run, name)
        return read_run_card(files / name), read_lineage(files / name)

    card, unknown = lineage("first.trec")
    assert card.unknown_sources == ("engine.trec",)
    assert unknown is None
    write_run_card(engine_run, RunCard("engine", "2026-07-01", ("judge@2",), ("judge@2", "old@1"), ("base",)))
    card, known = lineage("second.trec")
    assert (card.adapters, card.bases, card.unknown_sources) == (("judge@2",), ("base",), ())
    assert known.references == ("judge@2", "old@1")


def test_a_hit_that_is_not_in_the_corpus_names_query_and_document(files, engine_run):
    write_run(engine_run, {"q2": {"d9": 1.0}}, "engine")
    with pytest.raises(PipelineError, match=r"query q2: the document 'd9' is not in the corpus"):
        taken(files, engine_run, "o.trec")
    assert not (files / "o.trec").exists()


def test_a_missing_run_is_named(files):
    with pytest.raises(DataError, match=r"nowhere\.trec"):
        Pipeline.load(files / "take.yaml", corpus=DOCUMENTS, overrides=[f"run={files / 'nowhere.trec'}"])
