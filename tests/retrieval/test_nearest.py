"""Nearest vectors, exact and approximate, and classification by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from searchlora.errors import UsageError
from searchlora.records import Document
from searchlora.retrieval import DenseIndex
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.nearest import Hnsw, Nearest, read_graph, write_graph

GRAPH = Hnsw(m=8, ef_construction=40)


@pytest.fixture(scope="module")
def vectors():
    """Clusters, as texts have them."""
    draw = np.random.default_rng(5)
    centres = draw.standard_normal((20, 16))
    made = (centres[draw.integers(0, 20, 1_500)] + 0.4 * draw.standard_normal((1_500, 16))).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def best(search, vectors, query, k=10):
    rows = search.candidates(query[None], k)
    return rows[np.argsort(-(vectors[rows] @ query), kind="stable")][:k]


def test_most_nearest_vectors_are_found_and_the_file_finds_the_same(vectors, tmp_path):
    index = GRAPH.build(vectors)
    write_graph(index, tmp_path / GRAPH.file)
    opened = read_graph(tmp_path / GRAPH.file)
    assert GRAPH.file in Path("/proc/self/maps").read_text()  # mapped, not read
    exact = Nearest(vectors, 1.0)
    built, saved = (Nearest(vectors, 1.0, each, 64) for each in (index, opened))
    found = 0
    for query in vectors[::50]:
        assert built.candidates(query[None], 10).tolist() == saved.candidates(query[None], 10).tolist()
        found += len(set(best(built, vectors, query)) & set(best(exact, vectors, query)))
    assert found >= 0.9 * 10 * len(vectors[::50])


def test_many_hits_of_a_graph_are_found(vectors):
    search, exact = Nearest(vectors, 1.0, GRAPH.build(vectors), 16), Nearest(vectors, 1.0)
    for query in vectors[::300]:
        found = best(search, vectors, query, 500)
        assert len(found) == 500
        assert len(set(found) & set(best(exact, vectors, query, 500))) >= 0.95 * 500


class Vectors:
    """An encoder whose vectors are those of the fixture, for the text `n`."""

    max_tokens, at_once = None, 1

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, **_options):
        return np.stack([self.vectors[int(text)] for text in texts])

    encode_documents = encode


def test_scores_of_an_approximate_index_are_exact(vectors):
    documents = [Document(f"d{number}", str(number)) for number in range(500)]
    exact, approximate = (DenseIndex(documents, Vectors(vectors), graph=graph, effort=200) for graph in (None, Hnsw()))
    for query in ("0", "77", "1234"):
        assert approximate.search([query], 20) == exact.search([query], 20)


def test_a_small_collection_is_found_whole():
    vectors = np.eye(3, dtype=np.float32)
    search = Nearest(vectors, 1.0, GRAPH.build(vectors), 100)
    assert sorted(search.candidates(vectors[:1], 10)) == [0, 1, 2]


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"not an index")
    with pytest.raises(ValueError, match=r"x\.faiss"):
        read_graph(tmp_path / "x.faiss")
    with pytest.raises(OSError, match="could not open"):
        write_graph(GRAPH.build(np.eye(2, dtype=np.float32)), tmp_path / "missing" / "x.faiss")


POINTS, NUMBERS = make_blobs(n_samples=200, n_features=6, centers=5, cluster_std=3.0, random_state=0)
LABELS = [f"class {number}" for number in NUMBERS]
KNOWN, ASKED = POINTS[:150].astype(np.float32), POINTS[150:].astype(np.float32)
UNIT = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)


def test_centroids_are_means_of_unit_vectors():
    names = sorted(set(LABELS[:150]))
    means = np.array([UNIT[:150][[label == name for label in LABELS[:150]]].mean(axis=0) for name in names])
    distances = ((UNIT[150:, None] - means[None]) ** 2).sum(axis=2)
    assert classify(KNOWN, LABELS[:150], ASKED) == [names[place] for place in distances.argmin(axis=1)]


@pytest.mark.parametrize("method", ["centroid", "knn", "linear"])
def test_vector_length_is_ignored_and_few_vectors_suffice(method):
    known, labels = np.array([[1, 0], [9, 1], [0, 1]], dtype=np.float32), ["x", "x", "y"]
    asked = np.array([[3, 0.1], [0.1, 3], [300, 10]], dtype=np.float32)
    assert classify(known, labels, asked, method)[:1] == ["x"]
    assert classify(known * 7, labels, asked, method) == classify(known, labels, asked * 0.01, method)


def test_a_single_class_is_an_error():
    with pytest.raises(UsageError, match="fewer than two classes"):
        classify(KNOWN[:3], ["x"] * 3, ASKED)
