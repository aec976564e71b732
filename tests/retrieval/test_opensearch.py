"""OpenSearch: requests and answers, against a real HTTP server that answers in their published forms.

A live server is tested by `tests/contract/test_retriever.py`, where OPENSEARCH_URL names one.
"""

from __future__ import annotations

import base64

import numpy as np
import pytest

from searchlora.errors import DataError, EngineError, UsageError
from searchlora.records import Document
from searchlora.retrieval.engine_index import TextKeys, load_index, open_index
from searchlora.retrieval.opensearch import OpenSearch
from searchlora.retrieval.search_engine import Entry, Layout, OpenIndex, TextSearch
from tests.inference.http_server import Reply, answering
from tests.retrieval.opensearch_server import Cluster, json_of

PRODUCTS = [
    Document("p1", "for two", "Red couch", {"brand": "Acme", "size.eu": "L"}),
    Document("p2", "for four", "Green tent", {"brand": "Northway"}),
    Document("p3", "with pegs", "Green tent", {"brand": "Acme"}),
    Document("blank", " "),
]
KEYS = TextKeys(fields=("title", "text"), analyzer="standard")
VECTORS = {"p1": [1.0, 0.0], "p2": [-0.6, 0.8], "p3": [0.0, -1.0]}


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def server(cluster):
    with answering(cluster) as answered:
        yield answered


def load(server, documents=PRODUCTS, **more):
    engine = OpenSearch(server.url, **more)
    return engine, load_index(engine, "products", lambda: documents, text=KEYS)


def asked_of(server, ending):
    return [asked for asked in server.asked if asked.path.partition("?")[0].endswith(ending)]


def test_full_text_of_a_loaded_index(server):
    engine, loaded = load(server)
    search = TextSearch(open_index(engine, "products", text=KEYS), boosts={"title": 3, "text": 0.5})
    (hits, nothing) = search.search(["green four", "zebra"], 2)
    assert [(hit.document, hit.score) for hit in hits] == [("p2", 3.5), ("p3", 3.0)] and nothing == []
    assert hits[0].fetched == PRODUCTS[1]
    (request,) = [each for each in asked_of(server, "_search") if "zebra" not in str(each.body)]
    options = "allow_partial_search_results=false&search_type=dfs_query_then_fetch"
    assert request.path == f"/{loaded.generation}/_search?{options}"
    match = {"query": "green four", "fields": ["field_0^3", "field_1^0.5"], "type": "most_fields"}
    assert request.body == {
        "query": {"bool": {"must": [{"multi_match": match}], "filter": []}},
        "size": 2,
        "sort": [{"_score": "desc"}, {"id": "desc"}],
        "_source": ["title", "text", "metadata"],
        "track_total_hits": False,
    }


def test_filters(server):
    engine, _ = load(server)
    index = open_index(engine, "products", filters=["brand", "size.eu"])
    found = TextSearch(index, filter={"brand": ["ACME", "nobody"], "size.eu": "l"}).search(["couch tent"], 9)[0]
    assert [hit.document for hit in found] == ["p1"]
    assert asked_of(server, "_search")[-1].body["query"]["bool"]["filter"] == [
        {"terms": {"facets": ["brand\tacme", "brand\tnobody"]}},
        {"terms": {"facets": ["size.eu\tl"]}},
    ]


def test_the_index_that_is_created(server, cluster):
    _, loaded = load(server)
    created = cluster.indexes[loaded.generation]
    properties = created["mappings"]["properties"]
    assert properties["field_0"] == {"type": "text", "analyzer": "standard"}
    assert properties["title"] == {"type": "text", "index": False} and properties["id"] == {"type": "keyword"}
    assert "vector" not in properties and created["settings"] == {}
    texts = {"title": "Red couch", "text": "for two", "field_0": "Red couch", "field_1": "for two"}
    fields = {"metadata": {"brand": "Acme", "size.eu": "L"}, "facets": ["brand\tacme", "size.eu\tl"]}
    assert cluster.documents[loaded.generation]["p1"] == {"id": "p1", **texts, **fields}
    assert cluster.aliases == {"products": loaded.generation}


@pytest.mark.parametrize("graph", [False, True])
def test_vectors(server, cluster, graph):
    engine, layout = OpenSearch(server.url), Layout((), None, 2, graph)
    engine.create("v", "v_1", layout, "{}")
    assert cluster.indexes["v_1"]["settings"] == ({"index": {"knn": True}} if graph else {})
    mapping = cluster.indexes["v_1"]["mappings"]["properties"]["vector"]
    method = mapping.pop("method", None)
    assert mapping == {"type": "knn_vector", "dimension": 2}
    parameters = {"m": 16, "ef_construction": 200}
    faiss = {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct", "parameters": parameters}
    assert method == (faiss if graph else None)
    entries = [
        Entry(each, np.array(vector, dtype=np.float32) if (vector := VECTORS.get(each.id)) else None)
        for each in PRODUCTS
    ]
    engine.put("v_1", layout, entries)
    vector = np.array([0.5, 0.25], dtype=np.float32)
    hits = engine.search_vectors("v_1", layout, vector, {}, 3, 64)
    assert [hit.document for hit in hits] == ["p1", "p2", "p3"]
    assert [hit.score for hit in hits] == pytest.approx([0.5, -0.1, -0.25])
    filtered = engine.search_vectors("v_1", layout, vector, {"brand": ("acme",)}, 3, 64)
    assert [hit.document for hit in filtered] == ["p1", "p3"]
    body = asked_of(server, "_search")[0].body
    if graph:
        parameters = {"vector": [0.5, 0.25], "k": 64, "method_parameters": {"ef_search": 64}}
        assert body["query"] == {"knn": {"vector": parameters}} and body["size"] == 3
    else:
        assert body["query"]["script_score"]["script"]["lang"] == "knn"


def test_another_load_replaces_the_alias_at_once_and_the_index_after_it(server, cluster):
    engine, first = load(server)
    _, second = load(server, PRODUCTS[:2])
    assert first.generation not in cluster.indexes and cluster.aliases == {"products": second.generation}
    engine.create("products", "products_ffffffffffff", Layout(("text",)), "{}")
    engine.publish("products", "products_ffffffffffff", Layout(("text",)))
    assert asked_of(server, "_aliases")[-1].body == {
        "actions": [
            {"remove": {"index": second.generation, "alias": "products"}},
            {"add": {"index": "products_ffffffffffff", "alias": "products"}},
        ]
    }


def test_an_index_of_the_team_is_never_touched(server, cluster):
    cluster.indexes["products"] = {"mappings": {"properties": {}}}
    cluster.indexes["products_archive"] = {"mappings": {"properties": {}}}
    with pytest.raises(EngineError, match="'products' is an index or alias that searchlora did not load"):
        load(server)
    assert set(cluster.indexes) == {"products", "products_archive"}
    del cluster.indexes["products"]
    load(server)
    assert "products_archive" in cluster.indexes


def test_an_index_with_a_longer_name_is_another_one(server, cluster):
    engine = OpenSearch(server.url)
    other = load_index(engine, "products_by_brand", lambda: PRODUCTS, text=KEYS)
    assert engine.generations("products") == []
    load(server)
    assert other.generation in cluster.indexes and engine.generations("products_by_brand") == [other.generation]


def test_a_document_that_is_refused_is_named(server, cluster):
    cluster.refused["p2"] = "failed to parse"
    with pytest.raises(DataError, match=r"document p2: the engine refuses the document \(failed to parse\)"):
        load(server)
    assert cluster.aliases == {}


def test_a_server_that_is_starting_is_asked_again(server, cluster):
    engine, _ = load(server)
    cluster.unready = 2
    assert TextSearch(open_index(engine, "products")).search(["couch"], 1)[0][0].document == "p1"


def test_an_index_that_was_deleted(server, cluster):
    engine, loaded = load(server)
    index = open_index(engine, "products")
    del cluster.indexes[loaded.generation]
    with pytest.raises(EngineError, match=r"404.*no such index \[products_.*load the pipeline again, too"):
        TextSearch(index).search(["couch"], 1)


def test_hits_without_those_of_a_failed_shard_are_an_error(server, cluster):
    engine, _ = load(server)
    search = TextSearch(open_index(engine, "products"))
    cluster.failed_shard = "corrupt index"
    with pytest.raises(EngineError, match="500"):
        search.search(["couch"], 1)


def test_the_key_is_sent_as_the_engine_expects(server):
    OpenSearch(server.url, password="user:secret").published("products")
    sent = {name.lower(): value for name, value in server.asked[0].headers.items()}["authorization"]
    assert sent == "Basic " + base64.b64encode(b"user:secret").decode()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply({"error": {"reason": "no key"}, "status": 401}, 401), "401.*no key.*'api_key_env'"),
        (Reply({"timed_out": True, "hits": {"hits": []}}), "not done in time"),
        (Reply(b"<html>"), "cannot be read"),
    ],
)
def test_an_unexpected_answer_is_an_error(reply, says):
    with answering(lambda _: json_of(reply)) as server, pytest.raises(EngineError, match=f"{server.url}: .*{says}"):
        OpenSearch(server.url).search_text("p_1", Layout(("title",)), "couch", {"title": 1.0}, {}, 3)


def test_too_many_hits_and_a_server_that_is_not_there(server):
    with pytest.raises(UsageError, match="at most 10,000"):
        TextSearch(OpenIndex(OpenSearch(server.url), "p_1", Layout(("title",)))).search(["x"], 10_001)
    with pytest.raises(EngineError, match="cannot be reached"):
        OpenSearch("http://127.0.0.1:9").published("products")
