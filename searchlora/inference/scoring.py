"""Scoring answers each with its whole prompt before it: what any causal language model can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from searchlora.inference.engine import Scored
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.prompts import Example

#: Lengths of rows -> the rows of each batch.
Batches = Callable[[Mapping[int, int]], Iterator[list[int]]]


def score_whole(
    model: Any,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    batches: Batches,
) -> Iterator[dict[int, Scored]]:
    """The scores of these rows, batch by batch.

    Args:
        prompts: Token ids of all rows' prompts.
        answers: Token ids of all rows' answers, the stop token at the end of each.
    """
    places = [(row, index) for row in rows for index in range(len(answers[row]))]
    examples = [Example((*prompts[row], *answers[row][index]), len(prompts[row])) for row, index in places]
    found: dict[int, dict[int, float]] = {row: {} for row in rows}
    yield {row: Scored((), 0, 0) for row in rows if not answers[row]}
    for batch in batches({place: len(example.input_ids) for place, example in enumerate(examples)}):
        tensors = collate([examples[place] for place in batch], pad_id)
        on_device = {name: value.to(model.device) for name, value in tensors.items()}
        sums = completion_log_probabilities(model, on_device).sum(-1).tolist()
        done = []
        for place, value in zip(batch, sums, strict=True):
            row, index = places[place]
            found[row][index] = value
            done += [row] if len(found[row]) == len(answers[row]) else []
        yield {row: _whole(found[row], prompts[row], answers[row]) for row in done}


def _whole(found: Mapping[int, float], prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> Scored:
    scores = tuple(found[index] for index in range(len(answers)))
    return Scored(scores, len(prompt) * len(answers), sum(map(len, answers)))
