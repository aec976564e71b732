"""A gate: features of queries, learning which mix a query needs, and weights of a fusion by them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from searchlora.errors import DataError, PipelineError
from searchlora.records import Document, Hit
from searchlora.retrieval import BM25Index, DenseIndex, Encoder, Fused, Source
from searchlora.retrieval.gate import Gate, GateWeigher, features_of, learn, read_gate
from searchlora.retrieval.query_features import OF_TERMS, OF_TEXT, text_features, vector_features

DOCUMENTS = [Document("d1", "red couch"), Document("d2", "red tent"), Document("d3", "blue lamp 40w")]
MIXES = ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))


@pytest.fixture(scope="module")
def index():
    return BM25Index(DOCUMENTS)


@pytest.fixture(scope="module")
def dense(encoder_base):
    return DenseIndex(DOCUMENTS, Encoder.load(str(encoder_base.path)))


def gate(**changes):
    """A gate of two parts that takes the first for queries with a digit, and the second for others."""
    content = {
        "parts": [["bm25", {}], ["bm25", {"b": 0.0}]],
        "method": "combsum",
        "constant": 60,
        "measure": "nDCG@10",
        "mixes": MIXES,
        "fixed": (0.5, 0.5),
        "features": (*OF_TEXT, *OF_TERMS),
        "dimensions": 0,
        "mean": [0.0] * 8,
        "scale": [1.0] * 8,
        "coefficients": [[0.0] * 8, [0.0] * 8, [0.0, 0.0, 10.0, *[0.0] * 5]],
        "intercepts": [0.2, 0.1, 0.0],
        "validation": {},
        "origin": {},
        "queries": [],
    }
    return Gate.model_validate({**content, **changes})


# Features


def test_features_of_terms_are_those_of_the_collection(index):
    names, values = text_features(["red zebra 40w"], index)
    row = dict(zip(names, values[0], strict=True))
    rarity = {df: math.log(1 + (3 - df + 0.5) / (df + 0.5)) for df in (1, 2)}
    assert row == pytest.approx(
        {
            "terms": math.log(4),
            "characters": math.log(14),
            "digits": 1 / 3,
            "unknown": 1 / 3,
            "idf mean": (rarity[1] + rarity[2]) / 2,
            "idf deviation": abs(rarity[1] - rarity[2]) / 2,
            "idf least": rarity[2],
            "idf most": rarity[1],
        }
    )


@pytest.mark.parametrize("query", ["", "  ", "zebra", "the"])
def test_a_query_without_known_terms_has_finite_features(index, query):
    _, values = text_features([query], index)
    assert np.isfinite(values).all() and values[0][-1] == 0


@pytest.mark.parametrize("backend", ["bm25s", "rank-bm25"])
def test_document_frequencies_are_counted(backend):
    index = BM25Index(DOCUMENTS, method="robertson", backend=backend)
    assert index.document_frequencies(["red", "couch", "zebra"]) == [2, 1, 0]


def test_document_frequencies_of_a_saved_index_are_the_same(index, tmp_path):
    index.save(tmp_path)
    from searchlora.retrieval.retriever import tie_order

    ids = [document.id for document in DOCUMENTS]
    saved = BM25Index.load(tmp_path, ids, tie_order(ids), index.analyzer)
    assert saved.document_frequencies(["red", "couch", "zebra"]) == [2, 1, 0]


def test_vectors_do_not_depend_on_the_queries_beside_them(dense):
    together = vector_features(["red couch", " ", "tent"], dense)
    assert (together[0] == vector_features(["red couch"], dense)[0]).all()
    assert not together[1].any() and together[2].any()


def test_features_come_from_the_parts_that_have_them(index, dense):
    names, values, vectors = features_of(["red"], [dense, index], vectors=True)
    assert names == (*OF_TEXT, *OF_TERMS) and values.shape == (1, 8)
    assert vectors.shape[1] == dense.vectors.shape[1]
    names, values, vectors = features_of(["red"], [dense], vectors=False)
    assert names == OF_TEXT and vectors.shape == (1, 0)


# Learning


def made(count=60, seed=0):
    """Features of which the first decides which of three mixes is best; the second is noise."""
    random = np.random.default_rng(seed)
    text = np.stack([np.arange(count) % 2, random.normal(size=count)], axis=1).astype(float)
    first = text[:, :1]
    values = np.hstack([first, np.full((count, 1), 0.6), 1 - first])
    return text, values + random.normal(size=values.shape) * 0.01


def test_the_mix_that_a_query_needs_is_learned():
    text, values = made()
    learned = learn(text, np.zeros((60, 0)), values, [str(n) for n in range(60)])
    assert learned.fixed == 1  # 0.6 for all beats 1 for half of them
    assert learned.validation["gate"] > 0.95 > 0.61 > learned.validation["fixed"]
    assert np.argmax(learned.coefficients, axis=0)[0] == 0
    assert learned.intercepts == pytest.approx(values.mean(axis=0))


def test_noise_leaves_the_fixed_mix():
    _, values = made()
    random = np.random.default_rng(1)
    learned = learn(random.normal(size=(60, 2)), np.zeros((60, 0)), values, [str(n) for n in range(60)])
    assert learned.coefficients == () and learned.validation["alpha"] is None
    assert learned.fixed == 1


def test_the_vector_is_used_only_where_it_helps():
    text, values = made()
    nothing = np.zeros((60, 1))
    learned = learn(nothing, text, values, [str(n) for n in range(60)])
    assert learned.with_vectors and len(learned.mean) == 3
    assert not learn(text, nothing, values, [str(n) for n in range(60)]).with_vectors


def test_groups_are_never_divided():
    """Queries of a group share an answer that no feature but their number tells: it cannot be learned across groups."""
    groups = np.repeat(np.arange(12), 5)
    random = np.random.default_rng(2)
    right = random.integers(0, 2, size=12)[groups]
    features = np.eye(12)[groups]
    values = np.stack([right, 1 - right], axis=1).astype(float)
    apart = learn(features, np.zeros((60, 0)), values, [str(n) for n in range(60)])
    together = learn(features, np.zeros((60, 0)), values, [str(group) for group in groups])
    assert apart.validation["gate"] == 1.0 and apart.coefficients
    assert together.validation["gate"] < 0.8


def test_repeated_queries_of_a_group_add_no_certainty():
    text, values = made()
    names = [str(n) for n in range(60)]
    once = learn(text, np.zeros((60, 0)), values, names).validation["standard_error"]
    times = learn(np.tile(text, (4, 1)), np.zeros((240, 0)), np.tile(values, (4, 1)), names * 4)
    assert times.validation["standard_error"] == pytest.approx(once, rel=0.02)


@pytest.mark.parametrize(("count", "groups"), [(9, 9), (60, 1)])
def test_too_few_queries_are_refused(count, groups):
    text, values = made(count)
    with pytest.raises(DataError, match="too few to learn from"):
        learn(text, np.zeros((count, 0)), values, [str(n % groups) for n in range(count)])


# Weights


def test_each_query_gets_the_weights_that_its_features_choose(index):
    weigher = GateWeigher(gate(), [index, index])
    assert weigher.weights(["lamp 40w", "red couch", ""]) == [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    assert weigher.weights([]) == []


@pytest.mark.slow
def test_blank_queries_have_a_vector_of_zeros(index, encoder_base):
    dense = DenseIndex([Document("1", "red couch")], Encoder.load(str(encoder_base.path)))
    size = dense.vectors.shape[1]
    wide = {"mean": [0.0] * (8 + size), "scale": [1.0] * (8 + size)}
    rows = [[0.0] * (8 + size), [0.0] * (8 + size), [0.0, 0.0, 10.0, *[0.0] * (5 + size)]]
    parts = [["bm25", {}], ["dense", {}]]
    weigher = GateWeigher(gate(parts=parts, dimensions=size, coefficients=rows, **wide), [index, dense])
    assert weigher.weights(["", " "]) == [weigher.weights(["lamp", ""])[1]] * 2


def test_a_fixed_gate_needs_no_features():
    class Anything:
        def search(self, queries, k):
            raise NotImplementedError

    fixed = GateWeigher(gate(coefficients=()), [Anything(), Anything()])
    assert fixed.weights(["lamp 40w"]) == [(0.5, 0.5)]
    with pytest.raises(PipelineError, match="needs the first BM25 index that it was fitted with"):
        GateWeigher(gate(), [Anything(), Anything()])


def test_parts_that_are_left_share_the_weights(index):
    three = gate(
        parts=[["dense", {}], ["bm25", {"b": 0.0}], ["bm25", {"b": 1.0}]],
        mixes=[(0.2, 0.3, 0.5), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)],
        fixed=(0.2, 0.3, 0.5),
        intercepts=[0.1, 0.0, 0.2],
        coefficients=[[0.0] * 8] * 3,
    )
    assert GateWeigher(three, [index] * 3).weights(["red"]) == [(0.0, 0.0, 1.0)]
    assert GateWeigher(three, [index] * 2, (0, 1)).weights(["red"]) == [(0.5, 0.5)]  # it wanted neither
    assert GateWeigher(three, [index] * 2, (1, 2)).weights(["red"]) == [(0.0, 1.0)]
    assert GateWeigher(three, [index], (1,)).weights(["red"]) == [(1.0,)]
    with pytest.raises(PipelineError, match="for 3 parts"):
        GateWeigher(three, [index] * 2)


class Turned:
    """A dense part whose query vectors are (1, 0) or (0, 1)."""

    def __init__(self, place):
        self.vector = np.eye(2, dtype=np.float32)[place]

    def search(self, queries, k):
        raise NotImplementedError

    def query_vectors(self, queries):
        return np.tile(self.vector, (len(queries), 1))


def test_features_come_from_the_parts_that_the_gate_was_fitted_with(index):
    made = gate(
        parts=[["bm25", {}], ["dense", {"model": "a"}], ["dense", {"model": "b"}]],
        mixes=[(0.0, 1.0, 1.0), (1.0, 1.0, 0.0)],
        fixed=(0.0, 1.0, 1.0),
        dimensions=2,
        mean=[0.0] * 10,
        scale=[1.0] * 10,
        coefficients=[[*[0.0] * 8, 1.0, 0.0], [*[0.0] * 8, 0.0, 1.0]],
        intercepts=[0.0, 0.0],
    )
    first, second = Turned(0), Turned(1)
    assert GateWeigher(made, [index, first, second]).weights(["red"]) == [(0.0, 0.5, 0.5)]
    assert GateWeigher(made, [second, first, index], (2, 1, 0)).weights(["red"]) == [(0.5, 0.5, 0.0)]
    assert GateWeigher(made, [index, first], (0, 1)).weights(["red"]) == [(0.0, 1.0)]
    assert GateWeigher(made, [second], (2,)).weights(["red"]) == [(1.0,)]
    for what, parts, places in (("encoder", [index, second], (0, 2)), ("BM25 index", [first, second], (1, 2))):
        with pytest.raises(PipelineError, match=f"needs the first {what} that it was fitted with"):
            GateWeigher(made, parts, places)


def test_a_fusion_takes_the_weights_of_each_query():
    class Listed:
        def __init__(self, *documents):
            self.hits = [Hit(document, float(-place)) for place, document in enumerate(documents)]

        def search(self, queries, k):
            return [self.hits[:k]] * len(queries)

    class ByLength:
        def weights(self, queries):
            return [(1.0, 0.0) if len(query) > 3 else (0.25, 0.75) for query in queries]

    sources = [Source(Listed("a", "b", "c")), Source(Listed("c", "d"))]
    one, two = Fused(sources, method="combsum", weigher=ByLength()).search(["long", "abc"], 10)
    assert [(hit.document, hit.score) for hit in one] == [("a", 1.0), ("b", 0.5), ("c", 0.0)]
    assert [(hit.document, hit.score) for hit in two] == [("c", 0.75), ("a", 0.25), ("b", 0.125), ("d", 0.0)]


# Files


def test_a_gate_is_what_was_written(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(gate().model_dump_json(), encoding="utf-8")
    assert read_gate(path) == gate()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mixes": [[0.5, 0.5]]}, "do not fit together"),
        ({"scale": [0.0] * 8}, "do not fit together"),
        ({"fixed": [0.3, 0.7]}, "do not fit together"),
        ({"dimensions": 3}, "do not fit together"),
        ({"format": 2}, "format"),
        ({"weights": 1}, "weights"),
    ],
)
def test_a_file_that_is_no_gate_is_refused(tmp_path, change, named):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps({**json.loads(gate().model_dump_json()), **change}), encoding="utf-8")
    with pytest.raises(DataError, match=named):
        read_gate(path)


def test_a_changed_file_is_refused(tmp_path):
    from searchlora.files import file_sha256

    path = tmp_path / "gate.json"
    path.write_text(gate().model_dump_json(), encoding="utf-8")
    pinned = file_sha256(path)
    path.write_text(gate(intercepts=[0.0, 0.0, 1.0]).model_dump_json(), encoding="utf-8")
    with pytest.raises(DataError, match="has changed"):
        read_gate(path, pinned)
    with pytest.raises(DataError):
        read_gate(tmp_path / "none.json")
