"""Plain PEFT folders: reading, checking and writing them without a base model.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; pickles are never read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.adapters.staging import reason
from searchlora.errors import (
    LoadCheckFailed,
    MissingKey,
    StoreError,
    TamperedAdapter,
    UnexpectedKey,
    ZeroDelta,
    printable,
)
from searchlora.files import parse_json, read_bounded
from searchlora.recipe import MAX_RANK, ModuleName

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

#: Bounds of an adapter, checked before its weights are loaded.
MAX_WEIGHT_BYTES = 8 * 2**30
MAX_TENSORS = 20_000

#: Largest |value| of a trained weight; larger ones overflow in B·A or in the sums of a forward pass.
MAX_WEIGHT = 1e4

_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_HEADER_BYTES = 16 * 2**20
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

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
    "task_type": (None, "CAUSAL_LM", "FEATURE_EXTRACTION"),  # others add layers of their own
    # Variants of LoRA that compute something else with A and B; PEFT marks them in its `LoraConfig`.
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}

#: Settings without an effect on A and B, which are not passed to PEFT.
_IGNORED = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
        *("inference_mode", "loftq_config", "lora_ga_config", "megatron_core", "peft_type", "peft_version"),
        *("qalora_group_size", "revision", "runtime_config"),
    }
)


class LoraSettings(BaseModel):
    """The settings of `adapter_config.json` that say what A and B compute; no other setting reaches PEFT.

    Modules are plain names. PEFT would use other strings as regular expressions, which can take for ever to match.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0, le=1e5)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[ModuleName] | Literal["all-linear"] = Field(max_length=4096)
    exclude_modules: list[ModuleName] | None = Field(None, max_length=4096)
    rank_pattern: dict[ModuleName, Annotated[int, Field(ge=1, le=MAX_RANK)]] = Field({}, max_length=512)
    alpha_pattern: dict[ModuleName, Annotated[float, Field(gt=0, le=1e5)]] = Field({}, max_length=512)
    layers_to_transform: int | list[int] | None = None
    layers_pattern: ModuleName | list[ModuleName] | None = None
    fan_in_fan_out: bool = False
    use_rslora: bool = False


_FACTOR = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<factor>[AB])(\.weight)?")


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a LoRA adapter.

    Raises:
        TamperedAdapter: if it is missing or not JSON.
        LoadCheckFailed: if it is not LoRA, a setting is out of bounds, a module is not a plain name, or it asks for
            more than A and B on an unchanged base.
    """
    file = folder / CONFIG
    try:
        config = parse_json(read_bounded(file, _MAX_CONFIG_BYTES).decode("utf-8"))
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
    lora_settings(config, str(file))
    return config


def lora_settings(config: Mapping[str, Any], where: str) -> LoraSettings:
    """The settings for PEFT's `LoraConfig`.

    Settings that searchlora does not know are ignored if they are off (null, false, empty).

    Raises:
        LoadCheckFailed: naming a setting that is unknown or out of bounds.
    """
    known = LoraSettings.model_fields.keys()
    values = {
        key: value
        for key, value in config.items()
        if key not in _REFUSED and key not in _IGNORED and (key in known or value)
    }
    for key in ("rank_pattern", "alpha_pattern"):
        values[key] = values.get(key) or {}
    try:
        return LoraSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = printable(".".join(str(part)[:80] for part in first["loc"]))
        raise LoadCheckFailed(
            f"the setting '{setting}' is refused: {first['msg'].lower()}",
            where=where,
            fix=f"A rank is 1 to {MAX_RANK:,}; modules are plain names, such as q_proj.",
        ) from None


def check_header(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor; their number, types, shapes and sizes are checked before any is loaded.

    Raises:
        MissingKey: if there is no safetensors file.
        TamperedAdapter: if the file is not safetensors.
        UnexpectedKey: if it holds other numbers than floats.
        LoadCheckFailed: if it is larger than an adapter may be.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise MissingKey(f"there is no {WEIGHTS}", where=str(folder), fix="Save the adapter as safetensors.")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER_BYTES, max(size - 8, 0)):
                raise ValueError(f"a header of {length} bytes")
            header = parse_json(stream.read(length).decode("utf-8"))
        header.pop("__metadata__", None)
        tensors = {key: (str(about["dtype"]), [int(side) for side in about["shape"]]) for key, about in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TamperedAdapter(
            f"is not safetensors ({error})", where=str(file), fix="Store the adapter again."
        ) from None
    if size > MAX_WEIGHT_BYTES:
        raise _too_large(file, f"{size:,} bytes", f"{MAX_WEIGHT_BYTES:,} bytes")
    if len(tensors) > MAX_TENSORS:
        raise _too_large(file, f"{len(tensors):,} tensors", f"{MAX_TENSORS:,} tensors")
    for key, (dtype, shape) in tensors.items():
        if dtype not in _BYTES:
            raise UnexpectedKey(
                f"{key[:200]} holds numbers of type {dtype}",
                where=str(file),
                fix="Save it in float32, float16 or bf16.",
            )
        match = _FACTOR.fullmatch(key)
        rank = (shape[:1] if match["factor"] == "A" else shape[1:2]) if match else []
        if rank and rank[0] > MAX_RANK:
            raise _too_large(file, f"rank {rank[0]:,} ({key[:200]})", f"rank {MAX_RANK:,}")
    return {key: shape for key, (_, shape) in tensors.items()}


def _too_large(file: Path, size: str, limit: str) -> LoadCheckFailed:
    return LoadCheckFailed(
        f"the adapter has {size}, more than {limit}", where=str(file), fix="Train it with a lower rank."
    )


def read_weights(folder: Path) -> dict[str, Any]:
    """Tensors on the CPU, by their names in the file.

    The file is read and not mapped: what is written to it later would change the tensors, and a file that is cut off
    while it is mapped would kill the process.

    Raises:
        MissingKey, TamperedAdapter, LoadCheckFailed: as `check_header`; a pickle is never read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    check_header(folder)
    file = folder / WEIGHTS
    try:
        tensors: dict[str, Any] = load(file.read_bytes())
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
    """Refuse an adapter that changes nothing or holds numbers that no training gives.

    Raises:
        ZeroDelta: if B·A is zero in every module (a trained B is never exactly zero; a new one is).
        LoadCheckFailed: naming a tensor with NaN, infinity or values above `MAX_WEIGHT`.
    """
    where = str(folder / WEIGHTS)
    tensors = read_weights(folder)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise LoadCheckFailed(f"{key} holds NaN or infinity", where=where, fix="Train with a lower learning rate.")
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if largest > MAX_WEIGHT:
            raise LoadCheckFailed(
                f"{key} holds {largest:.3g}, more than {MAX_WEIGHT:g}",
                where=where,
                fix="Train with a lower learning rate.",
            )
    if not any(a.any() and b.any() for a, b in factors(tensors).values()):
        raise ZeroDelta(
            "A or B is zero in every module, so the adapter changes nothing",
            where=where,
            fix="Was it trained? Check the number of steps and the learning rate.",
        )


def factors(tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Module -> (A of shape (r, in), B of shape (out, r)); modules that lack one of the two are left out."""
    halves: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if match := _FACTOR.fullmatch(key):
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
    return {module: (half["A"], half["B"]) for module, half in halves.items() if len(half) == 2}


def scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Scale of B·A: alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
    patterns = config.get("alpha_pattern") or {}
    matching = (name for name in patterns if module == name or module.endswith(f".{name}"))
    alpha = float(patterns.get(next(matching, None), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
