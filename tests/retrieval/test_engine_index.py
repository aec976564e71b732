"""Loading a corpus into a search engine, and opening what was loaded, which is the same for every engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import DataError, StaleIndex
from searchlora.eval.trec import ranked
from searchlora.records import Document, Hit
from searchlora.retrieval.engine_index import TextKeys, load_index, open_index
from searchlora.retrieval.milvus import best_by_sum
from searchlora.retrieval.opensearch import OpenSearch
from searchlora.retrieval.search_engine import TextSearch
from tests.inference.http_server import answering
from tests.retrieval.opensearch_server import Cluster
from tests.retrieval.vectorizers import FINGERPRINT, found, identity, vectorizer_of

FIELDS = ("title", "text", "brand")
KEYS = TextKeys(fields=("text",), analyzer="standard")
PRODUCTS = [Document("p1", "for two", "Red couch", {"brand": "Acme"}), Document("p2", "for four", "Green tent")]


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def engine(cluster):
    with answering(cluster) as server:
        yield OpenSearch(server.url)


def killed(*_):
    raise KeyboardInterrupt


def test_a_killed_load_starts_again_and_leaves_nothing(engine, cluster, tmp_path, monkeypatch):
    def load():
        return load_index(engine, "products", lambda: PRODUCTS, corpus=identity(tmp_path), text=KEYS)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "publish", killed)
        load()
    with pytest.raises(StaleIndex, match="there is no such index, or it was not loaded completely"):
        open_index(engine, "products")
    assert load().loaded and not load().loaded
    assert found(TextSearch(open_index(engine, "products")), "four") == ["p2"] and len(cluster.indexes) == 1


def test_a_load_that_was_killed_after_it_was_published_leaves_nothing(engine, cluster, tmp_path, monkeypatch):
    def load(content):
        return load_index(engine, "products", lambda: PRODUCTS, corpus=identity(tmp_path, content), text=KEYS)

    load("first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "drop", killed)
        load("second")
    assert len(cluster.indexes) == 2
    again = load("second")
    assert not again.loaded and list(cluster.indexes) == [again.generation]


def test_a_corpus_that_changes_while_it_is_loaded_leaves_the_old_index(engine, cluster, tmp_path, monkeypatch):
    first = load_index(engine, "products", lambda: PRODUCTS, corpus=identity(tmp_path, "first"), text=KEYS)
    second, put = identity(tmp_path, "second"), engine.put

    def changing(*stored):
        put(*stored)
        identity(tmp_path, "others")

    monkeypatch.setattr(engine, "put", changing)
    with pytest.raises(DataError, match="products: the corpus was changed while it was read"):
        load_index(engine, "products", lambda: PRODUCTS, corpus=second, text=KEYS)
    assert list(cluster.indexes) == [first.generation] == list(cluster.aliases.values())


def test_what_does_not_fit_is_refused_with_the_command(engine, encoder, tmp_path):
    vectorizer = vectorizer_of(encoder)
    text = TextKeys(fields=FIELDS, analyzer="standard")
    load_index(engine, "shop", lambda: PRODUCTS, text=text, vectorizer=vectorizer)
    vectors, title = vectorizer.vectors.keys, TextKeys(fields=("title",), analyzer="english")
    other = vectors.model_copy(update={"encoder": FINGERPRINT.model_copy(update={"tensors": "1"})})
    adapted = vectors.model_copy(update={"adapter": {"a": "1"}})
    cases = [
        ({"text": TextKeys(fields=("colour",), analyzer="standard")}, "does not search 'colour'; its fields are"),
        ({"text": title}, "its analyser is .*, and english in the pipeline"),
        ({"vectors": other}, r"the encoder is another one \(tensors differ\)"),
        ({"vectors": adapted}, "no adapter is used, and one in the pipeline"),
        ({"vectors": vectors, "graph": True}, "its search is exact"),
        ({"filters": ["brand", "maker"]}, "names 'maker', which no document of the index has; fields: brand"),
    ]
    for arguments, says in cases:
        with pytest.raises(StaleIndex, match=f"shop: .*{says}.* searchlora index load CORPUS --pipeline p.yaml"):
            open_index(engine, "shop", pipeline="--pipeline p.yaml", **arguments)
    with pytest.raises(StaleIndex, match=r"there is no such index.*searchlora index load CORPUS --pipeline p"):
        open_index(engine, "nothing", pipeline="--pipeline p")
    load_index(engine, "words", lambda: PRODUCTS, corpus=identity(tmp_path), text=KEYS)
    with pytest.raises(StaleIndex, match=r"has no vectors.*index load .*corpus.jsonl --map text=name,description"):
        open_index(engine, "words", vectors=vectors)


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([*PRODUCTS, PRODUCTS[0]], "two documents have the id 'p1'"),
        ([Document("a b", "x")], "cannot be used in a TREC file"),
        ([Document("\ud800", "x")], "cannot be used in a TREC file"),
        ([Document("a", " ")], "no document contains text"),
        ([Document("a", "x", metadata={"colour": "red"})], "no document has the field 'brand'.*title, text, colour"),
    ],
)
def test_a_collection_that_cannot_be_searched_is_refused_before_the_engine_is_asked(documents, says):
    with pytest.raises(DataError, match=says):
        load_index(object(), "never", lambda: documents, text=TextKeys(fields=FIELDS, analyzer=None))


def test_a_document_whose_vector_is_not_finite_is_named(encoder, monkeypatch):
    def encode(texts, **_):
        return np.array([[np.nan if "bad" in text else 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(encoder, "encode_documents", encode)
    documents = [Document("d1", "good"), Document("d2", " "), Document("d3", "bad"), Document("d4", "bad")]
    with pytest.raises(DataError, match="document d3: the encoder returns a vector that is not finite"):
        vectorizer_of(encoder).encode(documents)


class Lists:
    """An engine that ranks by one field at a time; it orders ties as they come."""

    def __init__(self, scores):
        self.scores = scores
        self.requests = []

    def best(self, field, count):
        self.requests.append(count)
        rows = sorted(self.scores[field].items(), key=lambda row: -row[1])
        return [Hit(document, score) for document, score in rows[:count]]

    def of(self, field, ids):
        return {each: self.scores[field][each] for each in ids if each in self.scores[field]}


def summed(scores, weights):
    documents = {document for of_field in scores.values() for document in of_field}
    return {each: sum(weights[field] * scores[field].get(each, 0.0) for field in weights) for each in documents}


#: Few distinct values, so that many documents tie.
SCORES = st.dictionaries(
    st.integers(0, 300).map("d{}".format), st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0]), max_size=250
)


@given(
    scores=st.dictionaries(st.sampled_from(["title", "text", "brand"]), SCORES, min_size=1),
    boosts=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=3, max_size=3),
    k=st.integers(1, 60),
)
def test_equal_to_adding_all_scores(scores, boosts, k):
    lists, weights = Lists(scores), dict(zip(scores, boosts, strict=False))
    found = best_by_sum(weights, lists.best, lists.of, k, most=16_384)
    expected = summed(scores, weights)
    assert [hit.document for hit in found] == ranked(expected)[:k]
    assert [hit.score for hit in found] == [expected[hit.document] for hit in found]


def test_no_more_is_requested_than_settles_the_ranks():
    lists = Lists({"text": {f"d{number}": 1000.0 - number for number in range(1000)}})
    best_by_sum({"text": 1.0}, lists.best, lists.of, 10, most=500)
    assert lists.requests == [42]


def test_ties_at_the_last_rank_are_requested_until_they_end_or_the_engine_gives_no_more():
    scores = {f"d{number:03}": 1.0 for number in range(300)}
    lists = Lists({"text": scores})
    (hit,) = best_by_sum({"text": 1.0}, lists.best, lists.of, 1, most=16_384)
    assert (hit.document, lists.requests) == ("d299", [33, 132, 528])
    lists = Lists({"text": scores})
    best_by_sum({"text": 1.0}, lists.best, lists.of, 1, most=100)
    assert lists.requests == [33, 100]


def test_the_text_of_a_hit_is_kept():
    fetched = Document("d1", "a tent")
    (hit,) = best_by_sum({"text": 2.0}, lambda *_: [Hit("d1", 1.5, fetched)], lambda *_: {}, 3, most=10)
    assert (hit, hit.fetched) == (Hit("d1", 3.0), fetched)
