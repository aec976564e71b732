"""Rows of supervised fine-tuning: rendered records, and a sampler of batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from searchlora.errors import TrainingError
from searchlora.outputs import InvalidOutput
from searchlora.prompts import Example, Renderer
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.task import PromptedTask


@dataclass(frozen=True)
class Rows:
    """Rendered training rows, and the ids of records dropped because they are too long."""

    examples: list[Example]
    dropped: list[str]


def render_rows(task: PromptedTask, renderer: Renderer, records: Sequence[Record], recipe: Recipe) -> Rows:
    """Render records for training.

    Raises:
        TrainingError: for no rows, a target that the task cannot parse, or a row above `max_length` unless the recipe
            has `too_long: drop`.
        RenderError: for a record that cannot be rendered or has no tokens to train on; names the record.
    """
    examples, dropped = [], []
    for record in records:
        example = renderer.example(task, record)
        answer = task.parse(task.target(record), record)
        if isinstance(answer, InvalidOutput):
            raise TrainingError(
                f"the task cannot parse its target ({answer.reason})",
                where=f"record {record['id']}",
                fix="Correct the record, or leave it out.",
            )
        if len(example.input_ids) <= recipe.max_length:
            examples.append(example)
        elif recipe.too_long == "drop":
            dropped.append(str(record["id"]))
        else:
            raise TrainingError(
                f"has {len(example.input_ids)} tokens, more than max_length = {recipe.max_length}",
                where=f"record {record['id']}",
                fix="Raise max_length, or set too_long=drop to train without such rows.",
            )
    if not examples:
        reason = f": all {len(dropped)} have more than max_length = {recipe.max_length} tokens" if dropped else ""
        raise TrainingError(
            f"there is no row to train on{reason}", fix="Check the dataset's train.jsonl and max_length."
        )
    return Rows(examples, dropped)


class LengthGroupedBatches:
    """Sampler that groups rows of similar length into batches and shuffles the batches.

    transformers' own grouping leaves the batches of a block sorted from long to short. Here their order is random, and
    the same for the same seed and epoch, so a resumed run sees the same batches.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per batch.
        seed: Of the order.
        block: Number of batches within which rows are sorted by length.

    Examples:
        >>> list(LengthGroupedBatches([9, 1, 8, 2], batch_size=2, seed=0))
        [1, 3, 2, 0]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, block: int = 32) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.block = block
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        size = self.block * self.batch_size
        grouped: list[int] = []
        for start in range(0, len(order), size):
            grouped += sorted(order[start : start + size], key=lambda index: (self.lengths[index], index))
        batches = [grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)]
        last = batches.pop() if len(batches[-1]) < self.batch_size else []  # an incomplete batch must be the last
        generator.shuffle(batches)
        for batch in [*batches, last]:
            yield from batch
