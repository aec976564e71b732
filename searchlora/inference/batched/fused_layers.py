"""Fused RMSNorm and Llama decoder layers: the steps between matrix products as one compiled kernel each.

The model's own code takes about a hundred small operations per layer, which for one token per row cost as much time as
the matrix products (`benchmarks/multi_adapter`). Unsupported layers keep the model's own implementation.
"""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched import attention
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.lora_layers import LoraLayerGroup, LoraLinear
from searchlora.models.native import kernels
from searchlora.models.native.bindings import Kernels

#: Class names of transformers' layers that compute what Llama's do. Others have the same parts but rotate the heads of
#: some layers only, or scale queries at far positions, which a comparison on a few tokens does not show.
_LLAMA_LIKE = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")

#: What calling a layer with an unexpected signature or shapes can raise.
_CALL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)


class FusedRMSNorm(torch.nn.Module):
    """Replaces an RMSNorm module (arXiv:1910.07467) by one kernel; PyTorch takes eight passes over the numbers.

    Args:
        norm: The module to replace.
        compiled: The kernels.
        epsilon: Epsilon of the norm.

    Attributes:
        parameters_of_kernel: Weight and epsilon, as `Kernels.rms_norm` takes them.
    """

    def __init__(self, norm: Any, compiled: Kernels, epsilon: float) -> None:
        super().__init__()
        self._norm = norm
        self._compiled = compiled
        self.parameters_of_kernel: tuple[torch.Tensor, float] = (norm.weight.detach().contiguous(), epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the norm: the same shape as x."""
        if x.dtype != self.parameters_of_kernel[0].dtype:
            return self._norm(x)  # type: ignore[no-any-return]
        return self._compiled.rms_norm(x, *self.parameters_of_kernel)


def fuse_norms(model: Any) -> None:
    """Replace each RMSNorm of a model whose kernel computes the same, if there are kernels."""
    for path, norm in list(model.named_modules()):
        if not type(norm).__name__.endswith("RMSNorm"):
            continue
        fused = _fused_norm(norm)
        if fused is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, fused)


def _fused_norm(norm: Any) -> FusedRMSNorm | None:
    """None if there are no kernels, or the norm computes something else (some add 1 to their weight)."""
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return None
    compiled = kernels(weight)
    if compiled is None:
        return None
    fused = FusedRMSNorm(norm, compiled, epsilon)
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.inference_mode():
        expected, actual = norm(x), fused(x)
    tolerance = 4 * torch.finfo(weight.dtype).eps * expected.abs().float().clamp(min=1e-3)
    same = actual.dtype == expected.dtype and bool(((actual.float() - expected.float()).abs() <= tolerance).all())
    return fused if same else None


class FusedDecoderLayer(torch.nn.Module):
    """Replaces a decoder layer.

    Args:
        layer: The layer to replace, one of `_LLAMA_LIKE`; its linear layers and norms are reused.
        index: Its index in the model.
        compiled: The kernels for norm, rotary embedding, attention and SwiGLU.
        batch_invariant: Use batch-invariant attention.
    """

    def __init__(self, layer: Any, index: int, compiled: Kernels, batch_invariant: bool = False) -> None:
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp
        self._attend = attention.attend_invariant if batch_invariant else attention.attend
        self._index, self._compiled = index, compiled
        self.head_size: int = attn.head_dim
        self._key_heads = attn.k_proj.size // self.head_size
        self._scale: float = attn.scaling
        self.input_norm: tuple[torch.Tensor, float] = layer.input_layernorm.parameters_of_kernel
        self._mlp_norm: tuple[torch.Tensor, float] = layer.post_attention_layernorm.parameters_of_kernel
        self.qkv: LoraLayerGroup = attn.q_proj.group
        self._output: LoraLayerGroup = attn.o_proj.group
        self._gate_up: LoraLayerGroup = mlp.gate_proj.group
        self._down: LoraLayerGroup = mlp.down_proj.group

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: KVCache,
        **unused: Any,
    ) -> torch.Tensor:
        """As the layer: (rows, new, hidden size) -> the same shape."""
        del unused
        compiled = self._compiled
        x = self.qkv.all(compiled.rms_norm(hidden_states, *self.input_norm))
        keys, values, starts = cache.layer_views(self._index, self._key_heads, self.head_size, x)
        query = compiled.rope(x, position_embeddings, keys, values, starts)
        attended, _ = self._attend(self, query, keys, values, attention_mask, self._scale)
        x = self._output.all(attended.flatten(2))
        # The kernel adds the residual to x in place before it norms: x is the sum afterwards.
        normed = compiled.rms_norm(x, *self._mlp_norm, residual=hidden_states.contiguous())
        return self._down.all(compiled.swiglu(self._gate_up.all(normed))).add_(x)


def fuse_decoder_layers(model: Any, batch_invariant: bool = False) -> None:
    """Replace each decoder layer whose fused version computes the same, if there are kernels.

    Args:
        model: A model whose linear layers, norms and attention are replaced already.
        batch_invariant: Use batch-invariant attention.
    """
    backbone = getattr(model, model.base_model_prefix)
    layers, rotary = getattr(backbone, "layers", None), getattr(backbone, "rotary_emb", None)
    compiled = kernels(next(model.parameters()))
    if compiled is None or rotary is None or not isinstance(layers, torch.nn.ModuleList):
        return
    for index, layer in enumerate(layers):
        if _is_llama_like(layer, index, compiled.dtype):
            fused = FusedDecoderLayer(layer, index, compiled, batch_invariant)
            if _computes_the_same(layer, fused, rotary, model.config.get_text_config()):
                layers[index] = fused


def _is_llama_like(layer: Any, index: int, dtype: torch.dtype) -> bool:
    if type(layer).__name__ not in _LLAMA_LIKE or layer.self_attn.layer_idx != index:
        return False
    attn, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    grouped = ((attn.q_proj, attn.k_proj, attn.v_proj), (mlp.gate_proj, mlp.up_proj))
    x = torch.linspace(-4, 4, 9)
    return (
        torch.equal(mlp.act_fn(x), torch.nn.functional.silu(x))
        and all(isinstance(each, FusedRMSNorm) and each.parameters_of_kernel[0].dtype == dtype for each in norms)
        and all(isinstance(each, LoraLinear) for each in (attn.o_proj, mlp.down_proj))
        and all(
            isinstance(each, LoraLinear) and each.group is first.group for first, *others in grouped for each in others
        )
    )


def _computes_the_same(layer: Any, fused: FusedDecoderLayer, rotary: Any, config: Any) -> bool:
    """Whether both compute the same for random rows (in addition to the check by class name)."""
    dtype = fused.input_norm[0].dtype
    positions = torch.arange(3, 6).expand(2, 3)
    generator = torch.Generator().manual_seed(0)
    # Small beside what the layer adds, so that the comparison is about that.
    x = 0.1 * torch.randn(2, 3, fused.qkv.size_in, generator=generator).to(dtype)
    mask = torch.full((3, 3), torch.finfo(dtype).min, dtype=dtype).triu(1).expand(2, 1, 3, 3)
    outputs = []
    with torch.inference_mode():
        embeddings = rotary(x, positions)
        if any(each.shape != (2, 3, fused.head_size) or each.dtype != dtype for each in embeddings):
            return False
        for each in (layer, fused):
            cache = KVCache(config.num_hidden_layers)
            cache.begin_pass(slice(0, 2), 0, 3)
            inputs = {
                "attention_mask": mask,
                "position_ids": positions,
                "position_embeddings": embeddings,
                "cache": cache,
            }
            try:
                out = each(x, use_cache=True, **inputs)
            except _CALL_ERRORS:
                return False
            if not isinstance(out, torch.Tensor) or out.dtype != dtype or out.shape != x.shape:
                return False
            outputs.append(out)
    expected, actual = (each.float() for each in outputs)
    tolerance = 0.03 * (expected - x.float()).std() + 2 * torch.finfo(dtype).eps * expected.abs()
    return bool(((actual - expected).abs() <= tolerance).all())


class RotaryTable(torch.nn.Module):
    """Batch-invariant rotary embeddings: cosines and sines are computed once per block of positions, and looked up.

    PyTorch computes the last elements of a thread's share without vector instructions, and so with another rounding.

    Args:
        rotary: The module to replace.
    """

    _BLOCK = 1024

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self._rotary = rotary
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None  # cosines, sines; shape (positions, head size)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions (rows, new); shape (rows, new, head size)."""
        needed = int(position_ids.max()) + 1
        while self._tables is None or len(self._tables[0]) < needed:
            start = 0 if self._tables is None else len(self._tables[0])
            positions = torch.arange(start, start + self._BLOCK, device=position_ids.device)
            cos, sin = (each[0] for each in self._rotary(x, positions[None]))
            before = self._tables
            self._tables = (cos, sin) if before is None else (torch.cat([before[0], cos]), torch.cat([before[1], sin]))
        return self._tables[0][position_ids], self._tables[1][position_ids]


def replace_rotary(model: Any) -> None:
    """Replace the rotary embeddings of a model by a `RotaryTable`, if that gives the same."""
    backbone = getattr(model, model.base_model_prefix)
    rotary = getattr(backbone, "rotary_emb", None)
    if rotary is None:
        return
    table = RotaryTable(rotary)
    x, positions = next(model.parameters())[:1], torch.tensor([[3, 1, 2]], device=model.device)
    try:
        same = all(map(torch.equal, rotary(x, positions), table(x, positions)))
    except _CALL_ERRORS:
        return
    if same:
        backbone.rotary_emb = table
