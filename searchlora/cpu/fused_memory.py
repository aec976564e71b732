"""Memory that a step of the fused decoder takes, from the shapes of a model without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from searchlora.cpu.fused_model import is_supported
from searchlora.cpu.kernels import kernels


@dataclass(frozen=True)
class TreeSize:
    """The size of a batch as a prefix tree.

    Attributes:
        tokens: Of all rows, without their last ones.
        nodes: Different prefixes among them.
        selected: Completion tokens.
    """

    tokens: int
    nodes: int
    selected: int


@dataclass(frozen=True)
class _Group:
    size_in: int
    size_out: int
    rank: int


class FusedMemory:
    """What `FusedDecoder` holds for a model, in bytes.

    Attributes:
        dense: Copies of 4-bit weights, where they are kept.
        rounded: A and B in the precision of the products.
    """

    def __init__(self, base: Any, recompute: bool) -> None:
        self._itemsize: int = base.get_input_embeddings().weight.dtype.itemsize
        self._recompute = recompute
        self._hidden: int = base.get_input_embeddings().weight.shape[1]
        attn = base.model.layers[0].self_attn
        self._layers = [_groups(layer) for layer in base.model.layers]
        self._heads: int = self._layers[0][1].size_in // attn.head_dim
        self._keys_and_values: int = 2 * attn.k_proj.out_features
        groups = [group for layer in self._layers for group in layer]
        self.dense = self._itemsize * sum(group.size_in * group.size_out for group in groups)
        self.rounded = self._itemsize * sum(group.rank * (group.size_in + group.size_out) for group in groups)

    def workspace(self, size: TreeSize) -> int:
        """The `Workspace` after a forward and backward pass."""
        nodes, hidden, most = size.nodes, self._hidden, max(size.nodes, size.selected)
        qkv, output, gate_up, down = self._layers[0]
        # Buffers that the layers share: of norms and activation, and of the gradients of three products.
        shared = most * (hidden + down.size_in + gate_up.size_out + output.size_in) + nodes * qkv.size_out
        inputs = nodes * hidden * len(self._layers) + size.selected * hidden
        log_sums = 4 * nodes * self._heads
        if self._recompute:
            layers, sums = self._kept(self._layers[0], nodes, most), log_sums
        else:
            layers = sum(self._kept(groups, nodes, nodes) for groups in self._layers[:-1])
            layers += self._kept(self._layers[-1], nodes, size.selected)
            sums = log_sums * len(self._layers)
        return self._itemsize * (shared + inputs + layers) + sums + 4 * size.tokens * self._keys_and_values

    def _kept(self, groups: tuple[_Group, ...], nodes: int, selected: int) -> int:
        """Numbers that a layer keeps for its backward pass, besides its input."""
        qkv, output, gate_up, down = groups
        of_all = qkv.size_out + qkv.rank + output.size_in
        return nodes * of_all + selected * (self._hidden + output.rank + gate_up.size_out + gate_up.rank + down.rank)


def fused_memory(model: Any, recompute: bool) -> FusedMemory | None:
    """The memory of a PEFT model's fused layers; None if `fused_model` would refuse its architecture or its LoRA.

    The model may have no weights, only shapes.
    """
    base = model.get_base_model()
    dtype = base.get_input_embeddings().weight.dtype
    if kernels(torch.empty(0, dtype=dtype)) is None or not is_supported(base, dtype):
        return None
    return FusedMemory(base, recompute)


def _groups(layer: Any) -> tuple[_Group, ...]:
    attn, mlp = layer.self_attn, layer.mlp
    groups = (attn.q_proj, attn.k_proj, attn.v_proj), (attn.o_proj,), (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)
    return tuple(
        _Group(layers[0].in_features, sum(one.out_features for one in layers), sum(map(_rank, layers)))
        for layers in groups
    )


def _rank(layer: Any) -> int:
    return int(next(iter(layer.r.values()))) if hasattr(layer, "base_layer") else 0
