"""Plain PEFT folders: reading, writing and LoRA arithmetic on A and B without a base model.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; pickles are never read.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from searchlora.adapters.files import reason
from searchlora.errors import LoadCheckFailed, MissingKey, StoreError, TamperedAdapter, ZeroDelta

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

#: Settings that change the base, load more than A and B, or import a module named in the file: setting -> harmless.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "bias": ("none",),
    "lora_bias": (False,),
    "megatron_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian"),
    # Variants of LoRA that compute something else with A and B; PEFT marks them in its `LoraConfig`.
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<factor>[AB])(\.weight)?")


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a LoRA adapter.

    Raises:
        TamperedAdapter: if it is missing or not JSON.
        LoadCheckFailed: if it is not LoRA, or asks for more than A and B on an unchanged base.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TamperedAdapter(f"cannot be read ({error})", where=str(file), fix="Store the adapter again.") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise LoadCheckFailed("is not the configuration of a LoRA adapter", where=str(file))
    for setting, harmless in _REFUSED.items():
        value = config.get(setting, harmless[0])
        if value not in harmless:
            raise LoadCheckFailed(
                f"{setting} = {value!r} is not loaded: an adapter is A and B on an unchanged base",
                where=str(file),
                fix="Train it without, or convert it to plain LoRA first.",
            )
    return config


def read_weights(folder: Path) -> dict[str, Any]:
    """Tensors on the CPU, by their names in the file.

    Raises:
        MissingKey: if there is no safetensors file; a pickle is never read.
        TamperedAdapter: if the file is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        raise MissingKey(f"there is no {WEIGHTS}", where=str(folder), fix="Save the adapter as safetensors.")
    try:
        tensors: dict[str, Any] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise TamperedAdapter(
            f"is not safetensors ({error})", where=str(file), fix="Store the adapter again."
        ) from None
    return tensors


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write both files; the same input gives the same bytes.

    Raises:
        StoreError: if they cannot be written, for example because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot be written ({reason(error)})", where=str(folder), fix="Make room or give another folder."
        ) from error


def check_delta(folder: Path) -> None:
    """Refuse an adapter that changes nothing or holds NaN or infinity.

    Raises:
        ZeroDelta: if B·A is zero in every module (a trained B is never exactly zero; a new one is).
        LoadCheckFailed: naming a tensor with NaN or infinity.
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
    """Relative distance of two adapters, ‖ΔW₁ - ΔW₂‖ / ‖ΔW₁‖.

    Frobenius norms over all modules, without DoRA's magnitudes. No ΔW is formed, since
    ⟨B₁A₁, B₂A₂⟩ = sum(B₁ᵀB₂ ∘ A₁A₂ᵀ) needs only products of the small factors.

    Returns:
        None if the two do not fit the same base.
    """
    one, two = _scaled_factors(first), _scaled_factors(second)
    norm = distance = 0.0
    for module in one.keys() | two.keys():
        a, b = one.get(module), two.get(module)
        if a and b and (a[0].shape[1], a[1].shape[0]) != (b[0].shape[1], b[1].shape[0]):
            return None
        squared = _inner(a, a) if a else 0.0
        norm += squared
        distance += squared + (_inner(b, b) if b else 0.0) - (2 * _inner(a, b) if a and b else 0.0)
    if norm == 0:
        return math.inf if distance else 0.0
    return math.sqrt(max(distance, 0.0) / norm)


def factors(tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Module -> (A of shape (r, in), B of shape (out, r)); modules that lack one of the two are left out."""
    halves: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if match := _FACTOR.fullmatch(key):
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
    return {module: (half["A"], half["B"]) for module, half in halves.items() if len(half) == 2}


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """Scale of B·A: alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns, module), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _scaled_factors(folder: Path) -> dict[str, tuple[Any, Any]]:
    """A and B in double precision, with the scaling multiplied into B."""
    config = read_config(folder)
    return {
        module: (a.double(), b.double() * scaling(config, module, len(a)))
        for module, (a, b) in factors(read_weights(folder)).items()
    }


def _inner(one: tuple[Any, Any], two: tuple[Any, Any]) -> float:
    return float(((one[1].T @ two[1]) * (one[0] @ two[0].T)).sum())
