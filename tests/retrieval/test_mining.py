"""Mining of hard negatives: possible positives are excluded, and sampling is reproducible."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.eval.text_identity import normalised
from searchlora.recipe import HardNegatives
from searchlora.records import Document, Hit
from searchlora.retrieval import BM25Index
from searchlora.retrieval.mining import MiningQuery, mine


class Ranking:
    """A retriever with a scripted ranking for every query."""

    def __init__(self, *hits: tuple[str, float]) -> None:
        self.hits = hits

    def search(self, queries, k):
        return [[Hit(document, score) for document, score in self.hits[:k]] for _ in queries]


DOCUMENTS = [Document(name, f"text {name}") for name in "abcdefgh"] + [Document("A2", "Text, A!")]


def mined(ranking: Ranking, *, positives=("text a",), judged=frozenset(), documents=DOCUMENTS, **how):
    negatives = HardNegatives(**{"per_query": 99, **how})
    return mine([MiningQuery("q", "anything", positives, judged)], documents, [ranking], negatives, 13)["q"]


def test_positives_judged_documents_and_equal_texts_are_excluded():
    ranking = Ranking(("a", 1.0), ("A2", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6))
    assert sorted(mined(ranking, judged={"c"})) == ["text b", "text d"]


def test_candidates_above_the_margin_are_excluded():
    ranking = Ranking(("b", 1.2), ("a", 1.0), ("c", 0.96), ("d", 0.95), ("e", 0.5))
    assert sorted(mined(ranking)) == ["text d", "text e"]
    assert sorted(mined(ranking, margin=0.9)) == ["text e"]
    assert sorted(mined(ranking, margin=1.0)) == ["text c", "text d", "text e"]
    below_zero = Ranking(("a", -1.0), ("b", -1.04), ("c", -1.06))
    assert mined(below_zero) == ["text c"]


def test_a_query_without_a_retrieved_positive_gets_no_negatives():
    assert mined(Ranking(("b", 1.0), ("c", 0.5))) == []
    assert mined(Ranking(("b", 1.0), ("a", 0.9), ("c", 0.5)), depth=1) == []


def test_skip_and_depth_bound_the_ranks():
    ranking = Ranking(("a", 1.0), ("b", 0.5), ("c", 0.4), ("d", 0.3), ("e", 0.2))
    assert sorted(mined(ranking, skip=2, depth=2)) == ["text c", "text d"]


def test_several_retrievers_alternate():
    documents = [*DOCUMENTS, *(Document(f"x{n}", f"x{n}") for n in range(3))]
    one, two = Ranking(("a", 1.0), ("b", 0.5), ("c", 0.4)), Ranking(("a", 9.0), ("x1", 2.0), ("x2", 1.0), ("b", 0.5))
    sought = [MiningQuery(f"q{n}", "anything", ["text a"]) for n in range(20)]
    found = mine(sought, documents, [one, two], HardNegatives(per_query=2), 13)
    for texts in found.values():
        assert len(texts) == len(set(texts)) == 2
        assert sum(text.startswith("x") for text in texts) == 1 or "text b" in texts
    assert len({texts[0].startswith("x") for texts in found.values()}) == 2


def test_sampling_depends_only_on_seed_and_query():
    ranking = Ranking(("a", 1.0), *((name, 0.5) for name in "bcdefgh"))
    many = [MiningQuery(f"q{n}", "anything", ["text a"]) for n in range(30)]
    first = mine(many, DOCUMENTS, [ranking], HardNegatives(), 1)
    assert mine(many[5:], DOCUMENTS, [ranking], HardNegatives(), 1) == {f"q{n}": first[f"q{n}"] for n in range(5, 30)}
    assert mine(many, DOCUMENTS, [ranking], HardNegatives(), 2) != first


WORD = st.sampled_from(["tent", "boot", "stove", "rope"])
TEXT = st.lists(WORD, min_size=1, max_size=4).map(" ".join)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, min_size=2, max_size=12), query=TEXT, right=st.integers(0, 11), count=st.integers(1, 3))
def test_bm25_negatives_are_never_positives(texts, query, right, count):
    documents = [Document(str(place), text) for place, text in enumerate(texts)]
    positive = texts[right % len(texts)]
    sought, negatives = [MiningQuery("q", query, [positive])], HardNegatives(per_query=count)
    found = mine(sought, documents, [BM25Index(documents)], negatives, 13)["q"]
    assert len(found) <= count
    assert normalised(positive) not in {normalised(text) for text in found}
    assert len({normalised(text) for text in found}) == len(found)
