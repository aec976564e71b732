"""Multiple negatives ranking loss (arXiv:1705.00652) in which false negatives are masked.

Every document of a batch is a negative of every query, unless the dataset has it as a positive of that query.
sentence-transformers keeps such rows out of a batch instead (`NoDuplicatesBatchSampler`). Where many queries have the
same relevant documents, as in click logs, only small batches are left then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from searchlora.training.pair_batches import documents_of
from searchlora.training.pairs import PairRow


class RankingLoss(torch.nn.Module):
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
        return ranking_loss(queries, documents, [self.rows[row] for row in labels.tolist()], self.temperature)


class CachedRankingLoss(CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """`RankingLoss` with cached gradients (arXiv:2101.06983): the same loss for batches beyond memory.

    `mini_batch_size` texts are in a forward pass.
    """

    def __init__(self, model: Any, rows: Sequence[PairRow], temperature: float, mini_batch_size: int) -> None:
        super().__init__(model, scale=1 / temperature, mini_batch_size=mini_batch_size)
        self.rows = rows

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: torch.Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """The loss of vectors that are given in mini-batches: those of queries, and of documents."""
        assert labels is not None
        queries, documents = map(torch.cat, reps)
        loss = ranking_loss(queries, documents, [self.rows[row] for row in labels.tolist()], self.temperature)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss


def ranking_loss(
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

    Args:
        scores: Shape (rows, documents).
        masked: Documents to leave out, shape (rows, documents).
        positives: Place of each row's positive, shape (rows,).
    """
    masked = masked.scatter(1, positives[:, None], False)
    return torch.nn.functional.cross_entropy(scores.masked_fill(masked, float("-inf")), positives)
