"""Reading and writing a plain PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, nothing pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from searchlora.adapters.files import reason
from searchlora.errors import LoadCheckFailed, MissingKey, StoreError, TamperedAdapter

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


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a LoRA adapter.

    Raises:
        TamperedAdapter: when it is missing or not JSON.
        LoadCheckFailed: when it is not LoRA, or asks for more than A and B on an unchanged base.
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
    """Tensors on the CPU, by the names in the file.

    Raises:
        MissingKey: when there is no safetensors file (a pickle is never read).
        TamperedAdapter: when the file is not safetensors.
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
        StoreError: when they cannot be written, for example because the disk is full.
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
