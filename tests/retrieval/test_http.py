"""Retrieval by another search engine, against a real HTTP server that answers in the engines' published forms."""

from __future__ import annotations

import base64
import json

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PipelineError, UsageError
from searchlora.experiments.run import run
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.records import Document, Hit
from searchlora.retrieval.http import HttpRetriever, ResponsePaths
from tests.inference.http_server import Reply, answering

PRODUCTS = {"p1": ("Red couch", "for two"), "p2": ("Green tent", "for four"), "p3": ("Blue tent", "with pegs")}


def matching(query):
    """Product ids by the number of common words, best first."""
    words = set(query.lower().split())
    scores = {key: len(words & set(" ".join(texts).lower().split())) for key, texts in PRODUCTS.items()}
    return sorted(((score, key) for key, score in scores.items() if score), key=lambda pair: (-pair[0], pair[1]))


def opensearch(asked):
    """`POST /products/_search`, as OpenSearch and Elasticsearch answer it."""
    hits = []
    for score, key in matching(asked.body["query"]["multi_match"]["query"])[: asked.body["size"]]:
        source = dict(zip(("title", "text"), PRODUCTS[key], strict=True))
        hits.append({"_index": "products", "_id": key, "_score": float(score), "_source": source})
    total = {"value": len(hits), "relation": "eq"}
    return Reply({"took": 2, "timed_out": False, "_shards": {"total": 1}, "hits": {"total": total, "hits": hits}})


def solr(asked):
    """`POST /solr/products/select`, as Solr answers it: fields of one value or of a list."""
    found = matching(asked.body["query"])[: asked.body["limit"]]
    docs = [
        {"id": key, "title": [PRODUCTS[key][0]], "text": [PRODUCTS[key][1], "in stock"], "score": float(score)}
        for score, key in found
    ]
    header = {"status": 0, "QTime": 1}
    return Reply({"responseHeader": header, "response": {"numFound": len(docs), "start": 0, "docs": docs}})


def stages(*settings):
    return parse_stages(settings, "here")


def built(tmp_path, *settings, documents=()):
    return build_pipeline("p", stages(*settings), store=Store(tmp_path / "store"), documents=documents)


@pytest.mark.parametrize(
    ("engine", "answer", "path", "text"),
    [
        ("opensearch", opensearch, "/products/_search", "for four"),
        ("elasticsearch", opensearch, "/products/_search", "for four"),
        ("solr", solr, "/solr/products/select", "for four in stock"),
    ],
)
def test_hits_and_texts_come_from_the_engine(tmp_path, engine, answer, path, text):
    with answering(answer) as server:
        http = {"url": server.url + path, "engine": engine, "k": 2}
        pipeline = built(tmp_path, {"http": http}, {"passages": {"k": 5}})
        found = pipeline.search("green tent")
        assert [(hit["document"], hit["score"], hit["title"]) for hit in found["hits"]] == [
            ("p2", 2.0, "Green tent"),
            ("p3", 1.0, "Blue tent"),
        ]
        (executed,) = pipeline.execute([{"id": "1", "query": "green tent"}])
        assert executed["passages"][0] == {"id": "p2", "title": "Green tent", "text": text, "score": 2.0}
        assert pipeline.execute([{"id": "1", "query": "sofa"}])[0]["hits"] == []
        assert {asked.path for asked in server.asked} == {path}
    assert pipeline.tag == f"p_http({path.strip('/')},k=2)_passages(5)"


def test_a_query_is_a_value_and_never_syntax(tmp_path):
    odd = 'tent", "size": 9 {k} {query} \\ größe'
    with answering(opensearch) as server:
        built(tmp_path, {"http": {"url": f"{server.url}/a/_search", "engine": "opensearch", "k": 3}}).search(odd)
        assert server.asked[0].body == {"query": {"multi_match": {"query": odd}}, "size": 3}


def test_a_body_and_paths_of_ones_own(tmp_path):
    def answer(asked):
        rows = [{"sku": 7, "names": {"de": "Zelt"}, "a": "x", "b": ["y", "z"]}, {"sku": 9}, {"sku": 7}]
        assert asked.body == {"text": "q: tent", "options": {"rows": 5, "fuzzy": True}}
        return Reply({"results": {"list": rows}})

    paths = {"hits": "results.list", "id": "sku", "title": "names.de", "text": ["a", "b"]}
    settings = {"body": {"text": "q: {query}", "options": {"rows": "{k}", "fuzzy": True}}, **paths, "k": 5}
    with answering(answer) as server:
        pipeline = built(tmp_path, {"http": {"url": f"{server.url}/find", **settings}})
        (executed,) = pipeline.execute([{"id": "1", "query": "tent"}])
    assert executed["hits"] == [Hit("7", 3.0), Hit("9", 2.0)]
    assert executed["hits"][0].fetched == Document("7", "x y z", "Zelt")
    assert executed["hits"][1].fetched is None


def test_fusion_keeps_the_texts(tmp_path):
    documents = [Document("p1", "red couch"), Document("p9", "a tent of ours")]
    with answering(opensearch) as server:
        http = {"http": {"url": f"{server.url}/products/_search", "engine": "opensearch"}}
        pipeline = built(tmp_path, {"fuse": {"of": [http, {"bm25": {}}]}}, {"passages": {"k": 9}}, documents=documents)
        (executed,) = pipeline.execute([{"id": "1", "query": "tent"}])
    texts = {passage["id"]: passage["text"] for passage in executed["passages"]}
    assert texts == {"p2": "for four", "p3": "with pegs", "p9": "a tent of ours"}


def test_an_address_with_a_query_string_is_refused(tmp_path):
    with pytest.raises(EngineError, match="has a query string"):
        built(tmp_path, {"http": {"url": "http://h/s?q=1", "engine": "solr"}})


def test_many_queries_are_asked_at_once_and_answered_in_order():
    with answering(opensearch) as server:
        retriever = HttpRetriever(
            f"{server.url}/products/_search",
            {"query": {"multi_match": {"query": "{query}"}}, "size": "{k}"},
            ResponsePaths("hits.hits", "_id", "_score"),
            concurrency=4,
        )
        queries = ["couch", "green", "blue", "nothing"] * 10
        found = retriever.search(queries, 1)
        with pytest.raises(UsageError, match="0 hits"):
            retriever.search(queries, 0)
    assert [[hit.document for hit in hits] for hits in found] == [["p1"], ["p2"], ["p3"], []] * 10


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("bearer", "Bearer user:secret"),
        ("apikey", "ApiKey user:secret"),
        ("basic", "Basic " + base64.b64encode(b"user:secret").decode()),
    ],
)
def test_the_key_is_sent_as_the_engine_expects(tmp_path, monkeypatch, auth, header):
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "SEARCH_KEY")
    with answering(opensearch) as server:
        http = {"url": f"{server.url}/p/_search", "engine": "opensearch", "api_key_env": "SEARCH_KEY", "auth": auth}
        with pytest.raises(PipelineError, match="SEARCH_KEY with the server's key is not set"):
            built(tmp_path, {"http": http})
        monkeypatch.setenv("SEARCH_KEY", "user:secret")
        built(tmp_path, {"http": http}).search("tent")
        assert server.asked[0].headers["Authorization"] == header
        monkeypatch.delenv("SEARCHLORA_API_KEY_VARIABLES")
        with pytest.raises(PipelineError, match="may not send the environment variable SEARCH_KEY"):
            stages({"fuse": {"of": [{"http": http}]}})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"error": "no such index"}, "no such index"),
        ({"hits": {"hits": {}}}, r"has no list at 'hits\.hits'"),
        ([], r"has no list at 'hits\.hits'"),
        ({"hits": {"hits": [{"_score": 1.0}]}}, "a hit without an id at '_id'"),
        ({"hits": {"hits": ["p1"]}}, "a hit without an id at '_id'"),
        ({"hits": {"hits": [{"_id": "p1", "_score": "high"}]}}, "a score that is not a number at '_score'"),
        (b"<html>", "does not answer with JSON"),
    ],
)
def test_an_unexpected_answer_names_the_address_and_the_path(tmp_path, content, says):
    with answering(lambda _: Reply(content)) as server:
        url = f"{server.url}/products/_search"
        with pytest.raises(EngineError, match=f"{url}: .*{says}"):
            built(tmp_path, {"http": {"url": url, "engine": "opensearch"}}).search("tent")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://h/s"}, "'body' is needed, or an 'engine'"),
        ({"url": "http://h/s", "body": {}, "hits": "a"}, "'id' is needed, or an 'engine'"),
        ({"url": "http://h/s", "engine": "lucene"}, "'engine'"),
        ({"url": "http://h/s", "engine": "solr", "auth": "digest"}, "'auth'"),
        ({"url": "http://h/s", "engine": "solr", "api_key_env": "a b"}, "'api_key_env'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, says):
    with pytest.raises(PipelineError, match=f"here, stage 1: .*{says}"):
        stages({"http": settings})


def test_a_pipeline_over_an_engine_needs_no_corpus(tmp_path):
    (tmp_path / "queries.tsv").write_text("id\tquery\nq1\tgreen tent\n")
    with answering(opensearch) as server:
        (tmp_path / "shop.yaml").write_text(
            f"name: shop\nstages:\n  - http: {{url: '{server.url}/products/_search', engine: opensearch}}\n"
            "  - passages: {k: 1}\n"
        )
        run(tmp_path / "shop.yaml", tmp_path / "queries.tsv", out=tmp_path / "o.jsonl", store=tmp_path / "store")
        assert Pipeline.load(tmp_path / "shop.yaml").search("couch")["hits"][0]["document"] == "p1"
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert row["hits"][0] == {"rank": 1, "document": "p2", "score": 2.0, "title": "Green tent"}
