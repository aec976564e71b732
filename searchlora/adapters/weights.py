"""What the weights of an adapter amount to, from its folder alone: is the delta zero, how far apart are two."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from searchlora.adapters.peft_folder import WEIGHTS, read_config, read_weights
from searchlora.errors import LoadCheckFailed, ZeroDelta

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<factor>[AB])(\.weight)?")


def check_delta(folder: Path) -> None:
    """Refuse an adapter that changes nothing, or holds numbers that are none.

    Raises:
        ZeroDelta: when B·A is zero in every module (a trained B is never exactly zero; a fresh one is).
        LoadCheckFailed: naming a weight with NaN or infinity.
    """
    where = str(folder / WEIGHTS)
    tensors = read_weights(folder)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise LoadCheckFailed(f"{key} holds NaN or infinity", where=where, fix="Train with a lower learning rate.")
    if not any(a.any() and b.any() for a, b in factors(tensors).values()):
        raise ZeroDelta(
            "A or B is zero in every module, so the adapter changes nothing",
            where=where,
            fix="Was it trained? Check the number of steps and the learning rate.",
        )


def relative_distance(first: Path, second: Path) -> float | None:
    """‖ΔW₁ - ΔW₂‖ / ‖ΔW₁‖, Frobenius norms over all modules, DoRA's magnitudes left out.

    From products of the small factors, since ⟨B₁A₁, B₂A₂⟩ = sum(B₁ᵀB₂ ∘ A₁A₂ᵀ); no delta is ever formed.

    Returns:
        None where the two do not fit the same base.
    """
    one, two = _scaled(first), _scaled(second)
    norm = distance = 0.0
    for module in one.keys() | two.keys():
        a, b = one.get(module), two.get(module)
        if a and b and (a[0].shape[1], a[1].shape[0]) != (b[0].shape[1], b[1].shape[0]):
            return None
        own = _inner(a, a) if a else 0.0
        norm += own
        distance += own + (_inner(b, b) if b else 0.0) - (2 * _inner(a, b) if a and b else 0.0)
    if norm == 0:
        return math.inf if distance else 0.0
    return math.sqrt(max(distance, 0.0) / norm)


def factors(tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Module -> (A, shape (r, in); B, shape (out, r)); modules that lack one of the two are left out."""
    halves: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if match := _FACTOR.fullmatch(key):
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
    return {module: (half["A"], half["B"]) for module, half in halves.items() if len(half) == 2}


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns, module), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _scaled(folder: Path) -> dict[str, tuple[Any, Any]]:
    """The factors in double precision, the scaling already in B."""
    config = read_config(folder)
    return {
        module: (a.double(), b.double() * scaling(config, module, len(a)))
        for module, (a, b) in factors(read_weights(folder)).items()
    }


def _inner(one: tuple[Any, Any], two: tuple[Any, Any]) -> float:
    return float(((one[1].T @ two[1]) * (one[0] @ two[0].T)).sum())
