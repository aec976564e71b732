"""Several adapters combined into a new one, without a base: only A and B are needed.

The arithmetic is that of PEFT's `add_weighted_adapter`, which is not called because it returns silently where the name
exists, scales a combination of rsLoRA adapters wrongly by √r, drops DoRA's magnitudes, and rounds to the base's bf16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.manifest import Manifest
from searchlora.adapters.peft_folder import read_config, read_weights, write_folder
from searchlora.adapters.stored import StoredAdapter
from searchlora.adapters.weights import factors, scaling
from searchlora.errors import BaseMismatch, UnexpectedKey, UsageError

COMBINATIONS = ("cat", "linear", "ties", "dare_ties")

#: Of the random choice that `dare_ties` makes: the same adapters and weights give the same combination.
_SEED = 13


def check_combinable(adapters: Sequence[StoredAdapter], weights: Sequence[float], combination: str) -> None:
    """Whether adapters can be combined.

    Raises:
        UsageError: for an unknown combination, fewer than two adapters, a weight too many or too few, different tasks
            or settings, DoRA, or (but for `cat`) different ranks.
        BaseMismatch: when they were trained on different bases.
    """
    if combination not in COMBINATIONS:
        raise UsageError(f"there is no way to combine called '{combination}'", fix=f"One of {', '.join(COMBINATIONS)}.")
    if len(adapters) < 2 or len(adapters) != len(weights):
        raise UsageError(
            f"{len(adapters)} adapters and {len(weights)} weights",
            fix="Give two or more adapters and a weight for each.",
        )
    first = adapters[0].manifest
    for adapter in adapters:
        manifest = adapter.manifest
        if _weights_of_base(manifest) != _weights_of_base(first):
            raise BaseMismatch(
                f"was trained on '{manifest.base.name}', {first.reference} on '{first.base.name}'",
                where=adapter.reference,
                fix="Only adapters of one base can be combined.",
            )
        if manifest.task != first.task:
            raise UsageError(f"is for '{manifest.task}', {first.reference} for '{first.task}'", where=adapter.reference)
        if (manifest.settings or {}) != (first.settings or {}):
            raise UsageError(f"was trained with other settings than {first.reference}", where=adapter.reference)
        if read_config(adapter.path).get("use_dora"):
            raise UsageError("is a DoRA adapter, whose magnitudes cannot be combined", where=adapter.reference)
    ranks = {read_config(adapter.path)["r"] for adapter in adapters}
    if combination != "cat" and len(ranks) > 1:
        raise UsageError(f"'{combination}' wants one rank, these have {sorted(ranks)}", fix="Use 'cat'.")


def combine_folders(
    folders: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    *,
    combination: str = "cat",
    density: float = 0.5,
) -> dict[str, Any]:
    """Write a PEFT folder with Σ wᵢ·ΔWᵢ, or an approximation of it, and return its configuration.

    Args:
        combination: `cat` is exact, its rank the sum of the ranks; `linear` adds the √-weighted factors, a rough
            approximation of the same rank; `ties` (arXiv:2306.01708) and `dare_ties` (arXiv:2311.03099) also prune.
        density: Share of the values that `ties` and `dare_ties` keep.

    Raises:
        UnexpectedKey: when the adapters do not cover the same modules in the same shapes.
    """
    import torch

    configs = [read_config(folder) for folder in folders]
    halves = [factors(read_weights(folder)) for folder in folders]
    for folder, half in zip(folders, halves, strict=True):
        if odd := sorted(half.keys() ^ halves[0].keys()):
            raise UnexpectedKey(f"covers other modules than the first, such as {odd[0]}", where=str(folder))
    tensors = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for module in sorted(halves[0]):
            parts = [half[module] for half in halves]
            scales = [
                weight * scaling(config, module, len(a))
                for weight, config, (a, _) in zip(weights, configs, parts, strict=True)
            ]
            a, b = _combined(parts, scales, combination, density)
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = a.contiguous(), b.contiguous()
    rank = sum(config["r"] for config in configs) if combination == "cat" else configs[0]["r"]
    # The scaling is in the factors, so alpha / r must be one.
    plain = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    config = {**configs[0], **plain}
    write_folder(out, config, tensors)
    return config


def _weights_of_base(manifest: Manifest) -> dict[str, Any]:
    """Without the configuration, which a manifest of schema 1 lacks; `check_files` compares it with the base's own."""
    return manifest.base.fingerprint.model_dump(exclude={"config"})


def _combined(
    parts: Sequence[tuple[Any, Any]], scales: Sequence[float], combination: str, density: float
) -> tuple[Any, Any]:
    import torch
    from peft.utils.merge_utils import dare_ties, task_arithmetic, ties

    if combination == "cat":
        return (
            torch.cat([a * scale for (a, _), scale in zip(parts, scales, strict=True)], dim=0),
            torch.cat([b for _, b in parts], dim=1),
        )
    # The root of the weight to each factor, the sign to one of them only.
    of_a = torch.tensor([math.copysign(math.sqrt(abs(scale)), scale) for scale in scales])
    of_b = of_a.abs()
    sides = ([a for a, _ in parts], of_a), ([b for _, b in parts], of_b)
    if combination == "linear":
        a, b = (task_arithmetic(side, roots) for side, roots in sides)
    elif combination == "ties":
        a, b = (ties(side, roots, density) for side, roots in sides)
    else:
        a, b = (dare_ties(side, roots, density) for side, roots in sides)
    return a, b
