"""LoRA weights: reads a plain PEFT folder into the A and B of each linear layer of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from searchlora.adapters.peft_folder import CONFIG, check_header, lora_settings, read_config, read_weights, scaling
from searchlora.errors import LoadCheckFailed, MissingKey, UnexpectedKey, some
from searchlora.inference.batched.lora_layers import LoraLayers, LoraWeights

_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": "a", ".lora_B.weight": "b"}


def read_lora_weights(folder: Path, layers: LoraLayers) -> dict[str, LoraWeights]:
    """The weights of an adapter, by module path of the layers that it changes."""
    config, paths = read_config(folder), layers.paths
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_weights(folder).items():
        path, part = _parse_key(key, folder)
        if path not in paths:
            raise _unknown_path(path, folder)
        parts.setdefault(path, {})[part] = tensor.float()
    named = {*parts, *_target_paths(config, paths)}
    missing = sorted(path for path in named if parts.get(path, {}).keys() != {"a", "b"})
    if missing or not parts:
        raise MissingKey(
            f"weights are missing: {some(missing) or 'all of them'}",
            where=str(folder),
            fix="Store the adapter again; it must not be used in part.",
        )
    return {path: _lora_weights(path, of_layer, config, layers, folder) for path, of_layer in parts.items()}


def read_ranks(folder: Path) -> dict[str, int]:
    """The rank of each layer that an adapter changes, by module path; from the file's header, without its weights.

    Raises as `peft_folder.check_header`.
    """
    ranks: dict[str, int] = {}
    for key, shape in check_header(folder).items():
        path, part = _parse_key(key, folder)
        if len(shape) != 2:
            raise UnexpectedKey(f"'{key}' is no matrix", where=str(folder), fix="Store a plain LoRA adapter.")
        ranks[path] = max(ranks.get(path, 0), shape[0] if part == "a" else shape[1])
    return ranks


def _target_paths(config: Mapping[str, Any], paths: frozenset[str]) -> set[str]:
    """The layers that the configuration names, as PEFT reads it."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    settings = LoraConfig(**lora_settings(config, CONFIG).model_dump(), inference_mode=True)
    if settings.target_modules == "all-linear":
        settings.target_modules = ".*"  # PEFT still leaves out `exclude_modules`
    return {path for path in paths if check_target_module_exists(settings, path)}


def _lora_weights(
    path: str, parts: Mapping[str, torch.Tensor], config: Mapping[str, Any], layers: LoraLayers, folder: Path
) -> LoraWeights:
    a, b = parts["a"], parts["b"]
    out, size_in = layers.shape(path)
    if a.shape[1] != size_in or b.shape[0] != out or a.shape[0] != b.shape[1]:
        raise UnexpectedKey(
            f"{path}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit a layer of {size_in} to {out}",
            where=str(folder),
            fix="Load the adapter on the base it was trained on.",
        )
    return LoraWeights(a, b * scaling(config, path, len(a)))


def _parse_key(key: str, folder: Path) -> tuple[str, str]:
    for ending, part in _PARTS.items():
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key[len(_PREFIX) : -len(ending)], part
    raise UnexpectedKey(
        f"'{key}' is not A or B of a linear layer", where=str(folder), fix="Store a plain LoRA adapter."
    )


def _unknown_path(path: str, folder: Path) -> LoadCheckFailed:
    if path.rpartition(".")[2] in ("lm_head", "embed_tokens"):
        return LoadCheckFailed(
            f"changes '{path}', which rows with different adapters cannot share",
            where=str(folder),
            fix="Train it on the layers between, or merge it into a model of its own with 'adapters export'.",
        )
    return UnexpectedKey(
        f"'{path}' is not a linear layer of the base", where=str(folder), fix="Load it on the base it was trained on."
    )
