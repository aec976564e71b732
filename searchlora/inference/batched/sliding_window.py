"""Sliding-window attention: layers in which a token attends to itself and to the window - 1 tokens before it.

The KV cache keeps all tokens, and masks hide those before the window. Up to the window, this is full attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

#: Kinds of layers in transformers' `layer_types` whose masks are known.
_KNOWN = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True)
class SlidingWindow:
    """The window of a model."""

    tokens: int | None  # its length; None for full attention in every layer
    by_kind: bool

    @classmethod
    def of(cls, config: Any) -> SlidingWindow | None:
        """The window in a model's configuration; None for layers of other kinds.

        Examples:
            >>> from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig
            >>> SlidingWindow.of(LlamaConfig()).tokens, SlidingWindow.of(MistralConfig(sliding_window=4096)).tokens
            (None, 4096)
            >>> SlidingWindow.of(Gemma3TextConfig(sliding_window=512))
            SlidingWindow(tokens=512, by_kind=True)
        """
        kinds = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None)
        if not kinds:
            return cls(window, by_kind=False)
        if not set(kinds) <= _KNOWN or ("sliding_attention" in kinds and not window):
            return None
        has_window = "sliding_attention" in kinds
        return cls(window if has_window else None, by_kind=has_window)

    def masks(
        self,
        visible: torch.Tensor,
        positions: torch.Tensor,
        columns: torch.Tensor | None,
        mask: Callable[[torch.Tensor], torch.Tensor],
    ) -> Any:
        """What the model takes as its attention mask.

        `visible`: Whether each new token attends to each column of the cache in layers with full attention; bool, shape
        (rows, new, columns). `positions`: Of the new tokens, shape (rows, new). `columns`: Position of each column of
        the cache, shape (rows, columns); None: its number.
        """
        windowed = visible
        if self.tokens is not None and visible.shape[2] > self.tokens:
            where = torch.arange(visible.shape[2])[None] if columns is None else columns
            windowed = visible & (positions[:, :, None] - where[:, None] < self.tokens)
        if not self.by_kind:
            return mask(windowed)
        full = mask(visible)
        return {"full_attention": full, "sliding_attention": full if windowed is visible else mask(windowed)}
