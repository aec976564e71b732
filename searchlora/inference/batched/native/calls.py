"""The compiled kernels as functions of tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

#: Rows with one adapter that a kernel computes together, as in `kernels.c`.
ROWS = 4

#: Columns of B that stand together, as in `kernels.c`.
COLUMNS = 64


@dataclass(frozen=True)
class Items:
    """The rows that wear adapters, in groups of up to `ROWS` with the same one.

    Attributes:
        slots, counts: Shape (items,), int64: whose A and B; how many rows.
        rows: Shape (items, ROWS), int64: which rows.
    """

    slots: torch.Tensor
    rows: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, rows_of: Sequence[tuple[int, Sequence[int]]]) -> Items:
        """Of slots and the rows that wear what is in them."""
        found = [(slot, rows[start : start + ROWS]) for slot, rows in rows_of for start in range(0, len(rows), ROWS)]
        return cls(
            slots=torch.tensor([slot for slot, _ in found]),
            rows=torch.tensor([[*rows, *[0] * (ROWS - len(rows))] for _, rows in found]),
            counts=torch.tensor([len(rows) for _, rows in found]),
        )


class Kernels:
    """See `kernels.c`; all tensors are of one dtype and on the CPU."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        number, tensor = ctypes.c_int64, ctypes.c_void_p
        self._lora, self._attend, self._norm = library.lora, library.attend, library.norm
        self._norm.argtypes = [tensor] * 3 + [number] * 2 + [ctypes.c_float]
        self._norm.restype = None
        self._lora.argtypes = [tensor] * 7 + [number] * 5 + [tensor]
        self._attend.argtypes = [tensor] * 5 + [number] * 5 + [tensor, ctypes.c_float]

    def lora(
        self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, items: Items, ends: torch.Tensor
    ) -> None:
        """Add what each row's adapter does, in place.

        Args:
            x, y: Shape (rows, 1, in), (rows, 1, out); y contiguous.
            a, b: Shape (slots, layers * rank, in), (slots, blocks, rank / 2, COLUMNS, 2), contiguous; see `kernels.c`.
            ends: Shape (layers,), int64: the column of y behind each layer.

        Raises:
            MemoryError: when there is none for the products with A.
        """
        x = x.contiguous()
        tensors = (x, y, a, b, items.slots, items.rows, items.counts)
        sizes = (len(items.slots), x.shape[-1], y.shape[-1], 2 * b.shape[2], len(ends))
        if self._lora(*(each.data_ptr() for each in tensors), *sizes, ends.data_ptr()):
            raise MemoryError("no memory for the products with A")

    def norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """The RMS norm of the last dimension.

        Args:
            x: Shape (..., size).
            weight: Shape (size,), contiguous.
        """
        x = x.contiguous()
        out = torch.empty_like(x)
        size = len(weight)
        self._norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // size, size, epsilon)
        return out

    def can_attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> bool:
        """Whether the tensors lie as `attend` reads them, and are of its kind."""
        size = query.shape[3]
        together = all(each.stride()[2:] == (size, 1) for each in (key, value)) and query.stride(3) == 1
        of_kind = all(each.dtype == self.dtype for each in (query, key, value, mask))
        of_size = mask.shape == (query.shape[0], 1, 1, key.shape[2]) and value.shape == key.shape
        return together and of_kind and of_size and mask.stride(3) == 1

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Shape (rows, 1, heads, size).

        Args:
            query: Shape (rows, heads, 1, size), numbers of a head side by side.
            key, value: Shape (rows, key heads, seen, size), those of a head side by side.
            mask: Shape (rows, 1, 1, seen), added to the scores.

        Raises:
            MemoryError: when there is none for the sums.
        """
        rows, heads, _, size = query.shape
        out = query.new_empty(rows, 1, heads, size)
        strides = (ctypes.c_int64 * 7)(*query.stride()[:2], *key.stride()[:2], *value.stride()[:2], mask.stride(0))
        tensors = (query, key, value, mask, out)
        sizes = (rows, heads, key.shape[1], size, key.shape[2])
        if self._attend(*(each.data_ptr() for each in tensors), *sizes, strides, scale):
            raise MemoryError("no memory for the sums of attention")
        return out
