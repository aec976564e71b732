"""The stage `filter`: what an intent stage wrote filters hits and raises their scores."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.outputs import CitedAnswer, Label
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.conditions import values_at
from searchlora.pipelines.stages.stage import check_order, needs_of
from searchlora.records import Document, Hit
from searchlora.retrieval.bm25 import BM25Index

DOCUMENTS = [
    Document("d1", "rain jacket", metadata={"brand": "Nordvik", "category": "jackets"}),
    Document("d2", "rain jacket rain", metadata={"brand": "Acme", "category": "jackets"}),
    Document("d3", "rain boots", metadata={"brand": "NORDVIK", "category": "boots"}),
    Document("d4", "rain hat"),
]


def matched(tmp_path, settings, **fields):
    stages = parse_stages([{"bm25": {}}, {"filter": settings}], "here")
    pipeline = build_pipeline("p", stages, store=Store(tmp_path), documents=DOCUMENTS)
    (found,) = pipeline.execute([{"id": "q", "query": "rain jacket", **fields}])
    return {hit.document: hit.score for hit in found["hits"]}, pipeline


def plain():
    (hits,) = BM25Index(DOCUMENTS).search(["rain jacket"], 10)
    return {hit.document: hit.score for hit in hits}


def test_a_filter_keeps_the_hits_whose_field_has_the_value(tmp_path):
    expected = plain()
    found, pipeline = matched(tmp_path, {"filter": {"brand": "intent.brand"}}, intent={"brand": "nordvik"})
    assert found == {document: expected[document] for document in ("d1", "d3")}
    assert pipeline.labels[1] == "filter(filter=brand:intent.brand)"
    both = {"filter": {"brand": "intent.brand", "category": "intent.category"}}
    found, _ = matched(tmp_path, both, intent={"brand": "Nordvik", "category": ["jackets", "hats"]})
    assert list(found) == ["d1"]


def test_labels_filter_as_attributes_do(tmp_path):
    found, _ = matched(tmp_path, {"filter": {"category": "intent"}}, intent=Label("boots"))
    assert list(found) == ["d3"]
    found, _ = matched(tmp_path, {"filter": {"category": "intent"}}, intent=["boots", "jackets"])
    assert set(found) == {"d1", "d2", "d3"}


@pytest.mark.parametrize("intent", [{}, {"brand": None}, {"brand": []}, {"brand": " "}])
def test_without_a_value_nothing_is_filtered(tmp_path, intent):
    assert matched(tmp_path, {"filter": {"brand": "intent.brand"}}, intent=intent)[0] == plain()
    assert matched(tmp_path, {"filter": {"brand": "other"}})[0] == plain()


def test_a_boost_raises_the_scores_of_matches(tmp_path):
    expected = plain()
    settings = {"boost": {"brand": "intent.brand", "category": "intent.category"}, "factor": 3, "k": 3}
    found, pipeline = matched(tmp_path, settings, intent={"brand": "Nordvik", "category": "boots"})
    raised = {"d3": 9 * expected["d3"], "d1": 3 * expected["d1"], "d2": expected["d2"]}
    assert found == pytest.approx(raised)
    assert list(found) == sorted(raised, key=raised.__getitem__, reverse=True)
    assert pipeline.labels[1] == "filter(boost=brand:intent.brand^3,boost=category:intent.category^3,k=3)"


def test_a_boost_raises_a_negative_score(tmp_path):
    (stage,) = parse_stages([{"filter": {"boost": {"brand": "intent"}}}], "here")
    pipeline = build_pipeline("p", [stage], store=Store(tmp_path), documents=DOCUMENTS)
    hits = [Hit("d2", -0.5), Hit("d1", -0.8)]
    (found,) = Pipeline("p", pipeline.stages).execute([{"id": "q", "query": "x", "intent": "acme", "hits": hits}])
    assert found["hits"] == [Hit("d2", 0.0), Hit("d1", -0.8)]


SHOP = [
    Document("d1", "rain jacket", metadata={"price": "49.90", "kinds": "Rain Wear", "sku": "NV-12"}),
    Document("d2", "rain jacket", metadata={"price": "120", "kinds": "Snow Rainwear", "sku": "AC-1"}),
    Document("d3", "rain jacket", metadata={"price": "on request", "kinds": "Rain, wear", "sku": "nv-3"}),
]


@pytest.mark.parametrize(
    ("comparison", "intent", "expected"),
    [
        ({"price": {"max": "intent.price"}}, {"price": 50}, {"d1"}),
        ({"price": {"min": "intent.price"}}, {"price": "49.9"}, {"d1", "d2"}),
        ({"price": {"min": "intent.low", "max": "intent.high"}}, {"low": 50, "high": 200}, {"d2"}),
        ({"price": {"min": "intent.low", "max": "intent.high"}}, {"high": 50}, {"d1"}),
        ({"price": {"max": "intent.price"}}, {"price": "cheap"}, {"d1", "d2", "d3"}),
        ({"price": {"max": "intent.price"}}, {"price": [10, 60]}, {"d1"}),
        ({"kinds": {"contains": "intent.kind"}}, {"kind": "RAIN wear"}, {"d1", "d3"}),
        ({"kinds": {"contains": "intent.kind"}}, {"kind": ["snow", "x"]}, {"d2"}),
        ({"sku": {"prefix": "intent.sku"}}, {"sku": "NV"}, {"d1", "d3"}),
        ({"sku": {"equals": "intent.sku"}}, {"sku": "nv-12"}, {"d1"}),
    ],
)
def test_other_comparisons_filter_as_equality_does(tmp_path, comparison, intent, expected):
    stages = parse_stages([{"bm25": {}}, {"filter": {"filter": comparison}}], "here")
    pipeline = build_pipeline("p", stages, store=Store(tmp_path), documents=SHOP)
    (found,) = pipeline.execute([{"id": "q", "query": "rain jacket", "intent": intent}])
    assert {hit.document for hit in found["hits"]} == expected


def test_a_comparison_boosts_and_is_named_in_label_and_trace(tmp_path):
    settings = {"boost": {"price": {"max": "intent.price"}}, "factor": 3}
    stages = parse_stages([{"bm25": {}}, {"filter": settings}], "here")
    pipeline = build_pipeline("p", stages, store=Store(tmp_path), documents=SHOP)
    rows = []
    (found,) = pipeline.execute([{"id": "q", "query": "rain", "intent": {"price": 130}}], trace=rows.append)
    scores = {hit.document: hit.score for hit in found["hits"]}
    assert scores["d1"] == scores["d2"] == pytest.approx(3 * scores["d3"])
    assert pipeline.labels[1] == "filter(boost=price.max:intent.price^3)"
    assert rows[1]["input"] == {"intent.price": ["130"]}


def test_it_needs_hits_documents_and_something_to_match(tmp_path):
    filtered = {"filter": {"filter": {"brand": "intent"}}}
    with pytest.raises(PipelineError, match="stage 1, filter: no stage before it produces hits"):
        check_order(parse_stages([filtered], "here"), "here")
    with pytest.raises(PipelineError, match="'filter' or 'boost' is needed"):
        parse_stages([{"filter": {}}], "here")
    assert needs_of(parse_stages([{"from_run": {}}, filtered], "here")).corpus
    with pytest.raises(PipelineError, match="'d9' is not in the corpus"):
        built = build_pipeline(
            "p", parse_stages([{"from_run": {}}, filtered], "h"), store=Store(tmp_path), documents=[]
        )
        built.execute([{"id": "q", "query": "x", "hits": ["d9"], "intent": "acme"}])


def test_a_path_reads_fields_and_no_methods():
    assert values_at({"intent": "tents"}, "intent.title") == frozenset()
    assert values_at({"answer": CitedAnswer("red", (), abstained=False)}, "answer.text") == {"red"}
