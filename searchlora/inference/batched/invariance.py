"""The parts of a batch-invariant model beside attention and linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Rows of one logarithm of a sum on a GPU: few, since each has a number for every token of the vocabulary.
_GPU_LOGIT_ROWS = 32

#: Rows of a block of a linear layer or a norm.
CPU_ROWS, GPU_ROWS = 32, 256


def in_blocks(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, size: int) -> torch.Tensor:
    """The results of a function of rows (n, ...), computed in blocks of `size` rows of which the last is padded.

    A library chooses its algorithm, and with it the order of its sums, by the shapes of its operands. With one shape,
    and if the algorithm treats all rows of a block alike, a row's result depends on that row only.
    """
    missing = -len(rows) % size
    padded = torch.nn.functional.pad(rows, (*[0, 0] * (rows.dim() - 1), 0, missing)) if missing else rows
    blocks = [function(block) for block in torch.split(padded, size)]
    output = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return output[: len(rows)]


def log_sums(logits: torch.Tensor) -> torch.Tensor:
    """Batch-invariant logarithms of the sums of exponentials; (n, vocabulary) -> (n,)."""
    size = 1 if logits.device.type == "cpu" else _GPU_LOGIT_ROWS
    return in_blocks(lambda block: block.logsumexp(-1), logits, size)


class BlockedNorm(torch.nn.Module):
    """A norm that is computed for blocks of tokens: a GPU shares a sum among threads by the number of rows."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self._norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return in_blocks(self._norm, x.flatten(0, 1), GPU_ROWS).view(x.shape)


def block_norms(model: Any) -> None:
    """Compute the norms of a model on a GPU in blocks; the CPU's sum of a row does not depend on other rows."""
    if model.device.type == "cpu":
        return
    for path, norm in list(model.named_modules()):
        if type(norm).__name__.endswith("Norm"):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, BlockedNorm(norm))


class RotaryTable(torch.nn.Module):
    """Batch-invariant rotary embeddings: cosines and sines are computed once per block of positions, and looked up.

    PyTorch computes the last elements of a thread's share without vector instructions, and so with another rounding.
    """

    _BLOCK = 1024

    def __init__(self, rotary: Any, x: torch.Tensor) -> None:
        super().__init__()
        self._rotary = rotary
        self._x = x[:0]  # its dtype and device are those of the table
        none = torch.empty(0, device=x.device)
        self._tables: tuple[torch.Tensor, torch.Tensor] = (none, none)  # cosines, sines; shape (positions, head size)

    def reserve(self, positions: int) -> None:
        """Compute the table for this many positions, before a pass uses them."""
        while len(self._tables[0]) < positions:
            start = len(self._tables[0])
            block = torch.arange(start, start + self._BLOCK, device=self._x.device)
            new = (table[0] for table in self._rotary(self._x, block[None]))
            self._tables = tuple(  # type: ignore[assignment]
                torch.cat([before, table]) if start else table for before, table in zip(self._tables, new, strict=True)
            )

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        del x
        return self._tables[0][position_ids], self._tables[1][position_ids]


def replace_rotary(model: Any) -> RotaryTable | None:
    """Replace a model's rotary embeddings by a table; None if it has none, or others."""
    backbone = getattr(model, model.base_model_prefix)
    rotary = getattr(backbone, "rotary_emb", None)
    if rotary is None:
        return None
    x, positions = next(model.parameters())[:1], torch.tensor([[3, 1, 2]], device=model.device)
    table = RotaryTable(rotary, x)
    try:
        table.reserve(1)
        same = all(map(torch.equal, rotary(x, positions), table(x, positions)))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # another signature, other shapes
        return None
    if not same:
        return None
    backbone.rotary_emb = table
    return table
