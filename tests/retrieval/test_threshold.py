"""The k best documents by a weighted sum, from lists of single scores, equal those of adding all scores."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from searchlora.eval.trec import ranked
from searchlora.records import Document, Hit
from searchlora.retrieval.threshold import best_by_sum


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
