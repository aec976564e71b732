"""Batches of contrastive training: rows of similar length in random order, and each document of a batch once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from searchlora.training.pairs import PairRow

#: Number of batches within which rows are sorted by length, to reduce padding.
BLOCK = 16


def documents_of(rows: Iterable[PairRow]) -> dict[str, int]:
    """The distinct positives and negatives of rows and their keys, in the order of the rows."""
    return {text: key for row in rows for text, key in zip((row.positive, *row.negatives), row.shown, strict=True)}


class PairBatchSampler(DefaultBatchSampler):  # type: ignore[misc]
    """Batches of rows in random order, each row once per epoch.

    Among the rows of 16 batches, those with documents of similar length share a batch, which reduces padding, and those
    with the same document, which is then encoded once for all of them; unless `by_length` is false, as documents are
    not encoded. A row that would be alone at the end, without a negative, is in the batch before it. The batches of an
    epoch are the same for the same seed.
    """

    def __init__(
        self,
        rows: Sequence[PairRow],
        dataset: Any,
        batch_size: int,
        seed: int,
        *,
        by_length: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=False, seed=seed, **options)
        self.rows = rows
        self.by_length = by_length

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[int]]:
        generator = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.rows)))
        generator.shuffle(order)
        if self.by_length:
            size = BLOCK * self.batch_size
            blocks = (order[start : start + size] for start in range(0, len(order), size))
            order = [row for block in blocks for row in sorted(block, key=self._length)]
        starts = self._starts()
        batches = [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]
        generator.shuffle(batches)
        return iter(batches)

    def _starts(self) -> range:
        alone = len(self.rows) % self.batch_size == 1 and len(self.rows) > 1
        return range(0, len(self.rows) - alone, self.batch_size)

    def _length(self, row: int) -> tuple[int, str]:
        positive = self.rows[row].positive
        return len(positive), positive


@dataclass
class PairCollator(SentenceTransformerDataCollator):  # type: ignore[misc]
    """Tokenises the anchors of a batch, and its documents as the column `document`: each once.

    The column `label` of the dataset has the indices of `rows`.
    """

    rows: Sequence[PairRow] = ()

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().__call__(features)
        texts = documents_of(self.rows[feature["label"]] for feature in features)
        tokenized = self.preprocess_fn(list(texts), prompt=None, task=None)
        return {**batch, **{f"document_{key}": value for key, value in tokenized.items()}}
