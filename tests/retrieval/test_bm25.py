"""BM25 agrees with the reference implementations, is deterministic, and is the same when it is saved."""

from __future__ import annotations

import math
import mmap

import bm25s
import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from searchlora.errors import DataError, UsageError
from searchlora.eval.measures import retrieval_values
from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index, analysis
from searchlora.retrieval.analysis import ENGLISH
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
ANY_TEXT = st.lists(WORD | st.sampled_from(["跑鞋", "🥾x"]), max_size=8).map(" ".join)


def ids(hits):
    return [hit.document for hit in hits]


def test_hits_match_title_and_text_in_descending_order():
    index = BM25Index(DOCUMENTS)
    first, second, third = index.search(["running", "SWIFT shoes", "stove"], 10)
    assert ids(first) == ["d3", "d1"]  # the shorter document first
    assert ids(second) == ["d1"]
    assert ids(third) == ["d4"]
    assert len(index) == 5


def reference(terms, query, k1, b):
    """Number of a document -> its score, by rank-bm25 with the weights of Lucene's variant."""
    okapi = BM25Okapi(terms, k1=k1, b=b)
    for term in okapi.idf:
        count = sum(term in of_document for of_document in terms)
        okapi.idf[term] = math.log(1 + (len(terms) - count + 0.5) / (count + 0.5))
    # bm25s leaves the constant factor k1 + 1 out.
    return {place: score for place, score in enumerate(okapi.get_scores(query) / (k1 + 1)) if score > 0}


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=12), query=TEXT, k1=st.floats(0.1, 3), b=st.floats(0, 1))
def test_scores_equal_those_of_rank_bm25(texts, query, k1, b):
    texts = [*texts, "ant"]
    documents = [Document(str(place), text) for place, text in enumerate(texts)]
    (hits,) = BM25Index(documents, k1=k1, b=b).search([query], len(texts))
    expected = reference([text.split() for text in texts], query.split(), k1, b)
    assert {int(hit.document): hit.score for hit in hits} == pytest.approx(expected, rel=1e-4)


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


def test_a_collection_of_stop_words_is_an_error():
    with pytest.raises(DataError, match="no document"):
        BM25Index([Document("a", "the of !")])


def test_a_field_that_no_document_has_is_an_error():
    documents = [Document("a", "tent"), Document("b", "boot", metadata={"brand": "Acme", "colour": "red"})]
    BM25Index(documents, fields={"title": 2, "brand": 1})
    with pytest.raises(DataError, match=r"no document has the field 'brnd'\. Fields .*: title, text, brand, colour"):
        BM25Index(documents, fields={"text": 1, "brnd": 2})


@pytest.mark.parametrize("options", [{"b": 1.5}, {"k1": -1}])
def test_invalid_options_are_errors(options):
    with pytest.raises(UsageError, match="out of range"):
        BM25Index(DOCUMENTS, **options)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=8), query=TEXT)
def test_the_words_of_a_query_add_up_to_the_score(texts, query):
    documents = [Document(f"d{n}", f"{text} yak") for n, text in enumerate(texts)]
    index = BM25Index(documents)
    scores = {hit.document: hit.score for hit in index.search([query], 10)[0]}
    for document in documents:
        shares = index.contributions(query, document.id)
        assert set(shares) == set(query.split())
        assert sum(shares.values()) == pytest.approx(scores.get(document.id, 0.0), rel=1e-4, abs=1e-6)
        assert {word for word, share in shares.items() if share} == set(query.split()) & set(document.text.split())


def test_words_are_shown_as_they_were_typed_and_boosts_count():
    documents = [Document("d1", "a tent", "Boots"), Document("d2", "boot of a car")]
    index = BM25Index(documents, analyzer=Analyzer(stemmer="english"), fields={"title": 3, "text": 1})
    shares = index.contributions("the BOOTS of cars", "d1")
    assert list(shares) == ["boots", "cars"]
    assert shares["boots"] == index.search(["boots"], 2)[0][0].score and shares["cars"] == 0
    with pytest.raises(ValueError, match="d9"):
        index.contributions("boots", "d9")


def test_tokenisation():
    assert Analyzer()("The Trail-Runner's SIZE 9, for Zürich (東京)!") == ["trail", "runner", "size", "zürich", "東京"]
    assert Analyzer(stopwords=None, shortest=1)("The 9 a") == ["the", "9", "a"]
    assert Analyzer(stemmer="english")("running shoes ran running") == ["run", "shoe", "ran", "run"]
    assert Analyzer()("") == []


def test_stop_words_equal_those_of_bm25s():
    assert frozenset(STOPWORDS_EN) == ENGLISH


#: Text without marks, also in lower case, which bm25s takes for separators, and without what Unicode 14 does not have.
WITHOUT_MARKS = st.text(
    st.characters(exclude_categories=("Mn", "Mc", "Me", "Cn", "Co", "Cs"), exclude_characters="İ"), max_size=60
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=WITHOUT_MARKS)
def test_tokens_equal_those_of_bm25s(text):
    assert Analyzer()(text) == bm25s.tokenize(text, return_ids=False, show_progress=False)[0] or not Analyzer()(text)


def test_unknown_options_are_errors():
    with pytest.raises(UsageError, match="no stop list 'klingon'"):
        Analyzer(stopwords="klingon")
    with pytest.raises(UsageError, match="no stemmer 'klingon'"):
        Analyzer(stemmer="klingon")
    with pytest.raises(UsageError, match="at least 1"):
        Analyzer(shortest=0)


def test_stems_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(analysis, "_MOST_STEMS", 3)
    analyzer = Analyzer(stemmer="english")
    for _ in range(2):
        assert analyzer("boots tents lamps ropes maps") == ["boot", "tent", "lamp", "rope", "map"]
        assert len(analyzer._stems) <= 3


def test_marks_do_not_cut_words():
    assert Analyzer()("दिन में दान x") == ["दिन", "में", "दान"]
    assert Analyzer()("İstanbul") == ["i\u0307stanbul"]
    assert Analyzer()("The m² of a room_é9 x") == ["m²", "room_é9"]


def saved(index, folder, analyzer=None):
    index.save(folder)
    return BM25Index.load(folder, index._documents, analyzer or Analyzer())


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12), queries=st.lists(ANY_TEXT, max_size=4))
def test_hits_are_identical_to_those_of_the_index_in_memory(tmp_path, texts, queries):
    documents = [Document(f"d{place}", text) for place, text in enumerate(["ant", *texts])]
    index = BM25Index(documents)
    assert saved(index, tmp_path).search(queries, 5) == index.search(queries, 5)


def test_analyser_and_fields_are_those_of_the_saved_index(tmp_path):
    documents = [Document("d1", "running shoes", "boots"), Document("d2", "boots", "running shoes")]
    analyzer = Analyzer(stemmer="english")
    index = BM25Index(documents, analyzer=analyzer, fields={"title": 3, "text": 1})
    loaded = saved(index, tmp_path, analyzer)
    assert loaded.search(["boot", "runs"], 2) == index.search(["boot", "runs"], 2)
    assert [hit.document for hit in loaded.search(["boot"], 2)[0]] == ["d1", "d2"]


def test_terms_that_wait_on_disk_give_the_same_matrix(tmp_path):
    documents = [Document(f"d{place}", "ant bee " * place) for place in range(1, 9)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    BM25Index(documents).save(tmp_path / "a")
    BM25Index(documents, spool=tmp_path).save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]  # the waiting terms have no name


def test_its_matrix_is_mapped(tmp_path):
    documents = [Document("d1", "ant")]
    loaded = saved(BM25Index(documents), tmp_path)
    for array in loaded._scorer.scores.values():
        if isinstance(array, np.ndarray):
            assert isinstance(array.base, np.memmap) and isinstance(array.base._mmap, mmap.mmap)
