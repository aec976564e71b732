"""BM25 agrees with the reference implementation and is deterministic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from searchlora.errors import DataError, UsageError
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import ranked
from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index
from searchlora.retrieval.bm25 import METHODS
from tests.eval import cranfield

DOCUMENTS = [
    Document("d1", "trail running shoes for women", "Swift"),
    Document("d2", "hiking boots"),
    Document("d3", "running socks"),
    Document("d4", "camping stove"),
    Document("d5", "a the of"),
]
WORD = st.sampled_from(["ant", "bee", "cat", "dog", "eel", "fox", "gnu"])
TEXT = st.lists(WORD, max_size=8).map(" ".join)


def ids(hits):
    return [hit.document for hit in hits]


def test_hits_match_title_and_text_in_descending_order():
    index = BM25Index(DOCUMENTS)
    first, second, third = index.search(["running", "SWIFT shoes", "stove"], 10)
    assert ids(first) == ["d3", "d1"]  # the shorter document first
    assert ids(second) == ["d1"]
    assert ids(third) == ["d4"]
    assert len(index) == 5


@pytest.mark.parametrize("method", METHODS)
def test_a_query_without_known_words_has_no_hits(method):
    index = BM25Index(DOCUMENTS, method=method)
    assert index.search(["", "the of", "zebra", "?!"], 3) == [[], [], [], []]
    assert ids(index.search(["zebra stove"], 3)[0]) == ["d4"]
    assert index.search([], 3) == []


def test_scores_equal_the_formula_of_lucene():
    hit = BM25Index(DOCUMENTS, k1=0.9, b=0.4).search(["stove"], 1)[0][0]
    lengths = [5, 2, 2, 2, 0]  # "Swift trail running shoes women": stop words are not counted
    norm = 0.9 * (1 - 0.4 + 0.4 * 2 / (sum(lengths) / 5))
    assert hit.score == pytest.approx(math.log(1 + (5 - 1 + 0.5) / 1.5) / (1 + norm), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_ties_at_the_cutoff_are_broken_by_id(k):
    documents = [Document(name, "same words") for name in ("b", "d", "a", "c")]
    expected = ranked(dict.fromkeys("abcd", 1.0))[:k]
    for order in (documents, documents[::-1]):
        assert ids(BM25Index(order).search(["words"], k)[0]) == expected


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=12), query=TEXT, k1=st.floats(0.1, 3), b=st.floats(0, 1))
def test_scores_equal_those_of_rank_bm25(texts, query, k1, b):
    if not any(texts):
        texts = [*texts, "ant"]
    documents = [Document(str(place), text) for place, text in enumerate(texts)]
    ours, reference = (
        BM25Index(documents, k1=k1, b=b, method="robertson", backend=backend).search([query], len(texts))[0]
        for backend in ("bm25s", "rank-bm25")
    )
    assert {h.document: h.score for h in ours} == pytest.approx({h.document: h.score for h in reference}, rel=1e-4)
    raw = BM25Okapi([text.split() for text in texts], k1=k1, b=b, epsilon=0).get_scores(query.split()) / (k1 + 1)
    assert {int(h.document): h.score for h in ours} == pytest.approx(
        {place: score for place, score in enumerate(raw) if score > 0}, rel=1e-4
    )


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=12), query=TEXT, method=st.sampled_from(METHODS), k=st.integers(1, 6))
def test_a_smaller_k_is_a_prefix_of_a_larger_k(texts, query, method, k):
    index = BM25Index([Document("x", "ant"), *(Document(str(p), t) for p, t in enumerate(texts))], method=method)
    everything = index.search([query], 99)[0]
    assert index.search([query], k)[0] == everything[:k]
    assert ids(everything) == ranked({hit.document: hit.score for hit in everything})
    words = {"x": "ant"} | {str(place): text for place, text in enumerate(texts)}
    assert all(set(query.split()) & set(words[document].split()) for document in ids(everything))


@pytest.mark.slow
def test_cranfield_rankings_equal_rank_bm25(real_data):
    documents = cranfield.documents(real_data / "cranfield")
    queries = list(cranfield.queries(real_data / "cranfield").values())[:60]
    ours = BM25Index(documents, method="robertson").search(queries, 1_400)
    reference = BM25Index(documents, method="robertson", backend="rank-bm25").search(queries, 1_400)
    for hits, expected in zip(ours, reference, strict=True):
        by_id = {hit.document: hit.score for hit in expected}
        assert {hit.document: hit.score for hit in hits} == pytest.approx(by_id, rel=1e-5)


@pytest.mark.slow
def test_cranfield_is_retrieved_with_the_expected_quality(real_data):
    folder = real_data / "cranfield"
    queries, qrels = cranfield.queries(folder), cranfield.qrels(folder)
    means = {}
    for stemmer in (None, "english"):
        index = BM25Index(cranfield.documents(folder), analyzer=Analyzer(stemmer=stemmer))
        hits = index.search(list(queries.values()), 100)
        run = {topic: {hit.document: hit.score for hit in found} for topic, found in zip(queries, hits, strict=True)}
        means[stemmer] = np.mean([*retrieval_values(run, qrels, ["nDCG@10"])["nDCG@10"].values()])
    assert 0.3 < means[None] < means["english"] < 0.45


def test_invalid_documents_are_errors():
    with pytest.raises(DataError, match="no document"):
        BM25Index([])
    with pytest.raises(DataError, match="no document"):
        BM25Index([Document("a", "the of !")])
    with pytest.raises(DataError, match="two documents have the id 'a'"):
        BM25Index([Document("a", "x1"), Document("a", "x2")])


def test_a_field_that_no_document_has_is_an_error():
    documents = [Document("a", "tent"), Document("b", "boot", metadata={"brand": "Acme", "colour": "red"})]
    BM25Index(documents, fields={"title": 2, "brand": 1})
    with pytest.raises(DataError, match=r"no document has the field 'brnd'\. Fields .*: title, text, brand, colour"):
        BM25Index(documents, fields={"text": 1, "brnd": 2})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "bm26"}, "no BM25 method 'bm26'"),
        ({"backend": "lucene"}, "no BM25 backend 'lucene'"),
        ({"backend": "rank-bm25"}, "rank-bm25 has no method 'lucene'"),
        ({"b": 1.5}, "out of range"),
        ({"k1": -1}, "out of range"),
    ],
)
def test_invalid_options_are_errors(options, says):
    with pytest.raises(UsageError, match=says):
        BM25Index(DOCUMENTS, **options)


def test_k_below_one_is_refused():
    with pytest.raises(UsageError, match="0 hits"):
        BM25Index(DOCUMENTS).search(["x"], 0)


def test_progress_is_reported():
    reported = []

    def progress(done: int, total: int | None, note: str = "") -> None:
        reported.append((done, total, note))

    documents = (Document(str(place), "word") for place in range(2_500))
    index = BM25Index(documents, progress=progress)
    assert [done for done, *_ in reported] == [1_000, 2_000, 2_500]
    index.search(["word", "x"], 1, progress=progress)
    assert reported[-1][:2] == (2, 2)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=8), query=TEXT, method=st.sampled_from(METHODS))
def test_the_words_of_a_query_add_up_to_the_score(texts, query, method):
    documents = [Document(f"d{n}", f"{text} yak") for n, text in enumerate(texts)]
    index = BM25Index(documents, method=method)
    scores = {hit.document: hit.score for hit in index.search([query], 10)[0]}
    for document in documents:
        shares = index.contributions(query, document.id)
        assert set(shares) == set(query.split())
        assert sum(shares.values()) == pytest.approx(scores.get(document.id, 0.0), rel=1e-4, abs=1e-6)
        if method == "lucene":
            assert {word for word, share in shares.items() if share} == set(query.split()) & set(document.text.split())


def test_words_are_shown_as_they_were_typed_and_boosts_count():
    documents = [Document("d1", "a tent", "Boots"), Document("d2", "boot of a car")]
    index = BM25Index(documents, analyzer=Analyzer(stemmer="english"), fields={"title": 3, "text": 1})
    shares = index.contributions("the BOOTS of cars", "d1")
    assert list(shares) == ["boots", "cars"]
    assert shares["boots"] == index.search(["boots"], 2)[0][0].score and shares["cars"] == 0
    with pytest.raises(ValueError, match="d9"):
        index.contributions("boots", "d9")
