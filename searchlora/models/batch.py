"""Prompts with completions as tensors, and the log-probability of the completions. Training and scoring share this."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from searchlora.prompts import IGNORED, Example

if TYPE_CHECKING:
    import torch


def collate(examples: Iterable[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the left, so that all completions end in the last column.

    The model is then asked for the logits of the last columns only: with a vocabulary of 50,000 and completions of 20
    tokens behind prompts of 200, nine tenths of the output layer's work are saved.

    Returns:
        `input_ids`, `attention_mask`, `position_ids` of shape (rows, longest); `labels` of shape (rows, kept), where
        `kept` is the longest completion and column j holds the token in column j - kept of `input_ids`.
    """
    import torch

    rows = list(examples)
    longest = max(len(row.input_ids) for row in rows)
    kept = max(len(row.input_ids) - row.prompt_length for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id)
    attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), kept), IGNORED)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.input_ids)
        input_ids[index, longest - len(ids) :] = ids
        attention_mask[index, longest - len(ids) :] = 1
        completion = ids[row.prompt_length :]
        labels[index, kept - len(completion) :] = completion
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "labels": labels,
    }


def completion_log_probabilities(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability (natural, fp32) of every completion token of a batch made by `collate`.

    Returns:
        Shape as `labels`; 0 where there is no label.
    """
    import torch

    labels = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
    wanted = labels != IGNORED
    found = -torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="none")
    return torch.zeros(labels.shape, device=found.device).masked_scatter(wanted, found)
