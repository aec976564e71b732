"""Losses over graded completions: soft labels of several raters, and RankNet or MarginMSE over pairs.

A completion is a grade that one token tells apart from the other grades. One forward pass therefore gives the
log-probability of every grade at the position of that token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from searchlora.errors import TrainingError
from searchlora.eval.text_identity import fingerprint
from searchlora.prompts import IGNORED, Renderer
from searchlora.records import GradedTarget, Record
from searchlora.task import COMPLETION, GenerationTask

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GradedRows:
    """The graded targets of training rows, which share one scale."""

    position: int  # number of completion tokens before the one that tells the grades apart
    token_ids: tuple[int, ...]
    grades: tuple[float, ...]
    groups: list[int]  # hash of the group of each row, shape (rows,); 63 bits, which torch holds
    shares: list[tuple[float, ...]]
    teacher: list[float] = field(default_factory=list)  # score of a teacher, shape (rows,); nan for a row without one
    relevant: int = 1

    @property
    def expected(self) -> list[float]:
        return [sum(g * share for g, share in zip(self.grades, row, strict=True)) for row in self.shares]


def graded_rows(task: GenerationTask, renderer: Renderer, records: Sequence[Record]) -> GradedRows:
    """The graded targets of records; that of a record with a chosen `completion` is its grade alone."""
    first: GradedTarget | None = None
    groups, shares, teacher = [], [], []
    for record in records:
        target = task.graded_target(record)
        if target is None:
            raise TrainingError(
                f"the completions of the task '{task.name}' are not grades",
                where=f"record {record['id']}",
                fix="Set loss.ranking=0 and loss.soft_labels=false.",
            )
        first = first or target
        if (target.completions, target.grades) != (first.completions, first.grades):
            raise TrainingError("has another scale than the first record", where=f"record {record['id']}")
        groups.append(fingerprint(target.group) >> 1)
        shares.append(target.shares)
        teacher.append(math.nan if target.teacher is None else float(target.teacher))
    if first is None:
        raise TrainingError("there is no row to train on")
    position, token_ids = choice_tokens([renderer.completion_ids(text) for text in first.completions])
    for row, record in enumerate(records):
        if COMPLETION in record:  # a chosen completion takes the place of the raters' grades
            chosen = renderer.completion_ids(task.completion(record))[position : position + 1]
            shares[row] = tuple(float([token] == chosen) for token in token_ids)
            if not any(shares[row]):
                raise TrainingError("field 'completion': is not a grade", where=f"record {record['id']}")
    return GradedRows(position, token_ids, first.grades, groups, shares, teacher, first.relevant)


def choice_tokens(completions: Sequence[Sequence[int]]) -> tuple[int, tuple[int, ...]]:
    """Where completions differ: number of tokens that all begin with, and the next token of each.

    Examples:
        >>> choice_tokens([[7, 1, 2], [7, 3, 2]])
        (1, (1, 3))
    """
    position = len(list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*completions, strict=False))))
    tokens = tuple(ids[position] for ids in completions if position < len(ids))
    if len(set(tokens)) < len(completions):
        raise TrainingError(
            "the base's tokenizer does not tell all grades apart by one token",
            fix="Name the grades by different digits, or set loss.ranking=0 and loss.soft_labels=false.",
        )
    return position, tokens


def choice_columns(labels: torch.Tensor, position: int) -> torch.Tensor:
    return (labels == IGNORED).sum(1) + position


def choice_log_probabilities(logits: torch.Tensor, columns: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """Log-probability over the vocabulary of each choice's token, fp32, shape (rows, grades).

    `columns`: Column of each row, shape (rows,).
    """
    import torch

    at_choice = logits[torch.arange(len(logits), device=logits.device), columns].float()
    return at_choice.log_softmax(-1)[:, list(token_ids)]


def ranking_loss(
    scores: torch.Tensor,
    expected: torch.Tensor,
    groups: torch.Tensor,
    weights: torch.Tensor,
    *,
    kind: Literal["ranknet", "margin_mse"],
) -> torch.Tensor:
    """A ranking loss over the rows of each group, a scalar; 0 where no two rows of a group differ.

    RankNet (Burges et al. 2005): mean over pairs with different grades of log(1 + exp(s_lower - s_higher)). MarginMSE
    (Hofstätter et al. 2020, arXiv:2010.02666): mean over pairs of the squared difference between the model's margin and
    the target's.

    `scores`: The model's scores divided by the temperature, shape (rows,). `expected`: The targets, mean grades or a
    teacher's scores, divided by the temperature, shape (rows,). `groups`: Group of each row, shape (rows,). `weights`:
    Weight of each row, shape (rows,). A pair counts with the mean of its rows.
    """
    import torch

    same = groups[:, None] == groups[None, :]
    if kind == "margin_mse":
        one, other = torch.nonzero(torch.triu(same, diagonal=1), as_tuple=True)
        losses = (scores[one] - scores[other] - expected[one] + expected[other]) ** 2
        return (losses * (weights[one] + weights[other]) / 2).sum() / max(len(losses), 1)
    higher, lower = torch.nonzero(same & (expected[:, None] > expected[None, :]), as_tuple=True)
    losses = torch.nn.functional.softplus(scores[lower] - scores[higher])
    return (losses * (weights[higher] + weights[lower]) / 2).sum() / max(len(losses), 1)
