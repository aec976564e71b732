"""Classification of vectors equals scikit-learn on unit vectors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from searchlora.errors import UsageError
from searchlora.retrieval.classifying import classify

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
