"""Versions that are whole models: the result of full fine-tuning, stored, checked and loaded beside adapters.

A version's folder is flat. The files of a model are stored by their path with `--` in place of `/`, as in
`1_Pooling--config.json`. The folder of a causal language model is flat already, and is loaded where it lies; an encoder
gets a *view* in the cache of this machine: links to the version's files at their place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from searchlora.adapters.peft_folder import CONFIG, check_delta, read_config
from searchlora.adapters.stored import MODEL_CARD, MODEL_WEIGHTS, StoredAdapter, check_hashes
from searchlora.adapters.views import link_file, make_view
from searchlora.errors import LoadCheckFailed, TamperedAdapter
from searchlora.models.libraries import quiet
from searchlora.models.resolve import BaseModel

#: In place of `/` in the names of stored files.
_SEPARATOR = "--"

#: Files of a model folder that are not stored: the card of a version is written from its manifest.
_LEFT_OUT = frozenset({MODEL_CARD, ".gitattributes"})


def is_full_model(folder: Path) -> bool:
    """Whether a folder holds a whole model, not an adapter."""
    return (folder / MODEL_WEIGHTS).is_file() and not (folder / CONFIG).exists()


def save_llm(model: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Write a causal language model that is trained in fp32, in one file, its weights in "bf16" or "fp32"."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    converted: dict[int, Any] = {}  # by address, so that tied weights stay tied
    state = {
        name: converted.setdefault(value.data_ptr(), value.detach().to(dtype))
        for name, value in model.state_dict().items()
    }
    with quiet():
        model.save_pretrained(folder, state_dict=state, max_shard_size="1TB", safe_serialization=True)
        tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), "dtype": str(dtype).removeprefix("torch.")}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def pack(model: Path, target: Path) -> None:
    """Copy the files of a model folder into a new flat folder."""
    target.mkdir(parents=True)
    for file in sorted(model.rglob("*")):
        if file.is_file() and file.name not in _LEFT_OUT:
            shutil.copyfile(file, target / _SEPARATOR.join(file.relative_to(model).parts))


def unpack(stored: StoredAdapter, target: Path, *, copy: bool = False) -> None:
    """Put links to the files of a version, or copies, at their place in a model folder.

    Raises `TamperedAdapter` for a name that leads out of the folder.
    """
    own = stored.path.resolve()
    for name in stored.manifest.files:
        parts = name.split(_SEPARATOR)
        if any(part in ("", ".", "..") for part in parts):
            raise TamperedAdapter(f"the file name {name!r} leads out of the folder", where=str(own))
        place = target.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copyfile if copy else link_file)(own / name, place)


def model_folder(stored: StoredAdapter) -> Path:
    """A folder from which transformers, or sentence-transformers, loads the model. Raises as `unpack`."""
    own = stored.path.resolve()
    if not any(_SEPARATOR in name for name in stored.manifest.files):
        return own
    files = str(sorted(stored.manifest.files.items()))
    return make_view("models", own, files, MODEL_WEIGHTS, lambda new: unpack(stored, new))


def model_of(stored: StoredAdapter) -> BaseModel:
    """The stored model as a base of its own, named by the version's exact reference, after a check of its hashes."""
    check_hashes(stored)
    return BaseModel(stored.reference, model_folder(stored), version=stored.reference)


def base_of(stored: StoredAdapter, base: BaseModel) -> BaseModel:
    """What an engine loads to compute a version: `base` for an adapter, the stored model for a full one."""
    return model_of(stored) if stored.is_full else base


def check_weights(stored: StoredAdapter) -> None:
    """Check the weights of a version without its base, after their hashes. Raises `LoadCheckFailed`."""
    if stored.is_full:
        check_full_weights(stored.path)
    else:
        read_config(stored.path)
        check_delta(stored.path)


def check_full_weights(folder: Path) -> None:
    """Refuse weights that no training gives: raise `LoadCheckFailed` for a tensor with NaN or infinity."""
    from safetensors import SafetensorError, safe_open

    file = folder / MODEL_WEIGHTS
    try:
        with safe_open(file, framework="pt") as tensors:
            bad = [name for name in tensors.keys() if not tensors.get_tensor(name).isfinite().all()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TamperedAdapter(f"is not safetensors ({error})", where=str(file), fix="Store it again.") from None
    if bad:
        raise LoadCheckFailed(
            f"{bad[0]} holds NaN or infinity", where=str(file), fix="Train with a lower learning rate."
        )
