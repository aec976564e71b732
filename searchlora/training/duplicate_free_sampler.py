"""Batches in which no row is a false negative of another."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from sentence_transformers.base.sampler import DefaultBatchSampler

from searchlora.training.pairs import PairRow

#: Batches among which rows are sorted by length, so that little is padded.
BLOCK = 16

#: Rows that are passed over, in batches, before a batch is let go short.
_PASSED_OVER = 32


class DuplicateFreeBatchSampler(DefaultBatchSampler):  # type: ignore[misc]
    """Batches of rows of similar length, in random order, none of which shows what the anchor of another is to find.

    In a contrastive loss every other row of a batch is a negative. sentence-transformers' `NoDuplicatesBatchSampler`
    keeps the same text from standing twice; here a text that is right for another row's anchor is kept away too, though
    another of its texts is in the batch, and so are two rows of one label. A row that does not fit waits for the next
    batch. The batches of an epoch are the same for the same seed.

    Args:
        rows: In the order of the dataset.
    """

    def __init__(self, rows: Sequence[PairRow], dataset: Any, batch_size: int, seed: int, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=False, seed=seed, **options)
        self.rows = rows
        self._first = self._batches(0)

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches(self.epoch) if self.epoch else self._first
        # Another order may need a batch more or less, while the trainer has counted those of the first epoch.
        batches.sort(key=len, reverse=True)
        chosen = [batches[place % len(batches)] for place in range(len(self))]
        random.Random(f"order/{self.seed}/{self.epoch}").shuffle(chosen)
        return iter(chosen)

    def _batches(self, epoch: int) -> list[list[int]]:
        waiting = deque(self._order(epoch))
        batches: list[list[int]] = []
        while waiting:
            batch = self._next(waiting)
            if len(batch) > 1 or not batches:  # alone, a row has no negative
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

    def _next(self, waiting: deque[int]) -> list[int]:
        batch: list[int] = []
        finds: set[int] = set()
        shows: set[int] = set()
        passed: list[int] = []
        while waiting and len(batch) < self.batch_size and len(passed) < _PASSED_OVER * self.batch_size:
            row = waiting.popleft()
            if self.rows[row].clashes(finds, shows):
                passed.append(row)
                continue
            batch.append(row)
            finds |= self.rows[row].finds
            shows |= self.rows[row].shows
        waiting.extendleft(reversed(passed))
        return batch
