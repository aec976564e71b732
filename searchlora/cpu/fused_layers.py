"""Fused RMSNorm and Llama decoder layers: the steps between matrix products as one compiled kernel each.

The model's own code takes about a hundred small operations per layer, which for one token per row cost as much time as
the matrix products (`benchmarks/multi_adapter`). Unsupported layers keep the model's own implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from searchlora.cpu.bindings import Kernels
from searchlora.cpu.kernels import kernels
from searchlora.models.text_model import computing_dtype

#: An attention function as transformers calls it.
Attend = Callable[..., tuple[torch.Tensor, None]]

#: Beginnings of the class names of transformers' models and layers that compute what Llama's do. Others have the same
#: parts but rotate the heads of some layers only, or scale queries at far positions, which a comparison on a few tokens
#: does not show.
LLAMA_LIKE = ("Llama", "Mistral", "Qwen2")

#: What calling a model or layer with an unexpected signature or shapes can raise.
CALL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)


def has_silu(mlp: Any) -> bool:
    x = torch.linspace(-4, 4, 9)
    return torch.equal(mlp.act_fn(x), torch.nn.functional.silu(x))


class FusedRMSNorm(torch.nn.Module):
    """Replaces an RMSNorm module (arXiv:1910.07467) by one kernel; PyTorch takes eight passes over the numbers."""

    def __init__(self, norm: Any, compiled: Kernels, epsilon: float) -> None:
        super().__init__()
        self._norm = norm
        self._compiled = compiled
        self.parameters_of_kernel: tuple[torch.Tensor, float] = (norm.weight.detach().contiguous(), epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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
    """Replaces a decoder layer, one of `LLAMA_LIKE`; its linear layers and norms are reused."""

    def __init__(self, layer: Any, index: int, compiled: Kernels, attend: Attend) -> None:
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp
        self._attend = attend
        self._index, self._compiled = index, compiled
        self.head_size: int = attn.head_dim
        self._key_heads = attn.k_proj.size // self.head_size
        self._scale: float = attn.scaling
        self.input_norm: tuple[torch.Tensor, float] = layer.input_layernorm.parameters_of_kernel
        self._mlp_norm: tuple[torch.Tensor, float] = layer.post_attention_layernorm.parameters_of_kernel
        self.qkv = attn.q_proj.group
        self._output = attn.o_proj.group
        self._gate_up = mlp.gate_proj.group
        self._down = mlp.down_proj.group

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: Any,
        **unused: Any,
    ) -> torch.Tensor:
        del unused
        compiled = self._compiled
        x = self.qkv.all(compiled.rms_norm(hidden_states, *self.input_norm))
        keys, values, starts = cache.layer_views(self._index, self._key_heads, self.head_size, x)
        query = compiled.rope(x, position_embeddings, keys, values, starts)
        attended, _ = self._attend(self, query, keys, values, attention_mask, self._scale)
        x = self._output.all(attended.flatten(2))
        # The kernel adds the residual to x in place before it norms: x is the sum afterwards.
        normed = compiled.rms_norm(x, *self._mlp_norm, residual=hidden_states.contiguous())
        out: torch.Tensor = self._down.all(compiled.swiglu(self._gate_up.all(normed)))
        return out.add_(x)


def fuse_layers(model: Any, attend: Attend, new_cache: Callable[[], Any]) -> None:
    """Replace each RMSNorm and each decoder layer whose fused version computes the same, if there are kernels.

    The model's linear layers (`lora_layers.LoraLinear`) and its attention are replaced already; `new_cache` makes an
    empty `KVCache` for it.
    """
    fuse_norms(model)
    backbone = getattr(model, model.base_model_prefix)
    layers, rotary = getattr(backbone, "layers", None), getattr(backbone, "rotary_emb", None)
    compiled = kernels(next(model.parameters()).new_empty(0, dtype=computing_dtype(model)))
    if compiled is None or rotary is None or not isinstance(layers, torch.nn.ModuleList):
        return
    for index, layer in enumerate(layers):
        if _is_llama_like(layer, index, compiled.dtype):
            fused = FusedDecoderLayer(layer, index, compiled, attend)
            if _computes_the_same(layer, fused, rotary, new_cache):
                layers[index] = fused


def _is_llama_like(layer: Any, index: int, dtype: torch.dtype) -> bool:
    name = type(layer).__name__.removesuffix("DecoderLayer")
    if name not in LLAMA_LIKE or layer.self_attn.layer_idx != index:
        return False
    attn, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    grouped = ((attn.q_proj, attn.k_proj, attn.v_proj), (mlp.gate_proj, mlp.up_proj))
    return (
        has_silu(mlp)
        and all(isinstance(norm, FusedRMSNorm) and norm.parameters_of_kernel[0].dtype == dtype for norm in norms)
        and all(hasattr(linear, "group") for linear in (attn.o_proj, attn.q_proj, mlp.down_proj, mlp.gate_proj))
        and all(getattr(linear, "group", None) is first.group for first, *others in grouped for linear in others)
    )


def _computes_the_same(layer: Any, fused: FusedDecoderLayer, rotary: Any, new_cache: Callable[[], Any]) -> bool:
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
        if any(embedding.shape != (2, 3, fused.head_size) or embedding.dtype != dtype for embedding in embeddings):
            return False
        for module in (layer, fused):
            cache = new_cache()
            cache.begin_pass(slice(0, 2), 0, 3)
            inputs = {
                "attention_mask": mask,
                "position_ids": positions,
                "position_embeddings": embeddings,
                "cache": cache,
            }
            try:
                out = module(x, use_cache=True, **inputs)
            except CALL_ERRORS:
                return False
            if not isinstance(out, torch.Tensor) or out.dtype != dtype or out.shape != x.shape:
                return False
            outputs.append(out)
    expected, actual = (out.float() for out in outputs)
    tolerance = 0.03 * (expected - x.float()).std() + 2 * torch.finfo(dtype).eps * expected.abs()
    return bool(((actual - expected).abs() <= tolerance).all())
