"""Python bindings of the compiled kernels: functions of tensors, by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from searchlora.cpu.training_bindings import TrainingKernels, declare

#: Rows with the same adapter that a kernel computes together, as in `packing.h`.
ROW_TILE = 16

#: Columns per block of packed weights, as in `packing.h`.
COLUMNS = 16

#: Elements per multiply-add, as in `numeric.h`.
PAIR = {torch.bfloat16: 2, torch.float32: 1}

#: Ranks from this on must be multiples of it, as in `packing.h`.
DEPTH = 32

#: `linear` adds LoRA if all layers end at multiples of this column.
LORA_ALIGNMENT = 32


class LoraTables(ctypes.Structure):
    """A and B of all slots for layers with the same input, packed by `pack` (`struct lora_tables`).

    Args:
        ends: Output column where each layer ends; int64, shape (layers,).
        size_in: Input size of the layers.

    Attributes:
        is_aligned: Whether `linear` can add LoRA in the product with the frozen weight.
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("_a", "_b", "_ranks", "_ends")),
        *((name, ctypes.c_int64) for name in ("_layers", "_in")),
    )

    def __init__(self, ends: torch.Tensor, size_in: int) -> None:
        super().__init__()
        self.is_aligned = all(end % LORA_ALIGNMENT == 0 for end in ends.tolist())
        self.ends = ends
        self.weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # slot -> packed A and B
        self.addresses = torch.zeros(3, 1, dtype=torch.int64)  # of A and of B, and the rank, of each slot
        self._ends, self._layers, self._in = ends.data_ptr(), len(ends), size_in
        self._set_addresses()

    def cover(self, slot: int) -> None:
        if slot >= self.addresses.shape[1]:
            grown = torch.zeros(3, 2 * slot + 1, dtype=torch.int64)
            grown[:, : self.addresses.shape[1]] = self.addresses
            self.addresses = grown
            self._set_addresses()

    def put(self, slot: int, a: torch.Tensor, b: torch.Tensor) -> None:
        """Set the weights of a slot: A packed from (layers * rank, in), and B from (out, rank), each layer padded to
        whole blocks.

        With tile registers, whole tiles of B are read: memory must continue beyond its last block (`PackedSlots.pack`).
        """
        self.cover(slot)
        self.weights[slot] = (a, b)
        self.addresses[:, slot] = torch.tensor([a.data_ptr(), b.data_ptr(), b.shape[-3] * b.shape[-1]])

    def clear(self, slot: int) -> None:
        if self.weights.pop(slot, None) is not None:
            self.addresses[:, slot] = 0

    def _set_addresses(self) -> None:
        self._a, self._b, self._ranks = (row.data_ptr() for row in self.addresses)


class PackedWeight(ctypes.Structure):
    """A frozen weight (out, in) for `Kernels.linear_fp32` (`struct weight`). bf16 weights are multiplied in fp32 and
    take half the memory.
    """

    _fields_ = (
        ("_blocks", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("size_in", "size_out")),
        ("_is_bf16", ctypes.c_int),
    )

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        self.blocks = pack(weight, dtype)
        size_out, size_in = weight.shape
        super().__init__(self.blocks.data_ptr(), size_in, size_out, self.blocks.dtype == torch.bfloat16)

    def dense(self) -> torch.Tensor:
        return unpack(self.blocks)[: self.size_out, : self.size_in]


class LoraItems(ctypes.Structure):
    """The rows (tokens of the batch) that use adapters, in items of up to `ROW_TILE` rows with the same one (`struct
    lora_items`).

    Args:
        rows_of: Slots and the rows of a batch that use them.
        tokens: Tokens per row of the batch.

    Attributes:
        rows: Row numbers, int64, shape (n,).
        first: The first row, if the rows are consecutive; otherwise None.
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("_slots", "_firsts", "_counts", "_rows")),
        ("_items", ctypes.c_int64),
    )

    def __init__(self, rows_of: Sequence[tuple[int, Sequence[int]]], tokens: int = 1) -> None:
        items, start = [], 0
        for slot, rows in rows_of:
            end = start + len(rows) * tokens
            items += [(slot, first, min(ROW_TILE, end - first)) for first in range(start, end, ROW_TILE)]
            start = end
        self.slots, self.firsts, self.counts = torch.tensor(items).T.contiguous()
        batch_rows = torch.tensor([row for _, rows in rows_of for row in rows])
        self.rows = (batch_rows[:, None] * tokens + torch.arange(tokens)).flatten()
        self.first = int(self.rows[0]) if bool((batch_rows.diff() == 1).all()) else None
        tensors = (tensor.data_ptr() for tensor in (self.slots, self.firsts, self.counts, self.rows))
        super().__init__(*tensors, len(items))


class Kernels:
    """The functions of the C files; all tensors have one dtype and are on the CPU.

    Attributes:
        panel: Adjacent columns of a frozen weight packed for `linear`.
        max_rows: Number of rows up to which `linear` is faster than oneDNN; 0 if there is no `linear`.
        path: How products with frozen weights are computed, for `doctor`.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.training = TrainingKernels(library)
        self.uses_amx: bool = bool(library.has_amx())
        lora = (ctypes.POINTER(LoraTables), ctypes.POINTER(LoraItems))
        self.panel, self.max_rows = 0, 0
        if self.uses_amx:
            self.panel, self.max_rows = 32, 512
            self._linear = declare(library.linear_amx, "ttttnnn", *lora, can_fail=True)
        elif hasattr(library, "linear_avx512"):
            self.panel, self.max_rows = 64, 512
            self._linear = declare(library.linear_avx512, "ttttnnnt", *lora, can_fail=True)
        if dtype == torch.float32:
            self._linear_fp32 = declare(library.linear_fp32, "t", ctypes.POINTER(PackedWeight), "ttn")
        vectors = f"vectors of {library.vector_bits()} bits"
        self.path = "tile registers" if self.uses_amx else f"{vectors}, with bf16" if self.max_rows else vectors
        self._rms_norm = declare(library.rms_norm, "ttttnnf")
        self._rope = declare(library.rope, "ttttttnnnnnnn")
        self._swiglu = declare(library.swiglu, "ttnn")
        self._lora = declare(library.lora, "tt", *lora, ctypes.c_int, can_fail=True)
        self._attention = declare(library.attention, "tttttnnnnnntf", can_fail=True)
        self._sample = declare(library.sample, "tittnnnt", can_fail=True)
        self._log_probabilities = declare(library.log_probabilities, "titnnnnttt", can_fail=True)

    def lora(self, x: torch.Tensor, y: torch.Tensor, tables: LoraTables, items: LoraItems) -> None:
        """Add B·A·x of each row's adapter to y, in place; x (..., in) and y (..., out) are contiguous. Raises
        `MemoryError`.
        """
        _keep, first = _first_row(items, x)  # alive until the kernel returns
        if self._lora(first, y.data_ptr(), tables, items, self.uses_amx):
            raise MemoryError("no memory for the products with A")

    def linear(
        self,
        x: torch.Tensor,
        weight: int,
        bias: torch.Tensor | None,
        size_out: int,
        lora: tuple[LoraTables, LoraItems] | None = None,
    ) -> torch.Tensor:
        """Product of x (..., in) with a frozen weight, shape (..., out); only if `max_rows` is not 0. Raises
        `MemoryError`.

        Args:
            weight: Address of a weight (out, in), packed as by `pack_frozen`.
            lora: Adapters to add; only if the tables are aligned.
        """
        x = x.contiguous()
        size, y = x.shape[-1], x.new_empty(*x.shape[:-1], size_out)
        bias_address = None if bias is None else bias.data_ptr()
        arguments = (x.data_ptr(), weight, bias_address, y.data_ptr(), x.numel() // size, size, size_out)
        _keep, first = (None, None) if lora is None or self.uses_amx else _first_row(lora[1], x)
        if self._linear(*arguments, *(() if self.uses_amx else (first,)), *(lora or (None, None))):
            raise MemoryError("no memory for the products with A")
        return y

    def linear_fp32(self, x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None) -> torch.Tensor:
        """Product of x (..., in) with a frozen weight, shape (..., out); only of kernels for fp32."""
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], weight.size_out)
        rows, bias_address = x.numel() // weight.size_in, None if bias is None else bias.data_ptr()
        self._linear_fp32(x.data_ptr(), weight, bias_address, y.data_ptr(), rows)
        return y

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """RMSNorm over the last dimension of x (..., size), into `out` if given; weight (size,).

        A `residual` of x's shape is added to x first, in place; x must be contiguous then.
        """
        x = x.contiguous()
        out = torch.empty_like(x) if out is None else out
        added, size = None if residual is None else residual.data_ptr(), weight.shape[0]
        self._rms_norm(x.data_ptr(), added, weight.data_ptr(), out.data_ptr(), x.numel() // size, size, epsilon)
        return out

    def rope(
        self,
        x: torch.Tensor,
        embeddings: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        starts: torch.Tensor,
    ) -> torch.Tensor:
        """Apply rotary embeddings to queries and keys, and write keys and values to the KV cache.

        Args:
            x: Queries, keys and values of each token side by side; shape (rows, new, (heads + 2 * key heads) * size),
                contiguous. The queries are rotated in place.
            embeddings: Cosines and sines, shape (rows, new, size).
            keys, values: The cache, shape (rows, key heads, columns, size), same strides, a head's elements adjacent.
            starts: Column of each row's first new token; int64, shape (rows,).

        Returns:
            The queries, shape (rows, heads, new, size).
        """
        (rows, new, width), (_, key_heads, _, size) = x.shape, keys.shape
        heads = width // size - 2 * key_heads
        inputs = [x, *(each.contiguous() for each in embeddings), keys, values, starts]  # alive until it returns
        addresses = (tensor.data_ptr() for tensor in inputs)
        self._rope(*addresses, rows, new, heads, key_heads, size, *keys.stride()[:2])
        return x.view(rows, new, -1, size)[:, :, :heads].transpose(1, 2)

    def swiglu(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """silu(gate) * up, shape (..., size); x: gate and up side by side, shape (..., 2 * size), contiguous."""
        size = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], size) if out is None else out
        self._swiglu(x.data_ptr(), out.data_ptr(), out.numel() // size, size)
        return out

    def supports_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> bool:
        rows, _, new, size = query.shape
        contiguous = all(tensor.stride()[2:] == (size, 1) for tensor in (key, value)) and query.stride(3) == 1
        same_dtype = all(tensor.dtype == self.dtype for tensor in (query, key, value, mask))
        same_shape = mask.shape == (rows, 1, new, key.shape[2]) and value.shape == key.shape
        return contiguous and same_dtype and same_shape and mask.stride(3) == 1

    def attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As `backend.attention`, for tensors that `supports_attention`. Raises `MemoryError` if memory runs out."""
        rows, heads, new, size = query.shape
        out = query.new_empty(rows, new, heads, size)
        of_cache = (*key.stride()[:2], *value.stride()[:2])
        strides = (ctypes.c_int64 * 9)(*query.stride()[:3], *of_cache, mask.stride(0), mask.stride(2))
        addresses = (tensor.data_ptr() for tensor in (query, key, value, mask, out))
        if self._attention(*addresses, rows, new, heads, key.shape[1], size, key.shape[2], strides, scale):
            raise MemoryError("no memory for the sums of attention")
        return out

    def sample(
        self, logits: torch.Tensor, rows: Sequence[int], settings: Sequence[Sequence[float]]
    ) -> list[int | None]:
        """Draw a token for some rows of logits (all rows, vocabulary), each row contiguous, of the kernels' dtype or
        fp32.

        Args:
            settings: Inverse temperature, top-k, top-p, min-p, and a number from 0 to 1, for each of `rows`.

        Returns:
            A token for each of `rows`; None for one with NaN or infinity, or all of whose logits are -inf.

        Raises:
            MemoryError: if memory for the candidates runs out.
        """
        places, numbers = np.asarray(rows, np.int64), np.asarray(settings, np.float64)
        tokens = np.empty(len(places), np.int64)
        arrays = (places.ctypes.data, numbers.ctypes.data)
        sizes = (len(places), logits.shape[1], logits.stride(0))
        if self._sample(logits.data_ptr(), logits.dtype == torch.float32, *arrays, *sizes, tokens.ctypes.data):
            raise MemoryError("no memory for the candidates of sampling")
        return [None if token < 0 else token for token in tokens.tolist()]

    def log_probabilities(
        self, logits: torch.Tensor, tokens: Sequence[int], most: int
    ) -> tuple[list[float], list[list[int]], list[list[float]]]:
        """Natural log-probabilities of one token of each row of logits, as for `sample`, and the `most` likely tokens.

        Returns:
            The log-probabilities of `tokens`; ids and log-probabilities of the most likely tokens of each row, best
            first. NaN for a row with NaN or infinity, or all of whose logits are -inf.

        Raises:
            MemoryError: as `sample`.
        """
        places = np.asarray(tokens, np.int64)
        chosen, values = np.empty(len(places)), np.empty((len(places), most))
        ids = np.empty(values.shape, np.int64)
        sizes = (len(places), most, logits.shape[1], logits.stride(0))
        outputs = (array.ctypes.data for array in (chosen, ids, values))
        is_float = logits.dtype == torch.float32
        if self._log_probabilities(logits.data_ptr(), is_float, places.ctypes.data, *sizes, *outputs):
            raise MemoryError("no memory for the candidates of log-probabilities")
        return chosen.tolist(), ids.tolist(), values.tolist()


def _first_row(items: LoraItems, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all items and the address of the first; a copy if the rows are not consecutive."""
    if items.first is None:
        x = x.view(-1, x.shape[-1]).index_select(0, items.rows)
        return x, x.data_ptr()
    return x, x.data_ptr() + items.first * x.shape[-1] * x.element_size()


def pack(weights: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Weights (..., columns, size) in the kernels' layout (..., blocks, size / PAIR, COLUMNS, PAIR), zero-padded.

    Args:
        dtype: Of the result; None: that of the weights.
    """
    pair, (columns, size) = PAIR[dtype or weights.dtype], weights.shape[-2:]
    padding = (0, -size % pair, 0, -columns % COLUMNS)
    padded = torch.nn.functional.pad(weights, padding) if any(padding) else weights
    blocks, pairs = padded.shape[-2] // COLUMNS, padded.shape[-1] // pair
    packed = padded.reshape(*weights.shape[:-2], blocks, COLUMNS, pairs, pair).transpose(-3, -2)
    return torch.empty_like(packed, dtype=dtype, memory_format=torch.contiguous_format).copy_(packed)


def unpack(blocks: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`, padding included; shape (..., columns, size)."""
    return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def pack_frozen(weight: torch.Tensor, panel: int) -> torch.Tensor | None:
    """A weight (out, in) in the layout of `Kernels.linear`, (out / panel, in / 2, panel, 2); None if it cannot be."""
    size_out, size_in = weight.shape
    if size_out % panel or size_in % DEPTH or weight.dtype != torch.bfloat16:
        return None
    return weight.view(size_out // panel, panel, size_in // 2, 2).transpose(1, 2)
