"""Contrastive losses in which false negatives are masked, after the multiple negatives ranking loss (arXiv:1705.00652).

Every document of a batch is a negative of every query, unless the dataset has it as a positive of that query.
sentence-transformers keeps such rows out of a batch instead (`NoDuplicatesBatchSampler`). Where many queries have the
same relevant documents, as in click logs, only small batches are left then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from searchlora.training.pair_batches import documents_of
from searchlora.training.pairs import PairRow

Matrix: TypeAlias = NDArray[np.float32]
EncodeDocuments: TypeAlias = Callable[[Sequence[str]], Matrix]

#: Vectors of queries and of documents by a teacher.
Teach: TypeAlias = Callable[[Sequence[str], Sequence[str]], tuple[Matrix, Matrix]]

#: Documents that a query is compared with in a step, at most; of more documents, a random part.
MAX_DOCUMENTS = 16_384


class InBatchLoss(torch.nn.Module):
    """Cross-entropy of a row's positive among the documents of the batch, in nats per row.

    `rows` are in the order of the dataset; `temperature` divides the cosine similarities.
    """

    def __init__(self, model: Any, rows: Sequence[PairRow], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.rows = rows
        self.temperature = temperature

    def forward(self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch: the tokenised queries and the distinct documents, and the index of each row,
        shape (batch,).
        """
        # Two passes: in one, queries would be padded to the length of documents.
        queries, documents = (self.model(features)["sentence_embedding"] for features in sentence_features)
        return in_batch_loss(queries, documents, [self.rows[row] for row in labels.tolist()], self.temperature)


def in_batch_loss(
    queries: torch.Tensor, documents: torch.Tensor, rows: Sequence[PairRow], temperature: float
) -> torch.Tensor:
    """The mean loss of vectors of the rows' anchors (rows, dimensions) and of `documents_of(rows)` (documents,
    dimensions).
    """
    shown = documents_of(rows)
    places = {text: place for place, text in enumerate(shown)}
    positives = torch.tensor([places[row.positive] for row in rows], device=queries.device)
    false_negatives = torch.tensor(
        [[key in row.relevant for key in shown.values()] for row in rows], device=queries.device
    )
    normalize = torch.nn.functional.normalize
    scores = normalize(queries, dim=1) @ normalize(documents, dim=1).T / temperature
    return masked_cross_entropy(scores, false_negatives, positives)


def masked_cross_entropy(scores: torch.Tensor, masked: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each row's positive among the documents that are not masked; the positive never is.

    `masked`: Documents to leave out, shape (rows, documents). `positives`: Place of each row's positive, shape (rows,).
    """
    masked = masked.scatter(1, positives[:, None], False)
    return torch.nn.functional.cross_entropy(scores.masked_fill(masked, float("-inf")), positives)


class FrozenDocumentsLoss(torch.nn.Module):
    """Cross-entropy of the positive among all documents of the training rows, in nats per row.

    Only queries are encoded with the adapter: the documents of an index stay as the base encoded them (index-preserving
    LoRA, arXiv:2601.04646). They are encoded once, before training, so that each can be a negative of every query.
    Other positives of the same query are masked.

    A teacher that encodes both sides adds the cross-entropy to its probabilities of all documents, of which none is
    masked: what its documents have learned, the queries learn (distillation, arXiv:1503.02531).

    `encode`: Encodes the documents as an index of the base does, on another copy of it; shape (texts, dimensions).
    """

    def __init__(
        self,
        model: Any,
        encode: EncodeDocuments,
        rows: Sequence[PairRow],
        temperature: float,
        teach: Teach | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.weight = weight
        texts = documents_of(rows)
        numbers = {text: number for number, text in enumerate(texts)}
        self.documents = _unit(encode(list(texts))).to(model.device)
        self.taught: tuple[torch.Tensor, torch.Tensor] | None = None
        if teach is not None:
            places = {text: place for place, text in enumerate(dict.fromkeys(row.anchor for row in rows))}
            queries, documents = map(_unit, teach(list(places), list(texts)))
            self.query_of_row = torch.tensor([places[row.anchor] for row in rows])
            self.taught = queries.to(model.device), documents.to(model.device)
        by_key: dict[int, list[int]] = {}
        for number, key in enumerate(texts.values()):
            by_key.setdefault(key, []).append(number)
        self.positives = torch.tensor([numbers[row.positive] for row in rows])
        #: Numbers of all positives of a row's query.
        self.relevant = [[number for key in row.relevant for number in by_key.get(key, ())] for row in rows]

    def forward(self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch: the tokenised queries as the only column, and the index of each row, shape
        (batch,).
        """
        (features,) = sentence_features
        queries = torch.nn.functional.normalize(self.model(features)["sentence_embedding"], dim=1)
        scores = queries @ self.documents.T / self.temperature
        rows = labels.tolist()
        positives = self.positives[rows].to(scores.device)
        masked = torch.zeros_like(scores, dtype=torch.bool)
        for place, row in enumerate(rows):
            masked[place, self.relevant[row]] = True
        left_out = None
        if len(self.documents) > MAX_DOCUMENTS:
            left_out = torch.rand(len(self.documents), device=scores.device) > MAX_DOCUMENTS / len(self.documents)
            masked |= left_out
        loss = masked_cross_entropy(scores, masked, positives)
        if self.taught is None:
            return loss
        of_queries, of_documents = self.taught
        if left_out is not None:
            scores, of_documents = scores[:, ~left_out], of_documents[~left_out]
        taught = torch.softmax(of_queries[self.query_of_row[rows]] @ of_documents.T / self.temperature, dim=1)
        return loss + self.weight * torch.nn.functional.cross_entropy(scores, taught)


def _unit(vectors: Matrix) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)
