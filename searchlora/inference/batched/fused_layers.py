"""Decoder layers whose steps between the products are computed in one go each, where a model's layers are like Llama's.

The model's own code takes about a hundred small operations a layer, which for one token a row cost as much time as the
products (`benchmarks/multi_adapter`).
"""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched import attention
from searchlora.inference.batched.kv_cache import KeyValues
from searchlora.inference.batched.lora_layers import Group, Member
from searchlora.inference.batched.native import kernels
from searchlora.inference.batched.native.bindings import Kernels
from searchlora.inference.batched.norms import Norm

#: Layers of transformers that compute what Llama's do, by the names of their classes. Others have the same parts, but
#: turn the heads of some layers only, or scale queries at far positions, which a look at a few tokens does not show.
_LIKE_LLAMA = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")


class DecoderLayer(torch.nn.Module):
    """Stands in the model where a decoder layer stood.

    Args:
        layer: What stood there, one of `_LIKE_LLAMA`; its linear layers and norms are taken over.
        place: Its number.
        compiled: Computes what lies between the products.
    """

    def __init__(self, layer: Any, place: int, compiled: Kernels) -> None:
        super().__init__()
        attending, mlp = layer.self_attn, layer.mlp
        self._place, self._compiled = place, compiled
        self._size: int = attending.head_dim
        self._key_heads = attending.k_proj.size // self._size
        self._scale: float = attending.scaling
        self._before: tuple[torch.Tensor, float] = layer.input_layernorm.told
        self._between: tuple[torch.Tensor, float] = layer.post_attention_layernorm.told
        self._inward: Group = attending.q_proj.group
        self._outward: Group = attending.o_proj.group
        self._gate_up: Group = mlp.gate_proj.group
        self._down: Group = mlp.down_proj.group

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: KeyValues,
        **unused: Any,
    ) -> torch.Tensor:
        """As the layer: (rows, tokens, size), the same shape."""
        del unused
        compiled = self._compiled
        x = self._inward.all(compiled.norm(hidden_states, *self._before))
        keys, values, starts = cache.of_layer(self._place, self._key_heads, self._size, x)
        query = compiled.rotate(x, position_embeddings, keys, values, starts)
        attended, _ = attention.attend(self, query, keys, values, attention_mask, self._scale)
        x = self._outward.all(attended.flatten(2))
        normed = compiled.norm(x, *self._between, residual=hidden_states.contiguous())  # x is their sum now
        return self._down.all(compiled.gate(self._gate_up.all(normed))).add_(x)


def take_over_layers(model: Any) -> None:
    """Put a `DecoderLayer` in the place of each layer that it computes as the model does, where there are kernels.

    Args:
        model: With linear layers, norms and attention that are taken over.
    """
    backbone = getattr(model, model.base_model_prefix)
    layers, rotary = getattr(backbone, "layers", None), getattr(backbone, "rotary_emb", None)
    compiled = kernels(next(model.parameters()))
    if compiled is None or rotary is None or not isinstance(layers, torch.nn.ModuleList):
        return
    for place, layer in enumerate(layers):
        if _is_like_llama(layer, place, compiled.dtype):
            ours = DecoderLayer(layer, place, compiled)
            if _same(layer, ours, rotary, model.config.get_text_config()):
                layers[place] = ours


def _is_like_llama(layer: Any, place: int, dtype: torch.dtype) -> bool:
    if type(layer).__name__ not in _LIKE_LLAMA or layer.self_attn.layer_idx != place:
        return False
    attending, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    joined = ((attending.q_proj, attending.k_proj, attending.v_proj), (mlp.gate_proj, mlp.up_proj))
    some = torch.linspace(-4, 4, 9)
    return (
        torch.equal(mlp.act_fn(some), torch.nn.functional.silu(some))
        and all(isinstance(each, Norm) and each.told[0].dtype == dtype for each in norms)
        and all(isinstance(each, Member) for each in (attending.o_proj, mlp.down_proj))
        and all(isinstance(each, Member) and each.group is first.group for first, *others in joined for each in others)
    )


def _same(layer: Any, ours: DecoderLayer, rotary: Any, config: Any) -> bool:
    """Whether both compute the same of random rows (a second look: what it is goes by its class)."""
    dtype = ours._before[0].dtype
    positions = torch.arange(3, 6).expand(2, 3)
    generator = torch.Generator().manual_seed(0)
    # Small beside what the layer adds: that is what is compared.
    some = 0.1 * torch.randn(2, 3, ours._inward.size_in, generator=generator).to(dtype)
    mask = torch.full((3, 3), torch.finfo(dtype).min, dtype=dtype).triu(1).expand(2, 1, 3, 3)
    found = []
    with torch.inference_mode():
        turn = rotary(some, positions)
        if any(each.shape != (2, 3, ours._size) or each.dtype != dtype for each in turn):
            return False
        for each in (layer, ours):
            cache = KeyValues(config.num_hidden_layers)
            cache.block(slice(0, 2), 0, 3)
            how = {"attention_mask": mask, "position_ids": positions, "position_embeddings": turn, "cache": cache}
            try:
                out = each(some, use_cache=True, **how)
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # another signature
                return False
            if not isinstance(out, torch.Tensor) or out.dtype != dtype or out.shape != some.shape:
                return False
            found.append(out)
    wanted, got = (each.float() for each in found)
    near = 0.03 * (wanted - some.float()).std() + 2 * torch.finfo(dtype).eps * wanted.abs()
    return bool(((got - wanted).abs() <= near).all())
