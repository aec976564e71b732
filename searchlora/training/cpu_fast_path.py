"""LoRA and attention of a training step with fewer passes over memory, for a CPU.

PEFT computes with fp32 A and B beside a bf16 base: all that a layer reads is copied to fp32, all that it gives is made
in fp32, multiplied by the scaling, and copied back. Here A and B are rounded to bf16 for the products, as mixed
precision does on a GPU, and the scaling goes to the small product between them; A, B and their gradients stay in fp32.
Attention of short rows is two plain products; PyTorch's blockwise kernel is slow at them, above all backwards.
`benchmarks/training_speed` has the ratios.
"""

from __future__ import annotations

from typing import Any

import torch

from searchlora.models.attention import plain

#: As the model's `_attn_implementation`.
ATTENTION = "searchlora-training"

#: Scores (rows x heads x tokens x tokens) of a layer up to which attention is computed plainly; they are kept for the
#: way back.
_PLAIN = 5_000_000


def enable_cpu_fast_path(model: Any) -> None:
    """Let a PEFT model that is to be trained compute its plain LoRA layers and its attention as said above.

    DoRA and other variants, and models that cap their attention scores, stay as they are.
    """
    for module in model.modules():
        if _is_plain(module):
            module.forward = _Forward(module)
    base = model.get_base_model()
    config = base.config.get_text_config()
    if (
        config._attn_implementation == "sdpa"
        and base._supports_attention_backend
        and not getattr(config, "attn_logit_softcapping", None)
    ):
        _register()
        base.set_attn_implementation(ATTENTION)


def _is_plain(module: torch.nn.Module) -> bool:
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or type(module).__name__ not in ("Linear", "Linear4bit"):
        return False
    names = list(module.lora_A)
    return (
        len(names) == 1
        and module.active_adapters == names
        and not module.lora_variant
        and module.lora_B[names[0]].bias is None
    )


class _Forward:
    """The forward pass of a plain LoRA layer."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        (self._name,) = layer.lora_A

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer, name = self._layer, self._name
        if layer.disable_adapters or layer.merged or layer.active_adapters != [name]:
            as_before: torch.Tensor = type(layer).forward(layer, x)
            return as_before
        y: torch.Tensor = layer.base_layer(x)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        dropped = layer.lora_dropout[name](x)
        # Flat on both sides: what a function of one's own gives must be no view where a model adds to it in place.
        rows, into = dropped.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        found: torch.Tensor = _Lora.apply(rows, into, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
        return found.view(y.shape)


class _Lora(torch.autograd.Function):
    """y + scaling * (x A') B' of x (n, in) and y (n, out), in their dtype; gradients of A and B in theirs."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = torch.mm(x, low_a.T).mul_(scaling)
        ctx.save_for_backward(x, inner, low_a, low_b)
        ctx.scaling, ctx.kinds = scaling, (a.dtype, b.dtype)
        return torch.addmm(y, inner, low_b.T)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, inner, a, b = ctx.saved_tensors
        of_inner = torch.mm(grad, b).mul_(ctx.scaling)
        of_a, of_b = torch.mm(of_inner.T, x).to(ctx.kinds[0]), torch.mm(grad.T, inner).to(ctx.kinds[1])
        of_x = torch.mm(of_inner, a) if ctx.needs_input_grad[0] else None
        return of_x, grad, of_a, of_b, None


def _register() -> None:
    """Make `ATTENTION` known to transformers, with the masks of its "sdpa"."""
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
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with grouped queries, causal where no mask is given.

    Args:
        query: Shape (rows, heads, tokens, size).
        key, value: Shape (rows, key heads, tokens, size).
        attention_mask: What each token sees, bool; shape (rows, 1, tokens, tokens).

    Returns:
        Shape (rows, tokens, heads, size).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, tokens, size = query.shape
    seen = key.shape[2]
    too_many = rows * heads * tokens * seen > _PLAIN
    masked = getattr(module, "is_causal", True) if attention_mask is None else attention_mask.dtype == torch.bool
    if too_many or dropout or not masked:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    if attention_mask is None:
        attention_mask = torch.ones(tokens, seen, dtype=torch.bool, device=query.device).tril(seen - tokens)
    scale = size**-0.5 if scaling is None else scaling
    return plain(query, key, value, attention_mask, scale).contiguous(), None
