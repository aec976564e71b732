"""Groups of linear layers by their role in a transformer: attention projections, attention, MLP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from searchlora.errors import RecipeError

#: Names of projections in the architectures of transformers.
_QUERY = frozenset({"q_proj", "query", "q_lin", "q", "query_proj", "wq"})
_KEY = frozenset({"k_proj", "key", "k_lin", "k", "key_proj", "wk"})
_VALUE = frozenset({"v_proj", "value", "v_lin", "v", "value_proj", "wv"})

#: Names of one layer that computes queries, keys and values.
_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "wqkv", "qkv"})

#: The path of a layer inside its block, after the number of the block: `self_attn.q_proj`.
_IN_BLOCK = re.compile(r".*\.\d+\.(?P<rest>.+)")

_ATTENTION = re.compile(r"attn|attention")


def target_modules(model: Any, target: str | Sequence[str]) -> str | list[str]:
    """The modules that a recipe's `lora.target_modules` means in a model.

    Of a model that also reads images or sound, only layers of its language model are meant.

    Args:
        model: A transformer, an LLM or the transformer of an encoder.
        target: A group, or names, which stay as they are; so does `all-linear`, which PEFT resolves.

    Returns:
        Full paths of the layers of a group; of names and `all-linear` too, if the model reads more than text.

    Raises:
        RecipeError: for a group that the model does not have, such as `qv` where one layer computes queries, keys and
            values; for a name without a layer, if the model reads more than text.

    Examples:
        >>> target_modules(None, ["q_proj"])
        ['q_proj']
    """
    decoder = _language_model(model)
    if decoder is None:
        if not isinstance(target, str):
            return list(target)
        if target == "all-linear":
            return target
    layers = [path for path in _linear_layers(model) if decoder is None or path.startswith(f"{decoder}.")]
    if isinstance(target, str):
        layers = layers if target == "all-linear" else [path for path in layers if _belongs(path, target)]
        named = {target: layers}
    else:
        named = {name: [path for path in layers if f".{path}".endswith(f".{name}")] for name in target}
    if missing := [name for name, paths in named.items() if not paths]:
        raise RecipeError(
            f"lora.target_modules = {', '.join(missing)} names no layer of this {type(model).__name__}",
            where="recipe",
            fix="Give 'all-linear', or names of its layers, such as q_proj.",
        )
    chosen = {path for paths in named.values() for path in paths}
    return [path for path in layers if path in chosen]


def _language_model(model: Any) -> str | None:
    """Path of the language model in a model that has other towers, for images or sound; None if it has none."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return None
    decoder = model.get_decoder()
    return next((path for path, module in model.named_modules() if module is decoder and path), None)


def _linear_layers(model: Any) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    return [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def _belongs(path: str, group: str) -> bool:
    match = _IN_BLOCK.fullmatch(path)
    if match is None:  # embeddings, poolers, output layers
        return False
    *parents, name = match["rest"].lower().split(".")
    in_attention = any(map(_ATTENTION.search, parents))
    if group == "mlp":
        return not in_attention
    if group == "attention":
        return in_attention
    if name in _FUSED:
        return in_attention and group == "qkv"
    return in_attention and name in (_QUERY | _VALUE if group == "qv" else _QUERY | _KEY | _VALUE)
