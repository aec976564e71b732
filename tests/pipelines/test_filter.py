"""Filters by what earlier stages wrote: the stage `filter`, and `filter_by` while an index is searched."""

from __future__ import annotations

import json
import weakref

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, PipelineError
from searchlora.outputs import CitedAnswer, Label
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.explain import explain
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.conditions import values_at
from searchlora.pipelines.stages.stage import check_order, needs_of
from searchlora.records import Document, Hit
from searchlora.retrieval import BM25Index, DenseIndex, Encoder
from searchlora.retrieval.field_filter import FieldColumns, FieldTest
from tests.factories import write_jsonl

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


#: 60 jackets of one brand before two of another: a filter of ten hits would keep none of those.
JACKETS = [
    *(Document(f"a{n:02}", "rain jacket jacket", metadata={"brand": "Acme", "price": str(n)}) for n in range(60)),
    Document("n1", "a jacket", metadata={"brand": "North  Way", "price": "5"}),
    Document("n2", "jacket of wool, and socks of wool", metadata={"brand": "north way"}),
    Document("n3", " ", metadata={"brand": "north way"}),
]
BRAND = {"brand": "intent.brand"}
NORTH = {"id": "q", "query": "jacket", "intent": {"brand": "NORTH way"}}


def built(tmp_path, *stages, documents=JACKETS):
    return build_pipeline("p", parse_stages(stages, "here"), store=Store(tmp_path), documents=documents)


def ids(pipeline, search):
    (found,) = pipeline.execute([search])
    return [hit.document for hit in found["hits"]]


@pytest.fixture
def retrievers(encoder_base):
    model = str(encoder_base.path)
    dense = {"dense": {"model": model, "k": 10}}
    return {
        "bm25": {"bm25": {"k": 10}},
        "dense": dense,
        "hnsw": {"dense": {"model": model, "k": 10, "index": "hnsw", "hnsw_m": 4}},
        "fuse": {"fuse": {"k": 10, "of": [{"bm25": {"k": 10}}, dense]}},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bm25", "dense", "hnsw", "fuse"])
def test_a_filter_searches_the_documents_that_match(tmp_path, retrievers, kind):
    (name, settings), *_ = retrievers[kind].items()
    unfiltered = built(tmp_path, retrievers[kind])
    filtered = built(tmp_path, {name: {**settings, "filter_by": BRAND}})
    if kind == "bm25":  # which vector is nearest is up to a random encoder
        assert {document[0] for document in ids(unfiltered, NORTH)} == {"a"}
    assert sorted(ids(filtered, NORTH)) == ["n1", "n2"]  # and not n3, which has no text
    assert "filter_by=brand:intent.brand" in filtered.labels[0]
    for nothing in ({}, {"intent": {"brand": None}}):
        search = {"id": "q", "query": "jacket", **nothing}
        assert filtered.execute([search])[0]["hits"] == unfiltered.execute([search])[0]["hits"]
    assert ids(filtered, {**NORTH, "intent": {"brand": "other"}}) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hnsw", "fuse"])  # of bm25 and dense
def test_an_index_folder_is_filtered_as_an_index_in_memory(tmp_path, retrievers, kind):
    rows = [{"id": each.id, "text": each.text, **each.metadata} for each in JACKETS]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    ((name, settings),) = retrievers[kind].items()
    file = tmp_path / "mine.yaml"
    # The index is built for the pipeline without a filter: a filter needs no other index.
    file.write_text(json.dumps({"name": "mine", "stages": [retrievers[kind]]}))
    build_index(corpus, tmp_path / "index", pipelines=[file])
    file.write_text(json.dumps({"name": "mine", "stages": [{name: {**settings, "filter_by": BRAND}}]}))
    loaded = Pipeline.load(file, corpus=tmp_path / "index")
    memory = built(tmp_path, {name: {**settings, "filter_by": BRAND}})
    searches = [NORTH, {"id": "2", "query": "wool jacket", "intent": {"brand": ["acme", "north way"]}}]
    assert loaded.execute(searches) == memory.execute(searches)


@pytest.mark.parametrize("kind", [BM25Index, DenseIndex])
def test_one_filter_at_a_time_is_in_memory_and_equal_ones_are_evaluated_once(encoder_base, monkeypatch, kind):
    more = [Encoder.load(str(encoder_base.path))] if kind is DenseIndex else []
    index = kind(JACKETS, *more).filterable(FieldColumns(JACKETS, BRAND))
    evaluated, alive = [], []
    rows = FieldColumns.rows

    def counted(columns, filter):
        evaluated.append(filter)
        found = rows(columns, filter)
        alive.append(weakref.ref(found))
        assert sum(each() is not None for each in alive) <= 2  # this one and the one before
        return found

    monkeypatch.setattr(FieldColumns, "rows", counted)
    acme, north = ({"brand": FieldTest((("equals", frozenset({value})),))} for value in ("acme", "north way"))
    filters = [acme, dict(acme), north, {}, acme, north]
    found = index.search(["jacket"] * 6, 99, filters=filters)
    assert [len(hits) for hits in found] == [60, 60, 2, 62, 60, 2]
    assert evaluated == [acme, north, acme, north]


def test_both_queries_of_a_fused_rewrite_are_filtered(tmp_path):
    pipeline = built(tmp_path, {"bm25": {"k": 3, "filter_by": BRAND}})
    (found,) = pipeline.execute([{**NORTH, "query": "jacket", "fused_queries": ("socks", "jacket")}])
    assert [hit.document for hit in found["hits"]] == ["n2", "n1"]


def test_trace_and_explanation_tell_the_filter(tmp_path):
    pipeline = built(tmp_path, {"fuse": {"k": 3, "of": [{"bm25": {"k": 5}}], "filter_by": BRAND}})
    rows = []
    pipeline.execute([NORTH], trace=rows.append)
    assert rows[0]["input"] == {"query": "jacket", "intent.brand": ["north way"]}
    fields = {"intent": NORTH["intent"]}
    verdict = explain(pipeline, "jacket", "a07", **fields).verdict
    assert verdict.endswith("it was not searched: its brand does not fulfil equals north way")
    assert explain(pipeline, "jacket", "n1", **fields).verdict == "n1 is at rank 1 of 2"
    matched = built(tmp_path, {"bm25": {"k": 99}}, {"filter": {"filter": BRAND}})
    assert "removed it from rank" in explain(matched, "jacket", "a07", **fields).verdict
    assert explain(matched, "jacket", "a07", **fields).verdict.endswith(": its brand does not fulfil equals north way")


MILVUS = {"engine": "milvus", "url": "x.db", "index": "x", "filter_by": {"price": {"max": "intent.price"}}}


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"bm25": {"filter_by": {"brand": {"colour": "x"}}}}, "the field 'brand' needs a path, or one of equals"),
        ({"fuse": {"of": [{"bm25": {"filter_by": BRAND}}]}}, "'filter_by' is a key of the fusion, not of its parts"),
        (
            {"http": {"url": "http://localhost:1/x", "engine": "solr", "filter_by": BRAND}},
            "a query by http takes no 'filter_by'; use a stage 'filter'",
        ),
        ({"text_search": MILVUS}, "a search engine compares 'price' by 'equals' only"),
    ],
)
def test_what_cannot_be_filtered_is_refused(stage, says):
    with pytest.raises(PipelineError, match=says):
        parse_stages([stage], "here")


def test_a_field_that_no_document_has_is_refused(tmp_path):
    with pytest.raises(DataError, match="no document has the field 'maker', by which a stage filters"):
        built(tmp_path, {"bm25": {"filter_by": {"maker": "intent.brand"}}})


def test_each_value_is_tested_once(monkeypatch):
    tested = []
    test = FieldTest((("equals", frozenset({"acme"})),))
    monkeypatch.setattr(FieldTest, "__call__", lambda _, text: tested.append(text) or text == "Acme")
    assert FieldColumns(JACKETS, ["brand"]).rows({"brand": test}).sum() == 60
    assert tested == ["Acme", "North  Way", "north way"]
    assert test.equals == {"acme"} and FieldTest((("min", frozenset({"5"})),)).equals is None
    assert not FieldTest((("min", frozenset({"cheap"})),))


def test_paths_may_be_parameters():
    stage = {"bm25": {"filter_by": {"brand": "$path", "price": {"max": "$path"}}}}
    (settings,) = parse_stages([stage], "here", {"path": "intent.x"})
    assert {field: condition.paths for field, condition in settings.filter_by.items()} == {
        "brand": {"equals": "intent.x"},
        "price": {"max": "intent.x"},
    }
    with pytest.raises(PipelineError, match=r"filter_by: 'brand' refers to the parameter '\$path'"):
        parse_stages([stage], "here")
    again = type(settings).model_validate(settings.model_dump())
    assert again == settings and "filter_by" in settings.identity()
