"""Rank fusion: published formulas, a learned order of documents, and titles of what a conversation finds."""

from __future__ import annotations

import math

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import PipelineError, UsageError
from searchlora.eval.trec import ranked
from searchlora.records import Document, Hit
from searchlora.retrieval import BM25Index, Fused, Source, fuse
from searchlora.retrieval.feedback import found_titles
from searchlora.retrieval.fusion import METHODS
from searchlora.retrieval.learning_to_rank import LearnedFusion, RankingFeatures

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


VOTED = {
    "a": Document("a", "A red tent for two.", "Red tent", {"votes": "12"}),
    "b": Document("b", "Boots, warm and red.", "", {"votes": "many"}),
}


def features_of(parts=("bm25", "dense"), fields=("votes",)):
    return RankingFeatures(parts, fields, lambda hit: VOTED[hit.document])


class Fixed:
    def __init__(self, *hits):
        self.hits = [Hit(*hit) for hit in hits]

    def search(self, queries, k, *, filters=None):
        del filters
        return [self.hits[:k] for _ in queries]


def test_features_are_of_parts_texts_and_fields():
    features = features_of()
    ids, matrix = features.of("red tent", [[Hit("b", 4.0), Hit("a", 2.0)], [Hit("a", 0.5)]])
    by_name = {name: dict(zip(ids, column, strict=True)) for name, column in zip(features.names, matrix.T, strict=True)}
    assert ids == ["a", "b"] and matrix.shape == (2, len(features.names))
    assert by_name["bm25.score"] == {"a": 2.0, "b": 4.0} and by_name["bm25.scaled"] == {"a": 0.0, "b": 1.0}
    assert by_name["bm25.rank"] == {"a": 0.5, "b": 1.0} and by_name["dense.scaled"]["a"] == 1.0
    assert math.isnan(by_name["dense.rank"]["b"]) and math.isnan(by_name["field.votes"]["b"])
    assert by_name["field.votes"]["a"] == 12.0
    assert by_name["title.covered"] == {"a": 1.0, "b": 0.0} and by_name["text.covered"] == {"a": 1.0, "b": 0.5}
    assert by_name["title.asked"] == {"a": 1.0, "b": 0.0} and by_name["text.words"]["b"] == 4
    _, none = features.of("red", [None, []])
    assert none.shape == (0, len(features.names))


@pytest.fixture
def model(tmp_path):
    """A model that likes documents with many votes."""
    names = features_of().names
    rng = np.random.default_rng(0)
    rows = rng.random((400, len(names)))
    labels = (rows[:, -1] > 0.5).astype(int)
    data = lightgbm.Dataset(rows, labels, group=[20] * 20, feature_name=list(names))
    settings = {"objective": "lambdarank", "verbosity": -1, "min_data_in_leaf": 5, "num_threads": 1}
    path = tmp_path / "model.txt"
    path.write_text(lightgbm.train(settings, data, 20).model_to_string(), encoding="utf-8")
    return path


def test_a_model_orders_the_documents_of_all_parts(model, monkeypatch):
    monkeypatch.setitem(VOTED, "b", Document("b", "Boots", "", {"votes": "0.1"}))
    monkeypatch.setitem(VOTED, "a", Document("a", "Tent", "", {"votes": "0.9"}))
    sources = [Source(Fixed(("b", 9.0))), Source(Fixed(("b", 1.0), ("a", 0.1)))]
    fusion = LearnedFusion(sources, str(model), features_of())
    (hits,) = fusion.search(["boots"], 10)
    assert [hit.document for hit in hits] == ["a", "b"] and hits[0].score > hits[1].score
    assert [hit.document for hit in fusion.search(["boots"], 1)[0]] == ["a"]
    (empty,) = LearnedFusion([Source(Fixed())], str(model), features_of(("bm25",))).search(["boots"], 10)
    assert empty == []


def test_a_feature_that_the_model_does_not_know_is_refused_and_one_that_is_not_given_is_missing(model):
    with pytest.raises(PipelineError, match=r"has not learned the feature 'splade\.score'"):
        LearnedFusion([Source(Fixed())], str(model), features_of(("bm25", "splade")))
    fusion = LearnedFusion([Source(Fixed(("b", 1.0), ("a", 0.5)))], str(model), features_of(("bm25",)))
    (hits,) = fusion.search(["x"], 2)
    assert {hit.document for hit in hits} == {"a", "b"}


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "text.txt").write_text("tree", encoding="utf-8")
    for name in ("none.txt", "text.txt"):
        with pytest.raises(PipelineError, match=rf"{name}: is not a ranking model"):
            LearnedFusion([Source(Fixed())], str(tmp_path / name), features_of(("bm25",)))
