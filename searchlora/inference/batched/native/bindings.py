"""The compiled kernels as functions of tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

#: Rows with one adapter that a kernel computes together, as in `lora.c`.
TOGETHER = 16

#: Columns of A and B that stand together, as in `lora.c`.
COLUMNS = 16

#: Numbers that are multiplied at a time, as in `lora.c`.
PAIR = {torch.bfloat16: 2, torch.float32: 1}

#: From this rank on it has to be a multiple of it, as in `lora.c`.
DEPTH = 32

#: Columns that a product with a frozen weight computes together where it adds what adapters do, as in
#: `linear_vectors.c`.
EVEN = 32


class Layers(ctypes.Structure):
    """Layers that read the same input, and the A and B of all slots, laid out by `packed`.

    Attributes:
        even: Whether a product with the base's weights can add what adapters do.

    Args:
        a: Of (slots, layers * rank, in).
        b: Of (slots, out, rank), the columns of each layer filled up to whole blocks.
        ends: Shape (layers,), int64: the column of the outcome behind each layer.
        size_in: Of the layers.
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("_a", "_b", "_ends")),
        *((name, ctypes.c_int64) for name in ("_layers", "_in", "_rank")),
    )

    def __init__(self, a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor, size_in: int) -> None:
        self.a, self.b, self.ends = a, b, ends
        self.even = all(end % EVEN == 0 for end in ends.tolist())
        tensors = (each.data_ptr() for each in (a, b, ends))
        super().__init__(*tensors, len(ends), size_in, b.shape[2] * b.shape[4])


class Items(ctypes.Structure):
    """The rows that wear adapters, in groups of up to `TOGETHER` with the same one; a row is one token's here.

    Attributes:
        slots, firsts, counts: Shape (items,), int64: whose A and B; the first place in `rows`; how many rows.
        rows: Shape (n,), int64: the numbers of the rows.
        first: Of the rows, where they follow each other; None where they do not.

    Args:
        rows_of: Slots and the rows of a batch that wear what is in them.
        tokens: Of each row.
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("_slots", "_firsts", "_counts", "_rows")),
        ("_items", ctypes.c_int64),
    )

    def __init__(self, rows_of: Sequence[tuple[int, Sequence[int]]], tokens: int = 1) -> None:
        found, begun = [], 0
        for slot, rows in rows_of:
            end = begun + len(rows) * tokens
            found += [(slot, first, min(TOGETHER, end - first)) for first in range(begun, end, TOGETHER)]
            begun = end
        self.slots, self.firsts, self.counts = torch.tensor(found).T.contiguous()
        worn = torch.tensor([row for _, rows in rows_of for row in rows])
        self.rows = (worn[:, None] * tokens + torch.arange(tokens)).flatten()
        self.first = int(self.rows[0]) if bool((worn.diff() == 1).all()) else None
        tensors = (each.data_ptr() for each in (self.slots, self.firsts, self.counts, self.rows))
        super().__init__(*tensors, len(found))


class Kernels:
    """See the C files; all tensors are of one dtype and on the CPU.

    Attributes:
        tiles: Whether there are matrix registers.
        wide: Columns of a frozen weight that stand together for `linear`, as in its C file.
        few: Rows up to which `linear` is faster than oneDNN; 0 where there is no `linear`.
        adds: Whether it can add what adapters do.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.tiles: bool = bool(library.has_tiles())
        number, tensor = ctypes.c_int64, ctypes.c_void_p
        self._lora, self._attend = library.lora, library.attend
        self._norm, self._rotate, self._gate = library.norm, library.rotate, library.gate
        product, worn = [tensor] * 4 + [number] * 3, (ctypes.POINTER(Layers), ctypes.POINTER(Items))
        self.wide, self.few, self.adds = 0, 0, False
        if self.tiles:
            self.wide, self.few, self._linear = 32, 128, library.linear_tiles
            self._linear.argtypes, self._linear.restype = product, None
        elif hasattr(library, "linear_vectors"):
            self.wide, self.few, self._linear, self.adds = 64, 512, library.linear_vectors, True
            self._linear.argtypes = [*product, tensor, *worn]
        self._norm.argtypes = [tensor] * 4 + [number] * 2 + [ctypes.c_float]
        self._rotate.argtypes = [tensor] * 6 + [number] * 7
        self._gate.argtypes = [tensor] * 2 + [number] * 2
        self._norm.restype = self._rotate.restype = self._gate.restype = None
        self._lora.argtypes = [tensor, tensor, *worn, ctypes.c_int]
        self._attend.argtypes = [tensor] * 5 + [number] * 5 + [tensor, ctypes.c_float]

    def lora(self, x: torch.Tensor, y: torch.Tensor, layers: Layers, items: Items) -> None:
        """Add what each row's adapter does, in place.

        Args:
            x, y: Shape (..., in), (..., out), contiguous.

        Raises:
            MemoryError: when there is none for the products with A.
        """
        _held, begin = _rows_of(items, x)  # until the kernel returns
        if self._lora(begin, y.data_ptr(), layers, items, self.tiles):
            raise MemoryError("no memory for the products with A")

    def linear(
        self,
        x: torch.Tensor,
        weight: int,
        bias: torch.Tensor | None,
        size_out: int,
        worn: tuple[Layers, Items] | None = None,
    ) -> torch.Tensor:
        """A product with a frozen weight, where `few` is not 0.

        Args:
            x: Shape (..., in).
            weight: Where one of (out, in) lies, as `lying` lays it.
            bias: Shape (out,).
            worn: Add what each row's adapter does; only where `adds`, and the layers are `even`.

        Raises:
            MemoryError: when there is none for the products with A.
        """
        x = x.contiguous()
        size, y = x.shape[-1], x.new_empty(*x.shape[:-1], size_out)
        added = None if bias is None else bias.data_ptr()
        given = (x.data_ptr(), weight, added, y.data_ptr(), x.numel() // size, size, size_out)
        if not self.adds:
            self._linear(*given)
            return y
        _held, begin = (None, None) if worn is None else _rows_of(worn[1], x)
        if self._linear(*given, begin, *(worn or (None, None))):
            raise MemoryError("no memory for the products with A")
        return y

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The RMS norm of the last dimension.

        Args:
            x: Shape (..., size).
            weight: Shape (size,), contiguous.
            residual: Shape as x, which has to be contiguous then; it is added to x before, in place.
        """
        x = x.contiguous()
        out = torch.empty_like(x)
        added, size = None if residual is None else residual.data_ptr(), weight.shape[0]
        self._norm(x.data_ptr(), added, weight.data_ptr(), out.data_ptr(), x.numel() // size, size, epsilon)
        return out

    def rotate(
        self,
        x: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        starts: torch.Tensor,
    ) -> torch.Tensor:
        """Let queries and keys turn by their positions; keys and values are put into those that lie in place.

        Args:
            x: Queries, keys and values of each token side by side; shape (rows, new, (heads + 2 * key heads) * size),
                contiguous. The queries in it are turned.
            turn: Cosines and sines, shape (rows, new, size).
            keys, values: Shape (rows, key heads, columns, size), laid out alike, the numbers of a head side by side.
            starts: The column of each row's first new token; shape (rows,), int64.

        Returns:
            The queries, shape (rows, heads, new, size).
        """
        (rows, new, width), (_, key_heads, _, size) = x.shape, keys.shape
        heads = width // size - 2 * key_heads
        held = [x, *(each.contiguous() for each in turn), keys, values, starts]  # until the kernel returns
        tensors = (each.data_ptr() for each in held)
        self._rotate(*tensors, rows, new, heads, key_heads, size, *keys.stride()[:2])
        return x.view(rows, new, -1, size)[:, :, :heads].transpose(1, 2)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, shape (..., size); x: both side by side, shape (..., 2 * size), contiguous."""
        size = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], size)
        self._gate(x.data_ptr(), out.data_ptr(), out.numel() // size, size)
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


def _rows_of(items: Items, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all items, and where the first of them lies; a tensor of their own where they lie apart."""
    if items.first is None:
        x = x.view(-1, x.shape[-1]).index_select(0, items.rows)
        return x, x.data_ptr()
    return x, x.data_ptr() + items.first * x.shape[-1] * x.element_size()


def packed(weights: torch.Tensor) -> torch.Tensor:
    """Weights (..., columns, size) as the kernels read them: (..., blocks, size / PAIR, COLUMNS, PAIR), filled up."""
    pair, (columns, size) = PAIR[weights.dtype], weights.shape[-2:]
    filled = torch.nn.functional.pad(weights, (0, -size % pair, 0, -columns % COLUMNS))
    blocks, pairs = filled.shape[-2] // COLUMNS, filled.shape[-1] // pair
    return filled.reshape(*weights.shape[:-2], blocks, COLUMNS, pairs, pair).transpose(-3, -2).contiguous()


def unpacked(blocks: torch.Tensor) -> torch.Tensor:
    """What `packed` was given, what fills it up with it; shape (..., columns, size)."""
    return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def lying(weight: torch.Tensor, wide: int) -> torch.Tensor | None:
    """A weight (out, in) as `Kernels.linear` reads it: (out / wide, in / 2, wide, 2); None where it cannot."""
    size_out, size_in = weight.shape
    if size_out % wide or size_in % DEPTH or weight.dtype != torch.bfloat16:
        return None
    return weight.view(size_out // wide, wide, size_in // 2, 2).transpose(1, 2)
