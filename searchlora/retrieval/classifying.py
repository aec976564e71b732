"""Naming the class of a text by its vector, from vectors whose class is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from searchlora.errors import UsageError
from searchlora.retrieval.encoder import Vectors

#: The nearest vectors that `knn` asks, fewer where there are not as many.
NEIGHBOURS = 10


def classify(
    known: Vectors, labels: Sequence[str], vectors: Vectors, method: Literal["centroid", "knn", "linear"] = "centroid"
) -> list[str]:
    """The label of each vector.

    All vectors are brought to length 1 first, so that the nearest is the one of greatest cosine.

    Args:
        known: (texts, dimensions), their classes in `labels`.
        vectors: (more texts, dimensions).
        method: `centroid`, the class whose mean vector is nearest; `knn`, the vote of the nearest vectors, each by the
            inverse of its distance; `linear`, multinomial logistic regression (scikit-learn's, C = 10). All three are
            scikit-learn's.

    Raises:
        UsageError: when there are fewer than two classes.
    """
    if len(set(labels)) < 2:
        raise UsageError("there are no two classes to tell apart")
    fitted = _classifier(method, len(labels)).fit(_unit(known), list(labels))
    return [str(label) for label in fitted.predict(_unit(vectors))]


def _classifier(method: str, texts: int) -> Any:
    if method == "centroid":
        from sklearn.neighbors import NearestCentroid

        return NearestCentroid()
    if method == "knn":
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(min(NEIGHBOURS, texts), weights="distance")
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10, max_iter=1000)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
