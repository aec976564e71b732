"""Contrastive loss of the query side alone, over document vectors of the unchanged base.

The documents of an index stay as the base encoded them, and only queries are encoded with the adapter (index-preserving
LoRA, arXiv:2601.04646). Documents are encoded once, before training, so every document of the training rows can be a
negative of every query, not only those of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from searchlora.training.pair_batches import documents_of
from searchlora.training.pairs import PairRow
from searchlora.training.ranking_loss import masked_cross_entropy

EncodeDocuments: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]

#: Documents that a query is compared with in a step, at most; of more documents, a random part.
MAX_DOCUMENTS = 16_384


class FrozenDocumentsLoss(torch.nn.Module):
    """Cross-entropy of the positive among all documents, in nats per row.

    Other positives of the same query are masked. Documents are the distinct positives and negatives of the rows.

    Args:
        model: The `SentenceTransformer` that is trained; it encodes the queries.
        encode: Encodes the documents as an index of the base does, on another copy of it; shape (texts, dimensions).
    """

    def __init__(self, model: Any, encode: EncodeDocuments, rows: Sequence[PairRow], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        texts = documents_of(rows)
        numbers = {text: number for number, text in enumerate(texts)}
        vectors = torch.from_numpy(encode(list(texts)))
        self.documents = torch.nn.functional.normalize(vectors, dim=1).to(model.device)
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
        if len(self.documents) > MAX_DOCUMENTS:
            left_out = torch.rand(len(self.documents), device=scores.device) > MAX_DOCUMENTS / len(self.documents)
            masked |= left_out
        return masked_cross_entropy(scores, masked, positives)
