"""Training rows: records rendered, and put into batches of similar length."""

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
    """Rendered training rows and the ids of those left out because they are too long."""

    examples: list[Example]
    dropped: list[str]


def render_rows(task: PromptedTask, renderer: Renderer, records: Sequence[Record], recipe: Recipe) -> Rows:
    """Render records for training.

    Raises:
        TrainingError: when there are no records, the task would not read a row's target as an answer, or a row exceeds
            `max_length` and the recipe does not say `drop`.
        RenderError: naming the record that cannot be rendered or has nothing to train on.
    """
    examples, dropped = [], []
    for record in records:
        example = renderer.example(task, record)
        answer = task.parse(task.target(record), record)
        if isinstance(answer, InvalidOutput):
            raise TrainingError(
                f"its target is no answer that the task would read ({answer.reason})",
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
        raise TrainingError("there is no row to train on", fix="Check the dataset's train.jsonl and max_length.")
    return Rows(examples, dropped)


class LengthGroupedBatches:
    """A sampler that puts rows of similar length into one batch and the batches into random order.

    transformers' own grouping leaves the batches of a block sorted from long to short; here the order within an epoch
    is random, and the same for the same seed and epoch, so that a resumed run sees the batches it would have seen.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch.
        block: Batches among which rows are sorted by length.
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
        last = batches.pop() if len(batches[-1]) < self.batch_size else []  # a short batch must stay the last
        generator.shuffle(batches)
        for batch in [*batches, last]:
            yield from batch
