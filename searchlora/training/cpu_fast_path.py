"""CPU fast path of a training step.

Decoders like Llama's with plain LoRA and no dropout are computed by `fused_model`. Others keep the model's own code,
with fewer passes over memory: PEFT computes with fp32 A and B beside a bf16 base, so the input of each layer is copied
to fp32, the update is computed in fp32, scaled, and copied back. Here A and B are rounded to bf16 for the products, as
mixed precision does on a GPU, and the scaling is applied to the small product between them; A, B and their gradients
stay in fp32. Attention over short sequences is two matrix products. `benchmarks/training` measures the effect.
"""

from __future__ import annotations

from typing import Any

import torch

from searchlora.models.attention import attention
from searchlora.models.batch import FAST_MODEL
from searchlora.training.fused_model import fused_model, is_plain_lora

#: Value of the model's `_attn_implementation`.
ATTENTION = "searchlora-training"


def enable_cpu_fast_path(model: Any, *, recompute: bool = False) -> bool:
    """Speed up the training of a PEFT model on a CPU, in place.

    A model that `fused_model` supports gets its log-probabilities from there. Otherwise the forward pass of plain LoRA
    layers and the attention are replaced; DoRA and other variants, and the attention of models with logit softcapping,
    are unchanged.

    Args:
        model: A PEFT model that has run no forward pass in eval mode.
        recompute: Gradient checkpointing.

    Returns:
        Whether `fused_model` supports the model.
    """
    fused = fused_model(model, recompute=recompute)
    if fused is not None:
        setattr(model, FAST_MODEL, fused)
        return True
    for module in model.modules():
        if is_plain_lora(module):
            module.forward = _LoraForward(module)
    base = model.get_base_model()
    config = base.config.get_text_config()
    if (
        config._attn_implementation == "sdpa"
        and base._supports_attention_backend
        and not getattr(config, "attn_logit_softcapping", None)
    ):
        _register()
        base.set_attn_implementation(ATTENTION)
    return False


class _LoraForward:
    """The forward pass of a plain LoRA layer."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        (self._name,) = layer.lora_A

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer, name = self._layer, self._name
        if layer.disable_adapters or layer.merged or layer.active_adapters != [name]:
            output: torch.Tensor = type(layer).forward(layer, x)
            return output
        y: torch.Tensor = layer.base_layer(x)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        dropped = layer.lora_dropout[name](x)
        # Flattened, because the output of an autograd function must not be a view if the model adds to it in place.
        flat_x, flat_y = dropped.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        output = _LoraFunction.apply(flat_x, flat_y, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
        return output.view(y.shape)


class _LoraFunction(torch.autograd.Function):
    """y + scaling · (x Aᵀ) Bᵀ for x (n, in) and y (n, out) in their dtype; gradients of A and B in theirs."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        cast_a, cast_b = a.to(x.dtype), b.to(x.dtype)
        inner = torch.mm(x, cast_a.T).mul_(scaling)
        ctx.save_for_backward(x, inner, cast_a, cast_b)
        ctx.scaling, ctx.dtypes = scaling, (a.dtype, b.dtype)
        return torch.addmm(y, inner, cast_b.T)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, inner, a, b = ctx.saved_tensors
        grad_inner = torch.mm(grad, b).mul_(ctx.scaling)
        grad_a, grad_b = torch.mm(grad_inner.T, x).to(ctx.dtypes[0]), torch.mm(grad.T, inner).to(ctx.dtypes[1])
        grad_x = torch.mm(grad_inner, a) if ctx.needs_input_grad[0] else None
        return grad_x, grad, grad_a, grad_b, None


def _register() -> None:
    """Register `ATTENTION` with transformers, with the masks of its "sdpa"."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`models.attention` as transformers calls it, causal where no mask is given.

    Attention with dropout, with a mask that is not bool, or that is not causal falls back to transformers' "sdpa".

    Returns:
        Shape (rows, tokens, heads, size).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    supported = getattr(module, "is_causal", True) if attention_mask is None else attention_mask.dtype == torch.bool
    if dropout or not supported:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    return attention(query, key, value, attention_mask, scaling, causal=True).contiguous(), None
