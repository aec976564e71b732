"""Rank fusion equals its published formulas; titles of what a conversation finds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.eval.trec import ranked
from searchlora.records import Document, Hit
from searchlora.retrieval import BM25Index, Fused, Source, fuse
from searchlora.retrieval.feedback import found_titles
from searchlora.retrieval.fusion import METHODS

IDS = ["a", "b", "c", "d", "e", "f"]
SCORES = st.dictionaries(st.sampled_from(IDS), st.integers(-4, 4).map(lambda number: number / 4), max_size=6)


def hits(scores: dict[str, float]) -> list[Hit]:
    return [Hit(document, scores[document]) for document in ranked(scores)]


def by_the_book(lists: list[dict[str, float]], method: str, weights: list[float], constant: float) -> dict[str, float]:
    """The formulae, a loop over documents and lists."""
    fused = {}
    for document in {document for scores in lists for document in scores}:
        total, found = 0.0, 0
        for scores, weight in zip(lists, weights, strict=True):
            if document not in scores:
                continue
            found += 1
            if method == "rrf":
                total += weight / (constant + 1 + ranked(scores).index(document))
                continue
            low, high = min(scores.values()), max(scores.values())
            total += weight * (1.0 if high == low else (scores[document] - low) / (high - low))
        fused[document] = total * found if method == "combmnz" else total
    return fused


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(lists=st.lists(SCORES, max_size=4), method=st.sampled_from(METHODS), data=st.data())
def test_scores_equal_the_formulas(lists, method, data):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(lists), max_size=len(lists)))
    constant = data.draw(st.sampled_from([0, 1, 60]))
    found = fuse([hits(scores) for scores in lists], method=method, weights=weights, rrf_k=constant)
    scores = {hit.document: hit.score for hit in found}
    assert scores == pytest.approx(by_the_book(lists, method, weights, constant), rel=1e-12)
    assert [hit.document for hit in found] == ranked(scores)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(lists=st.lists(SCORES, min_size=1, max_size=4), method=st.sampled_from(METHODS), data=st.data())
def test_the_order_of_rankings_does_not_matter(lists, method, data):
    turned = data.draw(st.permutations(lists))
    assert fuse([hits(scores) for scores in lists], method=method) == fuse(
        [hits(scores) for scores in turned], method=method
    )


@settings(max_examples=50, deadline=None)
@given(scores=SCORES, scale=st.sampled_from([0.5, 2, 1024]), method=st.sampled_from(METHODS))
def test_the_scale_of_scores_does_not_matter(scores, scale, method):
    other = hits({"a": 1.0, "f": 0.5})
    stretched = hits({document: scale * score + 8 for document, score in scores.items()})
    assert fuse([stretched, other], method=method) == fuse([hits(scores), other], method=method)


def test_fusing_no_hits_gives_no_hits():
    for method in METHODS:
        assert fuse([], method=method) == []
        assert fuse([[], []], method=method) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "borda"}, "no fusion 'borda'.*rrf, combsum, combmnz"),
        ({"weights": [1]}, "1 weights for 2 rankings"),
        ({"weights": [1, 0]}, "not all above 0"),
        ({"weights": [1, float("nan")]}, "not all above 0"),
        ({"rrf_k": -1}, "'rrf_k' is -1"),
    ],
)
def test_invalid_options_are_errors(options, says):
    with pytest.raises(UsageError, match=says):
        fuse([[], []], **options)


def test_a_fused_retriever_refuses_invalid_arguments():
    index = BM25Index([Document("a", "tent")])
    with pytest.raises(UsageError, match="nothing to fuse"):
        Fused([])
    with pytest.raises(UsageError, match="0 hits"):
        Fused([Source(index, depth=0)])
    with pytest.raises(UsageError, match="not all above 0"):
        Fused([Source(index, weight=-1)])
    with pytest.raises(UsageError, match="no fusion"):
        Fused([Source(index)], method="x")


def test_a_fused_retriever_uses_the_depth_of_its_sources():
    documents = [Document(name, text) for name, text in [("a", "tent tent"), ("b", "tent pegs"), ("c", "green tent")]]
    first, second = BM25Index(documents), BM25Index(documents, k1=2.0, b=1.0)
    queries = ["tent", "green pegs", "zebra"]
    found = Fused([Source(first, depth=2, weight=3), Source(second, depth=1)], method="combsum").search(queries, 2)
    pairs = zip(first.search(queries, 2), second.search(queries, 1), strict=True)
    assert found == [fuse(pair, method="combsum", weights=[3, 1])[:2] for pair in pairs]


DOCUMENTS = {
    document.id: document
    for document in (
        Document("1", "a ship meets a creature", "Alien (film)"),
        Document("2", "the creature hides in the ship", "Alien (film)"),
        Document("3", "a ship ship ship", "Titanic\r\n"),
        Document("4", "a creature creature creature"),
    )
}
TALK = {"history": [{"role": "user", "text": "which ship?"}], "query": "what creature?"}


def titles(conversation, **numbers):
    return found_titles(BM25Index(DOCUMENTS.values()), DOCUMENTS, [conversation], **numbers)[0]


def test_the_most_frequent_title_is_first_and_passages_without_a_title_do_not_count():
    assert titles(TALK) == ["Alien", "Titanic"]
    assert titles(TALK, titles=1) == ["Alien"]


def test_all_turns_are_searched_with():
    assert titles({"query": "what creature?"}) == ["Alien"]
    assert titles({"history": TALK["history"], "query": "why?"}, passages=1) == ["Titanic"]


def test_a_conversation_that_finds_nothing_has_no_titles():
    assert titles({"query": "zebra"}) == []
