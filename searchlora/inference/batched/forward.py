"""A base model that computes rows with adapters of their own over keys and values that lie in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from searchlora.errors import EngineError
from searchlora.inference.batched import attention
from searchlora.inference.batched.frozen_linear import Linear, is_linear, packing, side_by_side
from searchlora.inference.batched.fused_layers import take_over_layers
from searchlora.inference.batched.kv_cache import KeyValues
from searchlora.inference.batched.lora_layers import take_over
from searchlora.inference.batched.lora_mapping import route
from searchlora.inference.batched.native.huge_pages import in_large_pages
from searchlora.inference.batched.norms import take_over_norms


class NotFinite(Exception):
    """A pass whose outcome is no finite number in some rows; these are empty in the cache now.

    Args:
        rows: Their places in the pass.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows
        super().__init__(f"no finite numbers in rows {list(rows)}")

    @staticmethod
    def of(adapter: str | None) -> EngineError:
        """What those are told who asked for an adapter."""
        return EngineError(
            "computes no finite numbers for this prompt",
            where=adapter or "the base model",
            fix="Train it again at a lower learning rate, or serve it in fp32.",
        )


class Forward:
    """Owns the model: its linear layers are taken over, so nobody else may use it afterwards.

    Args:
        model: A base from `models.load.load_model`.
    """

    def __init__(self, model: Any) -> None:
        self.device = model.device
        self.dtype = model.dtype
        self.config = model.config.get_text_config()
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        self._backbone = getattr(model, model.base_model_prefix)
        self._head: Linear = side_by_side([model.get_output_embeddings()], packing(model))
        self.projections = take_over(model)
        take_over_norms(model)
        attention.register()
        model.set_attn_implementation(attention.NAME)
        take_over_layers(model)
        weights = [*(group.base for group in self.projections.groups), self._head]
        in_large_pages(each for weight in weights for each in weight.held())

    def key_values(self) -> KeyValues:
        """Empty ones."""
        return KeyValues(self.config.num_hidden_layers)

    def hidden(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, slots: Sequence[int], cache: KeyValues
    ) -> torch.Tensor:
        """The last hidden states, shape (rows, new, size).

        Args:
            ids, positions: Shape (rows, new).
            seen: Whether each new token sees each column of the cache; shape (rows, new, columns), bool.
            slots: Of each row.
            cache: Told by `KeyValues.block` where the new tokens go.

        Raises:
            NotFinite: where some rows give no finite numbers.
        """
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~seen.to(self.device), torch.finfo(self.dtype).min)
        self.projections.worn.routing = route(slots, self.device)
        output: torch.Tensor = self._backbone(
            input_ids=ids.to(self.device),
            attention_mask=mask[:, None],
            position_ids=positions.to(self.device),
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        finite = output.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            spoiled = [row for row, good in enumerate(finite.tolist()) if not good]
            # Left there, they would spoil rows that come after: a masked column counts zero times what is in it.
            cache.wipe(spoiled)
            raise NotFinite(spoiled)
        return output

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of hidden states (n, size), shape (n, vocabulary)."""
        return self._head(hidden)


def fits(model: Any) -> bool:
    """Whether a model computes with `Forward` what it computes without; to be asked before it is taken over.

    It must attend to everything before a token in every layer, take a mask of four dimensions, positions and an
    attention function of another's, and give as logits just what its output layer makes of the last hidden states
    (some scale or cap them afterwards).
    """
    config = model.config.get_text_config()
    if model._is_stateful or not model._supports_attention_backend:
        return False
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or getattr(config, "sliding_window", None):
        return False
    if getattr(config, "attn_logit_softcapping", None):
        return False
    before = config._attn_implementation
    if before not in ("eager", "sdpa"):
        return False
    some = torch.arange(6, device=model.device).reshape(2, 3)
    if not _linears_see_rows(model, some):
        return False
    with torch.inference_mode():
        model.set_attn_implementation("eager")  # which rounds as `attend` does
        wanted = model(some, use_cache=False).logits
        attention.register()
        model.set_attn_implementation(attention.NAME)
        try:
            cache = KeyValues(config.num_hidden_layers)
            cache.block(slice(0, 2), 0, 3)
            mask = torch.full((3, 3), torch.finfo(model.dtype).min, dtype=model.dtype, device=model.device).triu(1)
            backbone = getattr(model, model.base_model_prefix)
            hidden = backbone(
                some,
                attention_mask=mask.expand(2, 1, 3, 3),
                position_ids=torch.arange(3, device=model.device).expand(2, 3),
                cache=cache,
                use_cache=True,
            ).last_hidden_state
            found = model.get_output_embeddings()(hidden)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # another signature, other shapes
            return False
        finally:
            model.set_attn_implementation(before)
    spread = float(wanted.float().std())
    return found.shape == wanted.shape and float((found.float() - wanted.float()).abs().max()) < 0.05 * spread


def _linears_see_rows(model: Any, some: torch.Tensor) -> bool:
    """Whether each linear layer that an adapter may change reads (rows, tokens, size), so that it is known whose rows.

    Some models hand their layers all tokens in one row (OPT), or those of an expert only.
    """
    head = model.get_output_embeddings()
    shapes: dict[torch.nn.Module, list[tuple[int, ...]]] = {
        layer: [] for layer in model.modules() if is_linear(layer) and layer is not head
    }
    hooks = [
        layer.register_forward_pre_hook(lambda module, given: shapes[module].append(tuple(given[0].shape[:-1])))
        for layer in shapes
    ]
    try:
        with torch.inference_mode():
            model(some, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return all(found == [tuple(some.shape)] for found in shapes.values())
