"""Plugin for vLLM: any vLLM server finds the adapters of a store by `name@3`, `name@alias` or `name`.

It needs nothing but the standard library and vLLM, so it runs in vLLM's environment, where searchlora is installed
without its requirements (`pip install --no-deps searchlora`). vLLM loads it by the entry point `vllm.general_plugins`;
it does nothing unless the environment variable SEARCHLORA_STORE names a store. vLLM asks resolvers only with
VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.

vLLM asks once for a name and remembers the answer. For an alias, and for a name without a version, which means the
newest one, the plugin reads the store every two seconds. When the alias has moved, it has vLLM load the new version,
and only then requests go there; requests that have begun end on the old one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

STORE = "SEARCHLORA_STORE"

#: Attributes of vLLM's object that remembers adapters (`OpenAIServingModels`).
_MODELS_HAVE = ("lora_requests", "lora_id_counter", "engine_client")

#: Seconds between two looks at the aliases.
POLL_S = 2.0

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_LOG = logging.getLogger("vllm.searchlora")


class NotServable(Exception):
    """Why an adapter is not served: no such adapter, a changed file, another base."""


@dataclass(frozen=True)
class Found:
    """An adapter of the store.

    Attributes:
        reference: The exact version, `name@3`.
        folder: Its PEFT folder.
        rank: The highest rank of its modules.
    """

    reference: str
    folder: Path
    rank: int


class StoreAdapters:
    """The adapters in the folder of a store, read only.

    Examples:
        >>> StoreAdapters(Path("none")).pin("shop-rewriter@3")
        'shop-rewriter@3'
        >>> StoreAdapters(Path("none")).pin("../etc@3")
        Traceback (most recent call last):
        searchlora.vllm_resolver.NotServable: '../etc@3' is not a reference to an adapter
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def pin(self, reference: str) -> str:
        """The exact version that a reference means now. Raises `NotServable`."""
        name, at, target = reference.partition("@")
        if not _NAME.fullmatch(name) or (at and not (_VERSION.fullmatch(target) or _ALIAS.fullmatch(target))):
            raise NotServable(f"{reference[:100]!r} is not a reference to an adapter")
        if not at:
            folders = (entry.name for entry in self._entries(name))
            versions = [int(folder) for folder in folders if _VERSION.fullmatch(folder)]
            if not versions:
                raise NotServable(f"there is no adapter '{name}' in {self.root}")
            return f"{name}@{max(versions)}"
        if _VERSION.fullmatch(target):
            return reference
        moves = _read_json(self.root / name / "aliases.json", list)
        last = next((move.get("to") for move in reversed(moves) if move.get("alias") == target), None)
        if not isinstance(last, int):
            raise NotServable(f"'{name}' has no alias '{target}' in {self.root}")
        return f"{name}@{last}"

    def find(self, reference: str, base: str) -> Found:
        """The adapter that a reference means, after a check of its files against its manifest.

        Args:
            base: vLLM's name of its base model. In a folder, its architecture must be that of the adapter's base.

        Raises:
            NotServable: if it must not or cannot be served.
        """
        try:
            pinned = self.pin(reference)
            folder = self.root.joinpath(*pinned.split("@")).resolve()
            return self._checked(pinned, folder, base)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise NotServable(f"the files of {reference} are not understood ({error})") from None

    def _checked(self, pinned: str, folder: Path, base: str) -> Found:
        manifest = _read_json(folder / "searchlora.json", dict)
        if f"{manifest.get('name')}@{manifest.get('version')}" != pinned:
            raise NotServable(f"the manifest of {pinned} is that of another version")
        _check_files(folder, manifest)
        architecture = manifest["base"]["fingerprint"]["architecture"]
        served = _read_json(config, dict) if (config := Path(base) / "config.json").is_file() else {}
        if architecture not in (served.get("architectures") or [architecture]):
            raise NotServable(f"{pinned} was trained on a {architecture}, and {base} is a {served['architectures'][0]}")
        lora = _read_json(folder / "adapter_config.json", dict)
        if lora.get("peft_type") != "LORA":
            raise NotServable(f"{pinned} is not LoRA, which is all that vLLM computes")
        return Found(pinned, folder, max([lora["r"], *(lora.get("rank_pattern") or {}).values()]))

    def _entries(self, name: str) -> Iterable[Path]:
        try:
            return [entry for entry in (self.root / name).iterdir() if (entry / "searchlora.json").is_file()]
        except OSError:
            return []


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise `NotServable` for a file that is missing, changed, or not in the manifest."""
    expected = manifest.get("files")
    actual = {entry.name for entry in folder.iterdir()} - {"searchlora.json"}
    if not isinstance(expected, dict) or actual != expected.keys():
        raise NotServable(f"{folder} has other files than its manifest says")
    for name, digest in expected.items():
        file = folder / name
        if file.is_symlink() or not file.is_file():
            raise NotServable(f"{file} is not a plain file")
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                raise NotServable(f"{file} was changed (against the sha256 in the manifest)")


def _read_json(file: Path, kind: type[Any]) -> Any:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NotServable(f"there is no {file}") from None
    except (OSError, ValueError) as error:
        raise NotServable(f"{file} cannot be read ({error})") from None
    if not isinstance(content, kind):
        raise NotServable(f"{file} is not a JSON {kind.__name__}")
    return content


def _models_of_server(frame: FrameType | None) -> Any:
    """What remembers the adapters of this server; vLLM gives a resolver no access to it, but it is what asks one.

    It cannot be found among all objects, since a server freezes those of its start (`gc.freeze`). None if no caller is
    such an object.
    """
    while frame is not None:
        asking = frame.f_locals.get("self")
        if all(hasattr(asking, name) for name in _MODELS_HAVE):
            return asking
        frame = frame.f_back
    return None


def register() -> None:
    """What vLLM calls in each of its processes: register the resolver if SEARCHLORA_STORE names a store."""
    root = os.environ.get(STORE)
    if not root:
        return
    if "://" in root:
        raise ValueError(f"{STORE} is {root!r}, and vLLM loads adapters from folders only: name the folder of a store")
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class StoreResolver(LoRAResolver):  # type: ignore[misc]
        """Answers vLLM's questions for names, and follows aliases."""

        def __init__(self, adapters: StoreAdapters) -> None:
            self.adapters = adapters
            self.followed: dict[str, str] = {}  # name that vLLM knows -> exact version
            self.said: dict[str, str] = {}  # the same -> why it does not move, which is logged once
            self.following: asyncio.Task[None] | None = None

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            models = _models_of_server(sys._getframe())
            try:
                found = await asyncio.to_thread(self.adapters.find, lora_name, base_model_name)
            except NotServable as error:
                _LOG.warning("searchlora: %s", error)
                return None
            if found.reference != lora_name:
                self.followed[lora_name] = found.reference
                if models is None:
                    _LOG.warning("searchlora: %s stays at %s: this vLLM is unknown", lora_name, found.reference)
                elif self.following is None or self.following.done():
                    self.following = asyncio.create_task(self.follow(models, base_model_name))
            return self.request(lora_name, found, 1)  # vLLM replaces the id

        def request(self, lora_name: str, found: Found, number: int) -> LoRARequest:
            """vLLM compares adapters by name, so two versions of an alias have two: `shop@production/3`."""
            name = lora_name if lora_name == found.reference else f"{lora_name}/{found.reference.partition('@')[2]}"
            return LoRARequest(name, number, str(found.folder))

        async def follow(self, models: Any, base: str) -> None:
            while True:
                await asyncio.sleep(POLL_S)
                for name in list(self.followed):
                    try:
                        await self.move(models, name, base)
                    except Exception as error:  # the name stays where it is, and the next look tries again
                        if self.said.get(name) != str(error):
                            self.said[name] = str(error)
                            _LOG.warning("searchlora: %s stays at %s: %s", name, self.followed[name], error)

        async def move(self, models: Any, name: str, base: str) -> None:
            pinned = await asyncio.to_thread(self.adapters.pin, name)
            if pinned == self.followed[name] or name not in models.lora_requests:
                return
            found = await asyncio.to_thread(self.adapters.find, pinned, base)
            request = self.request(name, found, models.lora_id_counter.inc(1))
            await models.engine_client.add_lora(request)  # raises if vLLM cannot serve it
            models.lora_requests[name] = request
            self.followed[name] = pinned
            self.said.pop(name, None)
            _LOG.info("searchlora: %s is %s now", name, pinned)

    LoRAResolverRegistry.register_resolver("searchlora store", StoreResolver(StoreAdapters(Path(root))))
