"""The identity of a base model: configuration, tensor bytes, tokenizer and chat template, wherever they came from."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict

from searchlora.errors import BaseModelError, DataError
from searchlora.eval.files import atomic_text, file_sha256
from searchlora.models.resolve import cache_dir

#: Keys of config.json that do not change the logits, and so may differ between copies of one base.
_NOT_COMPUTED = frozenset(
    {
        # Where the copy came from and what wrote it.
        "_name_or_path",
        "transformers_version",
        "transformers.js_config",
        # A field of the fingerprint of its own.
        "architectures",
        # How the file's tensors are held is hashed with them; what is computed in, whoever loads the base decides.
        "torch_dtype",
        "dtype",
        # Speed only.
        "use_cache",
        # For generating and padding; the tokenizer, which turns text into ids, is hashed on its own.
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
    }
)


class Fingerprint(PydanticModel):
    """sha256 each, but for `architecture`, which is the class name.

    Two folders with the same fingerprint hold the same base, whether sharded or in one file, from hub or disk.

    Attributes:
        config: Of the settings in config.json that change what is computed, and of the modules that an encoder of texts
            has behind its transformer; empty only in manifests of schema 1, which did not record it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    tensors: str
    tokenizer: str
    template: str
    config: str = ""


def fingerprint(folder: Path) -> Fingerprint:
    """The fingerprint of a base in a local folder; hashing is remembered by path, size and time of the files.

    Raises:
        BaseModelError: when the folder lacks weights or tokenizer.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Fingerprint(
        architecture=(config.get("architectures") or [config.get("model_type", "?")])[0],
        tensors=_tensors(folder, tied=bool(config.get("tie_word_embeddings"))),
        tokenizer=_tokenizer(folder),
        template=_template(folder),
        config=hash_config({**config, **_modules(folder)}),
    )


def _modules(folder: Path) -> dict[str, Any]:
    """What an encoder of texts does after its transformer (pooling, dense layers), as if it stood in config.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return {}
    found = []
    for module in json.loads(file.read_text(encoding="utf-8")):
        inner = folder / str(module["path"])
        own = inner / "config.json"
        if not module["path"]:  # the transformer itself
            continue
        found.append(
            {
                "type": str(module["type"]).rpartition(".")[2],
                "config": json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {},
                "weights": [file_sha256(weights) for weights in sorted(inner.glob("*.safetensors"))],
            }
        )
    return {"modules": found}


def hash_config(config: dict[str, Any]) -> str:
    """sha256 over the canonical JSON of what a config.json says about the arithmetic.

    Settings that are null count as absent, 1.0 as 1, and RoPE in the spelling of transformers 4 (`rope_theta`,
    `rope_scaling`) as in that of 5 (`rope_parameters`). `quantization_config` counts: it says how packed weights are
    unpacked. A known limit: a default that a newer transformers writes out where an older one did not (`head_dim`, say)
    makes another hash, so a base saved again by another version may be refused although it computes the same.
    """
    settings = {key: value for key, value in config.items() if key not in _NOT_COMPUTED}
    rope = {key: settings.pop(key, None) for key in ("rope_theta", "rope_scaling", "rope_parameters")}
    if any(rope.values()):
        merged = {"rope_theta": rope["rope_theta"], **(rope["rope_scaling"] or {}), **(rope["rope_parameters"] or {})}
        kind = merged.pop("type", None)  # as rope_type was once called
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
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([stats, tied]).encode()).hexdigest()
    memo = cache_dir() / "fingerprints" / key
    if memo.is_file() and len(known := memo.read_text(encoding="utf-8")) == len(key):
        return known
    digest = _hash_tensors(files, skip=frozenset({"lm_head.weight"} if tied else ()))
    # Whole or not at all: half a digest would be another base for ever.
    with suppress(DataError), atomic_text(memo) as out:  # a full cache costs the next caller the hashing, no more
        out.write(digest)
    return digest


def _hash_tensors(files: list[Path], skip: frozenset[str] = frozenset()) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors in the order of their names, however sharded."""
    places: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for file in files:
        header, start = _header(file)
        places.update({name: (file, about, start) for name, about in header.items() if name not in skip})
    digest = hashlib.sha256()
    for name in sorted(places):
        file, about, start = places[name]
        digest.update(f"{name} {about['dtype']} {about['shape']}\n".encode())
        first, last = about["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(start + first)
            left = last - first
            while left:
                block = stream.read(min(left, 1 << 22))
                if not block:
                    raise BaseModelError(f"ends in the middle of tensor {name}", where=str(file))
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file (name -> dtype, shape, data_offsets) and where the data begins."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _tokenizer(folder: Path) -> str:
    """Over vocabulary, merges, normaliser and added tokens: what turns text into ids. Comments and paths are not."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise BaseModelError("the folder holds no tokenizer.json", where=str(folder))
    stat = file.stat()
    return _tokenizer_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _tokenizer_hash(file: Path, size: int, changed: int) -> str:
    """Kept, since every load of an adapter asks for it."""
    del size, changed
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("truncation", None)
    content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _template(folder: Path) -> str:
    own = folder / "chat_template.jinja"
    if own.is_file():
        template = own.read_text(encoding="utf-8")
    else:
        settings = folder / "tokenizer_config.json"
        content = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        template = str(content.get("chat_template") or "")
    return hashlib.sha256(template.encode()).hexdigest()
