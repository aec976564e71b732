"""A linear map of the query vectors, the cheap rival of an adapter of the query side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation
from searchlora.progress import Steps
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import normalised
from searchlora.task import EvaluationInput, load_encoder_task

#: Weight of the distance from the identity, the best of 30, 100 and 300 on validation queries.
WEIGHT = 100.0

#: Hits per query.
DEPTH = 100

Matrix = NDArray[np.float64]


class MappedEncoder:
    """An encoder whose query vectors are mapped; everything else is as before."""

    def __init__(self, encoder: Encoder, weights: Matrix) -> None:
        self._encoder, self._weights = encoder, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, texts: Any, **options: Any) -> NDArray[np.float32]:
        """The mapped vectors, of length 1."""
        return normalised(self._encoder.encode(texts, **options) @ self._weights).astype(np.float32)


def fitted(queries: Matrix, documents: Matrix) -> Matrix:
    """Ridge regression of document vectors on query vectors, shrunk towards the identity: (QᵀQ + λI)⁻¹(QᵀD + λI).

    Args:
        queries: Of length 1, shape (queries, dimensions).
        documents: The mean of each query's relevant documents, of length 1, in the same shape.
    """
    shrunk = WEIGHT * np.eye(queries.shape[1])
    return np.linalg.solve(queries.T @ queries + shrunk, queries.T @ documents + shrunk)  # type: ignore[no-any-return]


def mapped(dataset: Dataset, model: str, limit: int | None, steps: Steps) -> Evaluation:
    """The test queries of a dataset, by a map that is fitted to its training queries."""
    encoder, task, qrels = Encoder.load(model), load_encoder_task("embedding"), dataset.qrels() or {}
    documents = list(dataset.documents() or ())
    index = DenseIndex(documents, encoder, progress=steps("Encoding: linear map"))
    places = {document.id: place for place, document in enumerate(documents)}
    training, records = dataset.records("train"), dataset.records("test")[:limit]
    relevant = [[places[name] for name, grade in qrels[str(row["id"])].items() if grade > 0] for row in training]
    means = np.stack([index.vectors[rows].mean(axis=0) for rows in relevant])
    queries = encoder.encode([task.query(row) for row in training])
    weights = fitted(*(normalised(vectors).astype(np.float64) for vectors in (queries, means)))
    hits = index.searched_by(MappedEncoder(encoder, weights)).search([task.query(row) for row in records], DEPTH)
    run = {
        str(row["id"]): {hit.document: hit.score for hit in of_row} for row, of_row in zip(records, hits, strict=True)
    }
    return task.evaluate(EvaluationInput(records, [None] * len(records), run, qrels, dataset.relevant))
