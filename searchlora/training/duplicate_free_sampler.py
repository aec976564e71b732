"""Batch sampler for contrastive training: no row of a batch is a false negative of another."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from sentence_transformers.base.sampler import DefaultBatchSampler

from searchlora.training.pairs import PairRow

#: Number of batches within which rows are sorted by length, to reduce padding.
BLOCK = 16

#: Rows that may be skipped, in batches, before a batch is closed with fewer rows.
_MAX_SKIPPED = 32


class DuplicateFreeBatchSampler(DefaultBatchSampler):  # type: ignore[misc]
    """Batches of rows of similar length, in random order, without false negatives.

    In a contrastive loss every other row of a batch is a negative. sentence-transformers' `NoDuplicatesBatchSampler`
    only keeps equal texts apart. This sampler also keeps apart a row's anchor and any text that is a positive of that
    anchor in the dataset, and two rows of the same label. A row that does not fit waits for the next batch. The batches
    of an epoch are the same for the same seed.

    Args:
        rows: In the order of the dataset.
        dataset: Passed to the base class.
        batch_size: Rows per batch.
        seed: Of the order.
    """

    def __init__(self, rows: Sequence[PairRow], dataset: Any, batch_size: int, seed: int, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=False, seed=seed, **options)
        self.rows = rows
        self._first_epoch = self._batches(0)

    def __len__(self) -> int:
        return len(self._first_epoch)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches(self.epoch) if self.epoch else self._first_epoch
        # Another order may need more or fewer batches, but the trainer counted those of the first epoch.
        batches.sort(key=len, reverse=True)
        chosen = [batches[index % len(batches)] for index in range(len(self))]
        random.Random(f"order/{self.seed}/{self.epoch}").shuffle(chosen)
        return iter(chosen)

    def _batches(self, epoch: int) -> list[list[int]]:
        waiting = deque(self._order(epoch))
        batches: list[list[int]] = []
        while waiting:
            batch = self._next_batch(waiting)
            if len(batch) > 1 or not batches:  # a row alone in a batch has no negative
                batches.append(batch)
        return batches

    def _order(self, epoch: int) -> list[int]:
        generator = random.Random(f"{self.seed}/{epoch}")
        order = list(range(len(self.rows)))
        generator.shuffle(order)
        size = BLOCK * self.batch_size
        return [
            row
            for start in range(0, len(order), size)
            for row in sorted(order[start : start + size], key=lambda row: (len(self.rows[row].positive), row))
        ]

    def _next_batch(self, waiting: deque[int]) -> list[int]:
        batch: list[int] = []
        relevant: set[int] = set()
        shown: set[int] = set()
        skipped: list[int] = []
        while waiting and len(batch) < self.batch_size and len(skipped) < _MAX_SKIPPED * self.batch_size:
            row = waiting.popleft()
            if self.rows[row].clashes(relevant, shown):
                skipped.append(row)
                continue
            batch.append(row)
            relevant |= self.rows[row].relevant
            shown |= self.rows[row].shown
        waiting.extendleft(reversed(skipped))
        return batch
