"""Classification of text vectors: nearest centroid, k nearest neighbours, or logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from searchlora.errors import UsageError
from searchlora.retrieval.encoding import normalised
from searchlora.retrieval.shared_model import Vectors

#: Number of neighbours of `knn`, at most the number of labelled vectors.
NEIGHBOURS = 10


def classify(
    known: Vectors, labels: Sequence[str], vectors: Vectors, method: Literal["centroid", "knn", "linear"] = "centroid"
) -> list[str]:
    """Predict the label of each vector from labelled vectors.

    All vectors are normalised to length 1 first, so that the nearest vector has the largest cosine similarity.

    `known`: Labelled vectors, shape (texts, dimensions). `vectors`: Vectors to classify, shape (texts, dimensions).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    if len(set(labels)) < 2:
        raise UsageError("there are fewer than two classes")
    classifier: Any = NearestCentroid()
    if method == "knn":
        classifier = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), weights="distance")
    elif method == "linear":
        classifier = LogisticRegression(C=10, max_iter=1000)
    predicted = classifier.fit(normalised(known), list(labels)).predict(normalised(vectors))
    return [str(label) for label in predicted]
