"""Forward pass of a base model over rows that each have their own adapter and length, with an in-place KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from searchlora.cpu import backend
from searchlora.inference.batched import attention
from searchlora.inference.batched.frozen_linear import FrozenLinear, merged_linear, release_originals
from searchlora.inference.batched.invariance import rotary_table
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.lora_layers import add_lora_layers, lora_targets, map_rows
from searchlora.inference.batched.sliding_window import SlidingWindow
from searchlora.models.text_model import computing_dtype, text_model


class Forward:
    """Runs a model. Its linear layers are replaced, so nobody else may use the model afterwards."""

    def __init__(self, model: Any, *, batch_invariant: bool = False) -> None:
        self.batch_invariant = batch_invariant
        self.dtype: torch.dtype = computing_dtype(model)
        self.config = model.config.get_text_config()
        self._window = SlidingWindow.of(self.config) or SlidingWindow(None, False)
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self._backbone = text_model(model)
        self._head = _take_head(model, batch_invariant)
        self.lora_layers = add_lora_layers(model, batch_invariant)
        attention.register()
        model.set_attn_implementation(attention.INVARIANT_NAME if batch_invariant else attention.NAME)
        self._rotary = None
        if batch_invariant:
            self._rotary = rotary_table(model)
            if self._rotary is not None:
                self._backbone.rotary_emb = self._rotary
        attend = attention.attend_invariant if batch_invariant else attention.attend
        backend.fuse_layers(model, attend, self.new_cache)
        weights = [*(group.base for group in self.lora_layers.groups), self._head]
        backend.use_huge_pages(tensor for weight in weights for tensor in weight.tensors())

    def new_cache(self) -> KVCache:
        return KVCache(self.config.num_hidden_layers)

    def hidden_states(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        visible: torch.Tensor,
        slots: Sequence[int],
        cache: KVCache,
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last layer's hidden states, shape (rows, new, hidden size), which may hold NaN.

        `ids`, `positions`, shape (rows, new). `visible`: Whether each new token attends to each column of
        the cache; bool, shape (rows, new, columns). `columns`: Position of the token in each column, shape (rows,
        columns); None: the number of the column.
        """
        if self._rotary is not None:
            self._rotary.reserve(cache.columns)
        self.lora_layers.active.mapping = map_rows(slots)
        output: torch.Tensor = self._backbone(
            input_ids=ids,
            attention_mask=self._window.masks(visible, positions, columns, partial(_additive, dtype=self.dtype)),
            position_ids=positions,
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        return output

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary) of hidden states (n, hidden size)."""
        return self._head(hidden)

    def log_probabilities(self, hidden: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Natural log-probabilities in fp32 of `tokens` (m,) after the hidden states (n, hidden size) of `rows`
        (m,).
        """
        logits = self.logits(hidden).float()
        # Row by row: the order of a sum over several rows depends on how many there are.
        parts = torch.split(logits, 1 if self.batch_invariant else max(1, len(logits)))
        norms = torch.cat([part.logsumexp(-1) for part in parts])
        return logits[rows, tokens] - norms[rows]


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(rows, new, columns) -> the mask that attention adds to its scores, shape (rows, 1, new, columns)."""
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _take_head(model: Any, batch_invariant: bool) -> FrozenLinear:
    """The output layer, which the model loses unless its weight is that of the input embeddings."""
    layer = model.get_output_embeddings()
    head = merged_linear([layer], computing_dtype(model), batch_invariant)
    if layer.weight is not model.get_input_embeddings().weight:
        model.set_output_embeddings(torch.nn.Identity())
        release_originals([layer], head)
    return head


@dataclass(frozen=True)
class BatchingCheck:
    """Whether a base computes rows with different adapters in one batch, and the numbers that decided it."""

    refusal: str = ""  # why it does not; empty if it does
    difference: float | None = None
    noise: float | None = None
    spread: float | None = None

    @property
    def shares_batches(self) -> bool:
        return not self.refusal

    def __str__(self) -> str:
        """
        Examples:
            >>> print(BatchingCheck("", 0.002, 0.001, 1.5))  # doctest: +NORMALIZE_WHITESPACE
            adapters share batches; logits differ by 0.002 from the model's own, whose rounding differs by 0.001
            (standard deviation 1.5)
            >>> print(BatchingCheck("recurrent state"))
            one adapter at a time: recurrent state
        """
        text = f"one adapter at a time: {self.refusal}" if self.refusal else "adapters share batches"
        if self.difference is None:
            return text
        return (
            f"{text}; logits differ by {self.difference:.2g} from the model's own, whose rounding differs by"
            f" {self.noise:.2g} (standard deviation {self.spread:.2g})"
        )


#: The difference to the model itself may be this many times as large as the model's noise.
_MAX_NOISE_RATIO = 8


def check_batching(model: Any) -> BatchingCheck:
    """Whether `Forward` computes what the model itself computes; to be called before its layers are replaced.

    The model must attend to all earlier tokens, or to those of a sliding window, accept a four-dimensional mask,
    positions and another attention function, and its logits must be the output layer of the last hidden states (some
    scale or cap them). The logits of a few tokens are compared, and their difference with the noise of the model, or
    with the rounding of its precision if that is larger.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if refusal := _refusal(model, config, before):
        return BatchingCheck(refusal)
    ids = torch.arange(6).reshape(2, 3)
    with torch.inference_mode():
        own = _own_logits(model, ids)
        if own is None:
            return BatchingCheck("its linear layers receive the tokens of all rows together")
        try:
            model.set_attn_implementation("eager")  # it rounds as `attention.attend` does
            expected = model(ids, use_cache=False).logits.float()
            longer = model(torch.cat([ids, ids], 1), use_cache=False).logits[:, :3].float()
            actual = _batched_logits(model, ids).float()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # another signature, other shapes
            return BatchingCheck("it does not accept masks, positions or another attention function")
        finally:
            model.set_attn_implementation(before)
    if actual.shape != expected.shape:
        return BatchingCheck("its output layer is not the only one after its hidden states")
    spread = float(expected.std())
    noise = max(float((other - expected).abs().max()) for other in (own, longer))
    difference = float((actual - expected).abs().max())
    is_same = difference <= _MAX_NOISE_RATIO * max(noise, torch.finfo(computing_dtype(model)).eps * spread)
    return BatchingCheck("" if is_same else "its logits are computed otherwise", difference, noise, spread)


def _refusal(model: Any, config: Any, attention_implementation: str) -> str:
    """Why the kind of model is not batched; empty if it may be."""
    if model.device.type != "cpu":
        return "on a GPU; vLLM batches them there"
    if model._is_stateful:
        return "recurrent state"
    if not model._supports_attention_backend or attention_implementation not in ("eager", "sdpa"):
        return "it does not accept another attention function"
    if SlidingWindow.of(config) is None:
        return "layers without attention, or with attention of another kind"
    if getattr(config, "attn_logit_softcapping", None):
        return "capped attention scores"
    if _rope_depends_on_batch(config):
        return "rotary frequencies that depend on the longest row"
    return ""


def _batched_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits by the attention, masks and KV cache of `Forward`."""
    rows, new = ids.shape
    attention.register()
    model.set_attn_implementation(attention.NAME)
    cache = KVCache(model.config.get_text_config().num_hidden_layers)
    cache.begin_pass(slice(0, rows), 0, new)
    visible = torch.ones(new, new, dtype=torch.bool).tril().expand(rows, new, new)
    positions = torch.arange(new).expand(rows, new)
    window = SlidingWindow.of(model.config.get_text_config()) or SlidingWindow(None, False)
    hidden = text_model(model)(
        ids,
        attention_mask=window.masks(visible, positions, None, partial(_additive, dtype=computing_dtype(model))),
        position_ids=positions,
        cache=cache,
        use_cache=True,
    ).last_hidden_state
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits


def _rope_depends_on_batch(config: Any) -> bool:
    """Whether the rotary frequencies depend on the longest row of a batch (dynamic NTK scaling, LongRoPE)."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer = [of_kind for of_kind in parameters.values() if isinstance(of_kind, dict)]
    kinds = {of_kind.get("rope_type") or of_kind.get("type") for of_kind in (parameters, *by_layer)}
    return not kinds.isdisjoint({"dynamic", "longrope"})


def _own_logits(model: Any, ids: torch.Tensor) -> torch.Tensor | None:
    """The model's own logits; None unless the input of each linear layer that an adapter may change has shape (rows,
    tokens, size).

    Otherwise it is unknown which row a vector belongs to: some models flatten the tokens (OPT), or route them to
    experts.
    """
    shapes: dict[torch.nn.Module, list[tuple[int, ...]]] = {layer: [] for layer in lora_targets(model).values()}
    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs: shapes[module].append(tuple(inputs[0].shape[:-1])))
        for layer in shapes
    ]
    try:
        logits: torch.Tensor = model(ids, use_cache=False).logits.float()
    finally:
        for hook in hooks:
            hook.remove()
    return logits if all(seen == [tuple(ids.shape)] for seen in shapes.values()) else None
