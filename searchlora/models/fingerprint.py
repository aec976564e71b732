"""The identity of a base model: architecture, tensor bytes, tokenizer and chat template, wherever they came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict

from searchlora.errors import BaseModelError
from searchlora.models.resolve import cache_dir


class Fingerprint(PydanticModel):
    """sha256 each, but for `architecture`, which is the class name.

    Two folders with the same fingerprint hold the same base, whether sharded or in one file, from hub or disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    tensors: str
    tokenizer: str
    template: str


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
    )


def _tensors(folder: Path, tied: bool) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError("the folder holds no safetensors", where=str(folder))
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([stats, tied]).encode()).hexdigest()
    memo = cache_dir() / "fingerprints" / key
    if memo.is_file():
        return memo.read_text(encoding="utf-8")
    digest = hash_tensors(files, skip=frozenset({"lm_head.weight"} if tied else ()))
    memo.parent.mkdir(parents=True, exist_ok=True)
    memo.write_text(digest, encoding="utf-8")
    return digest


def hash_tensors(files: list[Path], skip: frozenset[str] = frozenset()) -> str:
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
