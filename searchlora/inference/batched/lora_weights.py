"""What an adapter's folder does to each linear layer of a base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from searchlora.adapters.peft_folder import read_config, read_weights
from searchlora.errors import LoadCheckFailed, MissingKey, UnexpectedKey, some
from searchlora.inference.batched.lora_layers import Projections
from searchlora.inference.batched.tables import Change

_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude"}


def read_changes(folder: Path, projections: Projections) -> dict[str, Change]:
    """What an adapter's folder does to each layer, by the layer's path.

    Raises:
        MissingKey: when there is an A without its B, or none at all.
        UnexpectedKey: for a weight that has no place in the base, or another shape.
        LoadCheckFailed: for an adapter of a layer that no batch can share, such as the output layer.
    """
    config, paths = read_config(folder), projections.paths
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_weights(folder).items():
        path, part = _place(key, folder)
        if path not in paths:
            raise _no_place(path, folder)
        parts.setdefault(path, {})[part] = tensor.float()
    needed = {"a", "b", "magnitude"} if config.get("use_dora") else {"a", "b"}
    lacking = sorted(path for path in {*parts, *_asked_for(config, paths)} if parts.get(path, {}).keys() != needed)
    if lacking or not parts:
        raise MissingKey(
            f"weights are missing: {some(lacking) or 'all of them'}",
            where=str(folder),
            fix="Store the adapter again; it must not be used in part.",
        )
    return {path: _change(path, found, config, projections, folder) for path, found in parts.items()}


def _asked_for(config: Mapping[str, Any], paths: frozenset[str]) -> set[str]:
    """The layers that the configuration names, as PEFT reads it."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    settings = LoraConfig.from_peft_type(**{**config, "inference_mode": True})
    if settings.target_modules == "all-linear":
        settings.target_modules = ".*"  # which leaves out what `exclude_modules` names, as PEFT does
    return {path for path in paths if check_target_module_exists(settings, path)}


def _change(
    path: str, parts: Mapping[str, torch.Tensor], config: Mapping[str, Any], projections: Projections, folder: Path
) -> Change:
    a, b = parts["a"], parts["b"]
    out, into = projections.shape(path)
    if a.shape[1] != into or b.shape[0] != out or a.shape[0] != b.shape[1]:
        raise UnexpectedKey(
            f"{path}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit a layer of {into} to {out}",
            where=str(folder),
            fix="Load the adapter on the base it was trained on.",
        )
    b = b * _scaling(path, len(a), config)
    if "magnitude" not in parts:
        return Change(a, b)
    norm = (projections.weight(path).float().cpu() + b @ a).norm(dim=1)  # DoRA, arXiv:2402.09353, eq. 5
    return Change(a, b, parts["magnitude"].flatten() / norm)


def _scaling(path: str, rank: int, config: Mapping[str, Any]) -> float:
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, path), config["lora_alpha"])
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)


def _place(key: str, folder: Path) -> tuple[str, str]:
    for ending, part in _PARTS.items():
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key[len(_PREFIX) : -len(ending)], part
    raise UnexpectedKey(f"'{key}' is no A or B of a linear layer", where=str(folder), fix="Store a plain LoRA adapter.")


def _no_place(path: str, folder: Path) -> LoadCheckFailed:
    if path.rpartition(".")[2] in ("lm_head", "embed_tokens"):
        return LoadCheckFailed(
            f"changes '{path}', which rows with different adapters cannot share",
            where=str(folder),
            fix="Train it on the layers between, or merge it into a model of its own with 'adapters export'.",
        )
    return UnexpectedKey(
        f"'{path}' is no linear layer of the base", where=str(folder), fix="Load it on the base it was trained on."
    )
