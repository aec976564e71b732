"""Recognises models that the fused decoder can train, and computes the log-probabilities of a batch with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from searchlora.cpu.fused_decoder import FusedDecoder
from searchlora.cpu.fused_layers import CALL_ERRORS, LLAMA_LIKE, has_silu
from searchlora.cpu.kernels import kernels
from searchlora.cpu.lora_group import is_4_bit
from searchlora.cpu.prefix_tree import prefix_tree
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.memory import available_memory
from searchlora.prompts import IGNORED, Example

#: Share of the free memory that dense copies of 4-bit weights may take.
_DENSE_SHARE = 0.25


class FusedModel:
    """Log-probabilities and logits of completions by a `FusedDecoder`, as `models.batch.FastModel`."""

    def __init__(self, decoder: FusedDecoder) -> None:
        self._decoder = decoder

    def log_probabilities(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = batch["labels"]
        is_completion = labels != IGNORED
        of_labels = self._decoder.log_probabilities(self._hidden_states(batch), labels[is_completion])
        return torch.zeros(labels.shape).masked_scatter(is_completion, of_labels)

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """As `models.batch.completion_logits`; 0 where the label is `IGNORED`."""
        labels, head = batch["labels"], self._decoder.head
        logits = torch.nn.functional.linear(self._hidden_states(batch), head)
        return head.new_zeros(*labels.shape, len(head)).index_put((labels != IGNORED).nonzero(as_tuple=True), logits)

    def _hidden_states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Inputs of the output layer before each completion token, shape (completion tokens, hidden size)."""
        labels, mask = batch["labels"], batch["attention_mask"].bool()
        row, column = (labels != IGNORED).nonzero(as_tuple=True)
        before = mask.sum(1)[row] - labels.shape[1] + column - 1
        if bool((before < 0).any()):
            raise ValueError("a row has no token before its completion")
        # Nothing is predicted after the last token of a row.
        tree = prefix_tree([ids[seen][:-1].tolist() for ids, seen in zip(batch["input_ids"], mask, strict=True)])
        return self._decoder.hidden_states(tree, tree.nodes_at(row, before))


def fused_model(model: Any, *, recompute: bool = False) -> FusedModel | None:
    """A PEFT model with fused layers; None if it would not compute the same, or there are no kernels.

    Supported are plain LoRA and rsLoRA without dropout on any linear layers of a decoder like Llama's, on dense and
    4-bit weights. Dense copies of 4-bit weights are kept where they take at most a quarter of the free memory.

    `model` has run no forward pass in eval mode; `recompute` is gradient checkpointing.
    """
    base = model.get_base_model()
    dtype = base.get_input_embeddings().weight.dtype
    compiled = kernels(base.get_input_embeddings().weight)
    if compiled is None or not is_supported(base, dtype):
        return None
    size = sum(layer.in_features * layer.out_features for layer in base.modules() if _is_linear_4_bit(layer))
    keep_dense = size * dtype.itemsize <= _DENSE_SHARE * available_memory()
    decoder = FusedDecoder(base, compiled, keep_dense=keep_dense, recompute=recompute)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if trained != {id(parameter) for parameter in decoder.parameters}:
        return None
    fused = FusedModel(decoder)
    return fused if _computes_the_same(model, fused, decoder.parameters) else None


def _is_linear_4_bit(layer: Any) -> bool:
    return isinstance(layer, torch.nn.Linear) and is_4_bit(layer)


def is_supported(base: Any, dtype: torch.dtype) -> bool:
    config, name = base.config.get_text_config(), type(base).__name__.removesuffix("ForCausalLM")
    if name not in LLAMA_LIKE or getattr(config, "sliding_window", None) or config.attention_dropout:
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    backbone, head = base.model, base.get_output_embeddings()
    norms = [backbone.norm]
    for index, layer in enumerate(backbone.layers):
        attn, mlp = layer.self_attn, layer.mlp
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        linear = (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if (
            type(layer).__name__ != f"{name}DecoderLayer"
            or attn.layer_idx != index
            or attn.head_dim % 2
            or not has_silu(mlp)
            or not all(_is_linear(layer, dtype) for layer in linear)
        ):
            return False
    return (
        type(head) is torch.nn.Linear
        and getattr(head, "bias", None) is None
        and head.weight.dtype == dtype
        and type(base.get_input_embeddings()) is torch.nn.Embedding
        and all(norm.weight.dtype == dtype for norm in norms)
    )


def _is_linear(layer: Any, dtype: torch.dtype) -> bool:
    """Whether a layer is linear, with plain LoRA without dropout or none."""
    if hasattr(layer, "base_layer"):
        if not is_plain_lora(layer):
            return False
        (name,) = layer.lora_A
        if not isinstance(layer.lora_dropout[name], torch.nn.Identity) or layer.merged or layer.disable_adapters:
            return False
        layer = layer.base_layer
    return isinstance(layer, torch.nn.Linear) and (is_4_bit(layer) or layer.weight.dtype == dtype)


def is_plain_lora(module: torch.nn.Module) -> bool:
    """Whether a module is one of PEFT's LoRA layers with one active adapter without a bias."""
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or type(module).__name__ not in ("Linear", "Linear4bit"):
        return False
    names = list(module.lora_A)
    return len(names) == 1 and module.active_adapters == names and module.lora_B[names[0]].bias is None


def _computes_the_same(model: Any, fused: FusedModel, parameters: list[torch.nn.Parameter]) -> bool:
    """Whether log-probabilities and gradients of two rows are the model's own (beside the check by class name)."""
    vocabulary = model.get_base_model().get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 9), generator=generator)
    ids[1, :4] = ids[0, :4]
    batch = collate([Example(tuple(ids[0].tolist()), 5), Example(tuple(ids[1, :8].tolist()), 2)], 0)
    was_training = model.training
    model.train()  # in eval mode, bitsandbytes would repack 4-bit weights
    try:
        with _random_b(parameters, generator):
            results = []
            for own in (True, False):
                out = completion_log_probabilities(model, batch) if own else fused.log_probabilities(batch)
                gradients = torch.autograd.grad(out.sum(), parameters)
                results.append((out.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    except CALL_ERRORS:
        return False
    finally:
        model.train(was_training)
    (expected, own_gradient), (actual, gradient) = results
    is_fp32 = model.get_base_model().get_input_embeddings().weight.dtype == torch.float32
    # The directions of the gradients are compared closely; in bf16 their lengths differ by some hundredths.
    closeness, tolerance = (0.9999, 1e-3) if is_fp32 else (0.97, 0.1)
    return bool(
        ((actual - expected).abs() <= tolerance * (1 + expected.abs())).all()
        and torch.cosine_similarity(gradient, own_gradient, dim=0) > closeness
        and (gradient.norm() / own_gradient.norm() - 1).abs() < tolerance
    )


@contextmanager
def _random_b(parameters: list[torch.nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    """B is 0 at first, and with it the gradients of A; random numbers in place of it."""
    before = [parameter.detach().clone() for parameter in parameters[1::2]]
    try:
        for parameter in parameters[1::2]:
            parameter.data.normal_(0, 0.02, generator=generator)
        yield
    finally:
        for parameter, values in zip(parameters[1::2], before, strict=True):
            parameter.data.copy_(values)
