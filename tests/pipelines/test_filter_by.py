"""Filters by what earlier stages wrote, applied while an index is searched."""

from __future__ import annotations

import json
import weakref

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.explain import explain
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.records import Document
from searchlora.retrieval import BM25Index, DenseIndex, Encoder
from searchlora.retrieval.field_filter import FieldColumns, FieldTest

#: 60 jackets of one brand before two of another: a filter of ten hits would keep none of those.
DOCUMENTS = [
    *(Document(f"a{n:02}", "rain jacket jacket", metadata={"brand": "Acme", "price": str(n)}) for n in range(60)),
    Document("n1", "a jacket", metadata={"brand": "North  Way", "price": "5"}),
    Document("n2", "jacket of wool, and socks of wool", metadata={"brand": "north way"}),
    Document("n3", " ", metadata={"brand": "north way"}),
]
BRAND = {"brand": "intent.brand"}
NORTH = {"id": "q", "query": "jacket", "intent": {"brand": "NORTH way"}}


def built(tmp_path, *stages, documents=DOCUMENTS):
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
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": each.id, "text": each.text, **each.metadata} for each in DOCUMENTS]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((name, settings),) = retrievers[kind].items()
    file = tmp_path / "mine.yaml"
    # The index is built for the pipeline without a filter: a filter needs no other index.
    file.write_text(json.dumps({"name": "mine", "stages": [retrievers[kind]]}))
    build_index(corpus, tmp_path / "index", pipelines=[file])
    file.write_text(json.dumps({"name": "mine", "stages": [{name: {**settings, "filter_by": BRAND}}]}))
    loaded = Pipeline.load(file, corpus=tmp_path / "index")
    memory = built(tmp_path, {name: {**settings, "filter_by": BRAND}})
    searches = [NORTH, {"id": "2", "query": "wool jacket", "intent": {"brand": ["acme", "north way"]}}]
    assert [found["hits"] for found in loaded.execute(searches)] == [
        found["hits"] for found in memory.execute(searches)
    ]


@pytest.mark.parametrize("kind", [BM25Index, DenseIndex])
def test_one_filter_at_a_time_is_in_memory_and_equal_ones_are_evaluated_once(encoder_base, monkeypatch, kind):
    more = [Encoder.load(str(encoder_base.path))] if kind is DenseIndex else []
    index = kind(DOCUMENTS, *more).filterable(FieldColumns(DOCUMENTS, BRAND))
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
    assert explain(pipeline, "jacket", "a07", **fields).verdict == (
        f"a07 is missing since stage 1, {pipeline.labels[0]}: it was not searched: its brand does not fulfil"
        " equals north way"
    )
    assert explain(pipeline, "jacket", "n1", **fields).verdict == "n1 is at rank 1 of 2"
    matched = built(tmp_path, {"bm25": {"k": 99}}, {"filter": {"filter": BRAND}})
    assert "removed it from rank" in explain(matched, "jacket", "a07", **fields).verdict
    assert explain(matched, "jacket", "a07", **fields).verdict.endswith(": its brand does not fulfil equals north way")


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"bm25": {"filter_by": {"brand": {"colour": "x"}}}}, "the field 'brand' needs a path, or one of equals"),
        ({"fuse": {"of": [{"bm25": {"filter_by": BRAND}}]}}, "'filter_by' is a key of the fusion, not of its parts"),
        (
            {"http": {"url": "http://localhost:1/x", "engine": "solr", "filter_by": BRAND}},
            "a query by http takes no 'filter_by'; use a stage 'filter'",
        ),
        (
            {
                "text_search": {
                    "engine": "milvus",
                    "url": "x.db",
                    "index": "x",
                    "filter_by": {"price": {"max": "intent.price"}},
                }
            },
            "a search engine compares 'price' by 'equals' only",
        ),
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
    assert FieldColumns(DOCUMENTS, ["brand"]).rows({"brand": test}).sum() == 60
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
