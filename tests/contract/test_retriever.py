"""Contract of every retriever. A new retriever is one more line in the fixture `retriever`."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchlora.data.document_store import DocumentStore, write_documents
from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import ranked
from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index, DenseIndex, Encoder, Fused, Retriever, Source
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.engine_index import TextKeys, load_index, open_index
from searchlora.retrieval.field_filter import FieldColumns, FieldTest
from searchlora.retrieval.milvus import Milvus
from searchlora.retrieval.nearest import Nearest
from searchlora.retrieval.opensearch import OpenSearch
from searchlora.retrieval.postgres import Postgres
from searchlora.retrieval.retriever import IndexedDocuments
from searchlora.retrieval.search_engine import SearchEngine, TextSearch, VectorSearch
from searchlora.retrieval.vector_file import open_vectors
from searchlora.testing import build_tiny_encoder
from tests.factories import encode_to
from tests.retrieval.vectorizers import vectorizer_of

DOCUMENTS = [
    Document("d1", "trail running shoes for women", "Swift"),
    Document("d2", "hiking boots, waterproof"),
    Document("d10", "a green tent for two"),
    Document("d9", "a green tent for two"),
    Document("d3", "wool socks for running"),
    Document("тент", "палатка зелёная"),
    Document("鞋", "跑鞋 女"),
    Document("straße", "Wanderschuhe für den Winter 🥾"),
    Document("blank", "  "),
]
QUERIES = ["green tent", "running", "boots", "跑鞋", "палатка", "für", "zebra", "", "  ", "green tent"]
WORD = st.sampled_from(["tent", "green", "running", "socks", "палатка", "跑鞋", "zebra", "🥾", " "])

#: Retrievers that find a document by its words; the others find something for any words.
ENGINES = ["postgres", "milvus", "opensearch"]
TEXT = [f"{engine} text" for engine in ENGINES]
VECTORS = [f"{engine} {structure}" for engine in ENGINES for structure in ("exact", "hnsw")]
LEXICAL = {"bm25", "saved bm25", "fused bm25", *TEXT}
LOCAL = ["bm25", "saved bm25", "dense", "dense, not normalised", "saved dense"]
BM25_AND_DENSE = [*LOCAL, *TEXT, *VECTORS]
KINDS = [
    *LOCAL,
    *("fused bm25", "rrf", "combsum", "combmnz"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in (*TEXT, *VECTORS)),
]

#: Graphs of equal vectors fall into parts, and not all are reached: what is found is in order, and some is missing.
MISSING = {"milvus hnsw", "opensearch hnsw"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return Encoder.load(str(build_tiny_encoder(tmp_path_factory.mktemp("encoder"))))


@pytest.fixture(scope="module")
def engine(request):
    """`engine("postgres")`: a search engine that runs; skips the test where there is none."""
    opened = {}

    def engine(name: str) -> SearchEngine:
        if name not in opened:
            make = {"postgres": Postgres, "milvus": Milvus, "opensearch": OpenSearch}[name]
            opened[name] = make(request.getfixturevalue(f"{name}_url"))
        return opened[name]

    yield engine
    for each in opened.values():
        each.close()


@pytest.fixture(scope="module")
def make(encoder, engine, tmp_path_factory):
    names = map("contract_{}".format, count())

    def stored(documents):
        folder = tmp_path_factory.mktemp("index")
        write_documents(documents, folder)
        return folder, DocumentStore(folder)

    def saved_words(documents):
        folder, store = stored(documents)
        BM25Index(store.in_order()).save(folder)
        return BM25Index.load(folder, IndexedDocuments(store.ids, store.tie_order), Analyzer())

    def saved_vectors(documents):
        folder, store = stored(documents)
        longest = encode_to(folder, list(store.in_order()), encoder)
        vectors, rows = open_vectors(folder)
        nearest = Nearest(vectors, longest)
        indexed = IndexedDocuments(store.ids, store.tie_order)
        return DenseIndex.load(indexed, vectors, rows, nearest, encoder)

    def fused(documents, method):
        documents = list(documents)
        return Fused([Source(BM25Index(documents)), Source(DenseIndex(documents, encoder), weight=2.0)], method=method)

    def of_engine(kind, documents):
        name, _, what = kind.partition(" ")
        documents = list(documents)
        text = TextKeys(fields=("title", "text"), analyzer=engine(name).default_analyzer) if what == "text" else None
        graph = what == "hnsw"
        vectorizer = None if text else vectorizer_of(encoder, graph)
        loaded = load_index(engine(name), next(names), lambda: documents, text=text, vectorizer=vectorizer)
        keys = vectorizer.vectors.keys if vectorizer else None
        index = open_index(engine(name), loaded.index, text=text, vectors=keys, graph=graph)
        return TextSearch(index) if text else VectorSearch(index, encoder, effort=200)

    def make(kind: str, documents) -> Retriever:
        if kind in TEXT or kind in VECTORS:
            return of_engine(kind, documents)
        return {
            "bm25": BM25Index,
            "saved bm25": saved_words,
            "dense": lambda given: DenseIndex(given, encoder),
            "saved dense": saved_vectors,
            "dense, not normalised": lambda given: DenseIndex(given, encoder, TextEncoding(normalise=False)),
            "fused bm25": lambda given: Fused([Source(BM25Index(given), depth=5)]),
            "rrf": lambda given: fused(given, "rrf"),
            "combsum": lambda given: fused(given, "combsum"),
            "combmnz": lambda given: fused(given, "combmnz"),
        }[kind](documents)

    return make


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def retriever(kind, make) -> Retriever:
    return make(kind, DOCUMENTS)


def ids(hits):
    return [hit.document for hit in hits]


def test_one_ranking_per_query_in_descending_order(retriever):
    found = retriever.search(QUERIES, 5)
    assert len(found) == len(QUERIES)
    for hits in found:
        assert len(hits) <= 5
        assert ids(hits) == ranked({hit.document: hit.score for hit in hits})
        assert len(set(ids(hits))) == len(hits)
        assert all(isinstance(hit.score, float) for hit in hits)
    assert any(hits for hits in found)


def test_no_queries_give_no_rankings(retriever):
    assert retriever.search([], 3) == []


def test_an_empty_query_has_no_hits(retriever):
    assert retriever.search(["", "   ", "\n"], 3) == [[], [], []]


def test_unknown_words_give_no_lexical_hits(kind, retriever):
    (hits,) = retriever.search(["zebra"], 4)
    assert ids(hits) == [] if kind in LEXICAL else len(hits) == 4


def test_a_document_without_text_is_never_a_hit(retriever):
    assert all("blank" not in ids(hits) for hits in retriever.search(QUERIES, 99))


def test_the_matching_document_is_found(kind, retriever):
    first = 9 if kind == "dense, not normalised" else 1  # an inner product favours long vectors
    for query, document in [("跑鞋 女", "鞋"), ("палатка зелёная", "тент"), ("hiking boots, waterproof", "d2")]:
        assert document in ids(retriever.search([query], first)[0])


def test_results_do_not_depend_on_batches(retriever):
    together = retriever.search(QUERIES, 6)
    assert [retriever.search([query], 6)[0] for query in QUERIES] == together
    assert retriever.search(QUERIES[::-1], 6)[::-1] == together
    assert together[0] == together[-1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORD, max_size=4), k=st.integers(1, 12))
def test_a_smaller_k_is_a_prefix_of_a_larger_k(retriever, words, k):
    query = " ".join(words)
    assert retriever.search([query], k)[0] == retriever.search([query], 99)[0][:k]


def test_equal_documents_have_equal_scores_and_are_ordered_by_descending_id(kind, make):
    names = [f"n{number}" for number in range(70)]
    others = [Document(f"x{number}", f"socks of kind {number}") for number in range(80)]
    for order in (names, names[::-1]):
        retriever = make(kind, [*others, *(Document(name, "a green tent") for name in order)])
        for k in (1, 3, 40, 150):
            level = [hit for hit in retriever.search(["a green tent"], k)[0] if hit.document in names]
            assert level or kind == "dense, not normalised"
            assert ids(level) == sorted(ids(level) if kind in MISSING else names, reverse=True)[: len(level)]
            if kind in BM25_AND_DENSE:
                assert len({hit.score for hit in level}) <= 1


def test_the_order_of_documents_does_not_matter(kind, make):
    assert [ids(hits) for hits in make(kind, DOCUMENTS[::-1]).search(QUERIES, 9)] == [
        ids(hits) for hits in make(kind, iter(DOCUMENTS)).search(QUERIES, 9)
    ]


def test_two_documents_of_one_id_are_refused(kind, make):
    with pytest.raises(DataError, match="two documents have the id 'd1'"):
        make(kind, [*DOCUMENTS, Document("d1", "another text")])


@pytest.mark.parametrize("documents", [[], [Document("a", " ")]])
def test_an_empty_collection_is_refused(kind, make, documents):
    with pytest.raises(DataError, match=r"no document contains (a term|text) to search"):
        make(kind, documents)


def test_k_below_one_is_refused(retriever):
    for k in (0, -1):
        with pytest.raises(UsageError, match="cannot be requested"):
            retriever.search(["tent"], k)
        with pytest.raises(UsageError, match="cannot be requested"):
            retriever.search([], k)


COLOURED = [
    Document(each.id, each.text, each.title, {"colour": "red"} if n % 2 else {}) for n, each in enumerate(DOCUMENTS)
]


def filterable(retriever):
    """The retriever with the columns that an index of ours needs for filters; a search engine has them."""
    if isinstance(retriever, Fused):
        retriever.sources = tuple(
            replace(source, retriever=filterable(source.retriever)) for source in retriever.sources
        )
        return retriever
    if isinstance(retriever, BM25Index | DenseIndex):
        return retriever.filterable(FieldColumns(COLOURED, ["colour"]))
    return retriever


def test_a_filter_leaves_the_documents_that_pass_it_in_their_order(kind, make):
    retriever = filterable(make(kind, COLOURED))
    red, none = ({"colour": FieldTest((("equals", frozenset({value})),))} for value in ("red", "green"))
    passing = {document.id for document in COLOURED if document.metadata}
    queries = ["green tent", "running boots"]
    everything = retriever.search(queries, len(COLOURED))
    for k in (1, 2, len(COLOURED)):
        found = retriever.search(queries, k, filters=[red, red])
        for hits, all_hits in zip(found, everything, strict=True):
            assert set(ids(hits)) <= passing
            assert hits or passing.isdisjoint(ids(all_hits))
            if kind in {*LEXICAL, *BM25_AND_DENSE} - MISSING:
                assert hits == [hit for hit in all_hits if hit.document in passing][:k]
    assert retriever.search(queries, 3, filters=[none, {}]) == [[], retriever.search(queries, 3)[1]]
