"""Fingerprint of a base model: hashes of its configuration, tensors, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, StringConstraints

from searchlora.errors import BaseModelError
from searchlora.files import FileState, cache_digest, cached_digest, file_sha256
from searchlora.models.resolve import architectures_of, cache_dir, read_json_object, read_modules, read_text

#: Keys of config.json that do not change the logits and may differ between copies of one base.
_IGNORED_KEYS = frozenset(
    {
        # Origin of the copy.
        "_name_or_path",
        "transformers_version",
        "transformers.js_config",
        # A separate field of the fingerprint.
        "architectures",
        # The dtypes of the stored tensors are hashed with them; the precision of computation is the caller's choice.
        "torch_dtype",
        "dtype",
        # Speed only.
        "use_cache",
        # For generation and padding; the tokenizer is hashed separately.
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
    }
)


#: Bytes of a safetensors header at most, as in the format's own implementation.
_MAX_HEADER = 100_000_000


#: A name or a sha256: fingerprints are read from files of others, and printed.
_Plain = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9_.?-]{0,128}\z")]


class Fingerprint(PydanticModel):
    """Two folders with equal fingerprints hold the same base, sharded or not, from the hub or from disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: _Plain
    tensors: _Plain  # sha256 over names, dtypes, shapes and bytes of all tensors
    tokenizer: _Plain
    template: _Plain
    config: _Plain


def fingerprint(folder: Path) -> Fingerprint:
    """The fingerprint of a base in a local folder. Hashes are cached by path, size and modification time."""
    config = read_json_object(folder / "config.json")
    return Fingerprint(
        architecture=str((architectures_of(config) or [config.get("model_type", "?")])[0]),
        tensors=_tensors(folder, tied=bool(config.get("tie_word_embeddings"))),
        tokenizer=_tokenizer(folder),
        template=_template(folder),
        config=hash_config({**config, **_modules(folder)}),
    )


def _modules(folder: Path) -> dict[str, Any]:
    """The modules of a text encoder after its transformer (pooling, dense layers), as entries of config.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return {}
    modules = []
    for module in read_modules(folder):
        subfolder = folder / module.path
        config = subfolder / "config.json"
        if not module.path:  # the transformer itself
            continue
        modules.append(
            {
                "type": module.type.rpartition(".")[2],
                "config": read_json_object(config) if config.is_file() else {},
                "weights": [file_sha256(weights) for weights in sorted(subfolder.glob("*.safetensors"))],
            }
        )
    return {"modules": modules}


def hash_config(config: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of the settings in a config.json that change the logits.

    Null counts as absent and 1.0 as 1. RoPE as spelled by transformers 4 (`rope_theta`, `rope_scaling`) equals that of
    transformers 5 (`rope_parameters`). `quantization_config` is hashed, because it defines how weights are unpacked.
    Known limit: a default that newer releases of transformers write out (such as `head_dim`) changes the hash, so a
    base saved again by another release may be refused although its logits are the same.

    Examples:
        >>> hash_config({"head_dim": 8, "dtype": "float32"}) == hash_config({"head_dim": 8.0, "dtype": "bfloat16"})
        True
    """
    settings = {key: value for key, value in config.items() if key not in _IGNORED_KEYS}
    rope = {key: settings.pop(key, None) for key in ("rope_theta", "rope_scaling", "rope_parameters")}
    if any(rope.values()):
        for key in ("rope_scaling", "rope_parameters"):
            if not isinstance(rope[key] or {}, Mapping):
                raise BaseModelError(f"'{key}' is no object", where="config.json")
        merged = {"rope_theta": rope["rope_theta"], **(rope["rope_scaling"] or {}), **(rope["rope_parameters"] or {})}
        kind = merged.pop("type", None)  # earlier name of rope_type
        settings["rope_parameters"] = {"rope_type": kind or "default", **merged}
    return hashlib.sha256(json.dumps(_canonical(settings), sort_keys=True).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tensors(folder: Path, tied: bool) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError("the folder holds no safetensors", where=str(folder))
    states = [(str(file.resolve()), FileState.of(file.stat())) for file in files]
    key = hashlib.sha256(json.dumps([states, tied]).encode()).hexdigest()
    memo = cache_dir() / "fingerprints" / key
    if known := cached_digest(memo):
        return known
    digest = _hash_tensors(files, skip=frozenset({"lm_head.weight"} if tied else ()))
    cache_digest(memo, digest)
    return digest


def tensor_shapes(folder: Path, *, tied: bool) -> dict[str, list[int]]:
    """Name -> shape of every tensor in the safetensors of a folder, read from the headers; without a copy of the
    embedding as output layer where both are `tied`.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError("the folder holds no safetensors", where=str(folder))
    skip = {"lm_head.weight"} if tied else set()
    return {
        name: list(map(int, entry["shape"]))
        for file in files
        for name, entry in _header(file)[0].items()
        if name not in skip
    }


def _hash_tensors(files: list[Path], skip: frozenset[str] = frozenset()) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors in name order, independent of sharding."""
    locations: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for file in files:
        header, start = _header(file)
        locations.update({name: (file, entry, start) for name, entry in header.items() if name not in skip})
    digest = hashlib.sha256()
    for name in sorted(locations):
        file, entry, start = locations[name]
        digest.update(f"{name} {entry['dtype']} {entry['shape']}\n".encode())
        first, last = entry["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(start + first)
            remaining = last - first
            while remaining:
                block = stream.read(min(remaining, 1 << 22))
                if not block:
                    raise BaseModelError(f"ends in the middle of tensor {name}", where=str(file))
                digest.update(block)
                remaining -= len(block)
    return digest.hexdigest()


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file (name -> dtype, shape, data_offsets), and the offset of its data."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            first, last = map(int, entry["data_offsets"])
            is_shape = isinstance(entry["shape"], list) and all(type(size) is int for size in entry["shape"])
            if not (isinstance(entry["dtype"], str) and is_shape and 0 <= first <= last):
                raise ValueError(f"a tensor entry {str(entry)[:100]}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaseModelError(f"is not a safetensors file ({error})", where=str(file)) from None
    return header, 8 + length


def _tokenizer(folder: Path) -> str:
    """sha256 of what turns text into ids: vocabulary, merges, normaliser and added tokens."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise BaseModelError("the folder holds no tokenizer.json", where=str(folder))
    return _tokenizer_hash(file, FileState.of(file.stat()))


@lru_cache(maxsize=64)
def _tokenizer_hash(file: Path, state: FileState) -> str:
    """Cached, because every load of an adapter compares it."""
    del state
    content = read_json_object(file)
    content.pop("truncation", None)
    content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        template = read_text(file)
    else:
        settings = folder / "tokenizer_config.json"
        content = read_json_object(settings) if settings.is_file() else {}
        template = str(content.get("chat_template") or "")
    return hashlib.sha256(template.encode()).hexdigest()
