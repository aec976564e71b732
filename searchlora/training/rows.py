"""Rows of supervised fine-tuning: rendered records, and a sampler of batches of similar length."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from searchlora.errors import TrainingError
from searchlora.outputs import InvalidOutput
from searchlora.prompts import Example, Renderer
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.task import GenerationTask
from searchlora.training.graded import GradedRows, graded_rows

#: Number of batches within which rows are sorted by length.
_BLOCK = 32

#: Chunks searched for one that fits into a batch.
_LOOKAHEAD = 64


@dataclass(frozen=True)
class Rows:
    """Rendered training rows."""

    examples: list[Example]  # token ids of each row, 4 bytes each
    dropped: list[str]
    weights: list[float]
    graded: GradedRows | None = None  # graded targets, for a ranking loss or soft labels; else None


def render_rows(
    task: GenerationTask,
    renderer: Renderer,
    records: Sequence[Record],
    recipe: Recipe,
    weights: Sequence[float] | None = None,
) -> Rows:
    """Render records for training."""
    examples: list[Example] = []
    dropped, kept, kept_weights = [], [], []
    for record, weight in zip(records, weights or [1.0] * len(records), strict=True):
        example = _rendered(task, renderer, record)
        if len(example.input_ids) <= recipe.max_length:
            examples.append(Example(array("i", example.input_ids), example.prompt_length))
            kept.append(record)
            kept_weights.append(weight)
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
    needs_grades = recipe.loss.ranking or recipe.loss.soft_labels
    if not needs_grades:
        _refuse_ungraded(task, kept)
    return Rows(examples, dropped, kept_weights, graded_rows(task, renderer, kept) if needs_grades else None)


def _refuse_ungraded(task: GenerationTask, records: Sequence[Record]) -> None:
    """Raise `TrainingError` for a record with a teacher's score alone, of which only a ranking loss learns."""
    for record in records:
        target = task.graded_target(record)
        if target is not None and not any(target.shares):
            raise TrainingError(
                "has no grade",
                where=f"record {record['id']}",
                fix="Train with loss.ranking=1 and loss.ranking_target=teacher, or leave such records out.",
            )


def _rendered(task: GenerationTask, renderer: Renderer, record: Record) -> Example:
    example = renderer.example(task, record)
    answer = task.parse(task.completion(record), record)
    if isinstance(answer, InvalidOutput):
        raise TrainingError(
            f"the task cannot parse its target ({answer.reason})",
            where=f"record {record['id']}",
            fix="Correct the record, or leave it out.",
        )
    return example


class LengthGroupedBatches:
    """Sampler that groups rows of similar length into batches and shuffles the batches.

    transformers' own grouping leaves the batches of a block sorted from long to short. Here their order is random, and
    the same for the same seed and epoch, so a resumed run sees the same batches.

    Examples:
        >>> list(LengthGroupedBatches([9, 1, 8, 2], batch_size=2, seed=0))
        [1, 3, 2, 0]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}/{self.epoch}")
        batches = self._batches(generator)
        last = batches.pop() if len(batches[-1]) < self.batch_size else []  # an incomplete batch must be the last
        generator.shuffle(batches)
        for batch in [*batches, last]:
            yield from batch

    def _batches(self, generator: random.Random) -> list[list[int]]:
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        size = _BLOCK * self.batch_size
        grouped: list[int] = []
        for start in range(0, len(order), size):
            grouped += sorted(order[start : start + size], key=lambda index: (self.lengths[index], index))
        return [grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)]


class GroupedBatches(LengthGroupedBatches):
    """Sampler that keeps rows of one group together in a batch, in chunks that span the group's grades.

    The rows of a group are sorted by grade and dealt in turn to chunks of at most `group_size`. Chunks of similar
    length share a batch, and the batches are shuffled. A chunk is split only where no other fills its batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        groups: Sequence[int],
        grades: Sequence[float],
        batch_size: int,
        group_size: int,
        seed: int,
    ) -> None:
        super().__init__(lengths, batch_size, seed)
        self.grades, self.group_size = grades, group_size
        self._rows: dict[int, list[int]] = {}
        for row, group in enumerate(groups):
            self._rows.setdefault(group, []).append(row)

    def _batches(self, generator: random.Random) -> list[list[int]]:
        chunks: list[list[int]] = []
        for members in self._rows.values():
            rows = sorted(generator.sample(members, len(members)), key=lambda row: self.grades[row])
            number = -(-len(rows) // self.group_size)
            chunks += [rows[start::number] for start in range(number)]
        generator.shuffle(chunks)
        in_block = _BLOCK * self.batch_size // self.group_size
        ordered: list[list[int]] = []
        for start in range(0, len(chunks), in_block):
            ordered += sorted(chunks[start : start + in_block], key=lambda chunk: max(self.lengths[r] for r in chunk))
        return list(_packed(ordered, self.batch_size))


def _packed(chunks: Sequence[list[int]], size: int) -> Iterator[list[int]]:
    """Batches of `size` rows, the last perhaps smaller: each takes the first chunks that fit, or a part of one."""
    waiting = list(chunks)
    while waiting:
        batch: list[int] = []
        while waiting and len(batch) < size:
            room = size - len(batch)
            at = next((index for index, chunk in enumerate(waiting[:_LOOKAHEAD]) if len(chunk) <= room), 0)
            chunk = waiting.pop(at)
            batch += chunk[:room]
            if chunk[room:]:
                waiting.insert(0, chunk[room:])
        yield batch
