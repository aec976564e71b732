"""Features of a query and its candidates, and a fusion whose documents a ranking model orders."""

from __future__ import annotations

import math

import lightgbm
import numpy as np
import pytest

from searchlora.errors import PipelineError
from searchlora.records import Document, Hit
from searchlora.retrieval.fusion import Source
from searchlora.retrieval.learning_to_rank import LearnedFusion, RankingFeatures

DOCUMENTS = {
    "a": Document("a", "A red tent for two.", "Red tent", {"votes": "12"}),
    "b": Document("b", "Boots, warm and red.", "", {"votes": "many"}),
}


def features_of(parts=("bm25", "dense"), fields=("votes",)):
    return RankingFeatures(parts, fields, lambda hit: DOCUMENTS[hit.document])


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
    monkeypatch.setitem(DOCUMENTS, "b", Document("b", "Boots", "", {"votes": "0.1"}))
    monkeypatch.setitem(DOCUMENTS, "a", Document("a", "Tent", "", {"votes": "0.9"}))
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
