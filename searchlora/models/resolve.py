"""From what the user called a base model to a local folder with its weights and tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import BaseModelError
from searchlora.eval.files import file_sha256
from searchlora.models.catalogue import CATALOGUE, HubWeights, PackagedFolder, PackagedWeights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class BaseModel:
    """A base model at hand.

    Attributes:
        name: As the user named it; manifests carry it.
        path: A folder with `config.json`, safetensors and a tokenizer.
        revision: The hub's commit, where it came from the hub.
    """

    name: str
    path: Path
    revision: str | None = None


def cache_dir() -> Path:
    """Where converted bases are kept: SEARCHLORA_CACHE, else `searchlora` in the user's cache folder."""
    own = os.environ.get("SEARCHLORA_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "searchlora"


def resolve(name: str, revision: str | None = None, *, ask_hub: bool = True) -> BaseModel:
    """Find a base model by catalogue name, folder, GGUF file or hub id.

    Nothing is asked of the hub unless `name` is a hub id (or a catalogue name of one) and is not in its cache, so that
    a base does not move under its adapters when its repository does.

    Args:
        revision: The hub's commit that an adapter was trained on; elsewhere than on the hub it means nothing.
        ask_hub: False takes only what is on this machine.

    Raises:
        BaseModelError: when there is no such base; says what was looked for.
    """
    entry = CATALOGUE.get(name)
    if isinstance(entry, PackagedWeights):
        return BaseModel(name, _converted(_packaged(name, entry, entry.file), entry.sha256))
    if isinstance(entry, PackagedFolder):
        return _from_packaged_folder(name, entry)
    if isinstance(entry, HubWeights):
        return _from_hub(name, entry.repo, revision, ask_hub)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(name, path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BaseModelError("there is no such GGUF file", where=name)
        return BaseModel(name, _converted(path, file_sha256(path)))
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, name, revision, ask_hub)
    raise BaseModelError(
        f"there is no base model '{name}'",
        fix=f"Give a folder, a .gguf file, a hub id, or one of: {', '.join(sorted(CATALOGUE))}.",
    )


def _from_folder(name: str, path: Path) -> BaseModel:
    if missing := _missing(path):
        raise BaseModelError(
            f"the folder holds no {' and no '.join(missing)}",
            where=name,
            fix="Save the model and its tokenizer with save_pretrained, in safetensors.",
        )
    return BaseModel(name, path)


def _missing(path: Path) -> list[str]:
    """What a folder lacks to be a base."""
    missing = [file for file in ("config.json", "tokenizer.json") if not (path / file).is_file()]
    return missing if list(path.glob("*.safetensors")) else [*missing, "*.safetensors"]


def _from_packaged_folder(name: str, entry: PackagedFolder) -> BaseModel:
    weights = _packaged(name, entry, f"{entry.folder}/model.safetensors")
    _check_sha256(weights, entry.sha256)
    return _from_folder(name, weights.parent)


def _packaged(name: str, entry: PackagedWeights | PackagedFolder, file: str) -> Path:
    """A file that an installed package carries."""
    spec = importlib.util.find_spec(entry.package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BaseModelError(f"the weights of '{name}' are not installed", fix=f"Run: {entry.install}")
    return path


def _from_hub(name: str, repo: str, revision: str | None, ask_hub: bool) -> BaseModel:
    path = _snapshot(repo, revision, local=True)
    # A shard may be missing where a download broke off; asked again, the hub client fetches what is not there.
    if path is not None and not _missing(path) and not _missing_shards(path):
        return BaseModel(name, path, revision=path.name)
    if not ask_hub:
        raise BaseModelError(f"'{repo}' is not in the cache of the hub", fix="Fetch it, or give a local folder.")
    path = _snapshot(repo, revision, local=False)
    assert path is not None  # it was fetched, or an error raised
    return BaseModel(name, path, revision=path.name)


def _snapshot(repo: str, revision: str | None, *, local: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=local))
    except Exception as error:  # the hub client raises a dozen kinds, all of which mean the same to the user
        if local:
            return None
        at = f" at revision {revision}" if revision else ""
        raise BaseModelError(
            f"'{repo}'{at} could not be had from the hub ({type(error).__name__}) and is not a local folder",
            fix="Check the id and the network, or give a local folder.",
        ) from error


def _missing_shards(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return {shard for shard in shards if not (path / shard).is_file()}


def _converted(gguf: Path, sha256: str) -> Path:
    """The safetensors copy of a GGUF file, made on first use (reloading it takes a second, the GGUF fifteen)."""
    target = cache_dir() / "bases" / sha256[:16]
    if not (target / "config.json").is_file():
        _check_sha256(gguf, sha256)
        from searchlora.models.gguf import convert

        convert(gguf, target)
    return target


def _check_sha256(path: Path, sha256: str) -> None:
    found = file_sha256(path)
    if found != sha256:
        raise BaseModelError(
            f"sha256 is {found[:12]}…, not {sha256[:12]}… as published",
            where=str(path),
            fix="The file is damaged or another release; install the weights package again.",
        )
