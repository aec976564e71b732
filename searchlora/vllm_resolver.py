"""Plugin for vLLM: any vLLM server finds the adapters of a store by `name@3`, `name@alias` or `name`.

It runs in vLLM's environment, where searchlora is installed without its requirements (`pip install --no-deps
searchlora`): reading a store needs pydantic and safetensors, which vLLM has. vLLM loads it by the entry point
`vllm.general_plugins`; it does nothing unless the environment variable SEARCHLORA_STORE names a store. vLLM asks
resolvers only with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.

vLLM asks once for a name and remembers the answer. For an alias, and for a name without a version, which means the
newest one, the plugin reads the store every two seconds. When the alias has moved, or its weights have changed, it has
vLLM load the new versions, and only then requests go there; requests that have begun end on the old one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes
from searchlora.errors import BaseMismatch, SearchloraError, UsageError

STORE = "SEARCHLORA_STORE"

#: Attributes of vLLM's object that remembers adapters (`OpenAIServingModels`).
_MODELS_HAVE = ("lora_requests", "lora_id_counter", "engine_client")

#: Seconds between two looks at the aliases.
POLL_S = 2.0

_LOG = logging.getLogger("vllm.searchlora")


def shares(store: Store, reference: str) -> dict[str, float]:
    """Exact versions that answer a reference now -> their shares of its requests, the main one first."""
    main, parsed = store.pin(reference), parse_reference(reference)
    weights = store.alias_history(parsed.name).weights(parsed.alias) if parsed.alias else None
    others = {f"{parsed.name}@{version}": share for version, share in (weights or {}).items()}
    return {main: others.pop(main, 1 - sum(others.values())), **others}


def checked_folder(store: Store, pinned: str, base: str) -> Path:
    """The folder of a version, after a check of its files against its manifest.

    Args:
        base: vLLM's name of its base model. In a folder, its architecture must be that of the adapter's base.
    """
    stored = store.get(pinned)
    check_hashes(stored)
    read_config(stored.path)
    architecture = stored.manifest.base.fingerprint.architecture
    config = Path(base) / "config.json"
    served = json.loads(config.read_bytes()).get("architectures") if config.is_file() else None
    if served and architecture not in served:
        raise BaseMismatch(f"was trained on a {architecture}, and {base} is a {served[0]}", where=pinned)
    return stored.path.resolve()


class SharedRequests(dict[str, Any]):
    """vLLM's adapters by name. A name that several versions share means one of them at each look, by their shares."""

    def __init__(self, requests: Mapping[str, Any]) -> None:
        super().__init__(requests)
        self.drawn: dict[str, tuple[list[Any], list[float]]] = {}  # name -> vLLM's requests of its versions, shares

    def __getitem__(self, name: str) -> Any:
        if name not in self.drawn:
            return super().__getitem__(name)
        requests, weights = self.drawn[name]
        return random.choices(requests, weights)[0]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401


def _models_of_server(frame: FrameType | None) -> Any:
    """What remembers the adapters of this server: vLLM gives a resolver no access to it, but it is what asks one.

    None if no caller is such an object.
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
        raise UsageError(f"{STORE} is '{root}', and vLLM loads adapters from folders only", fix="Name a folder.")
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class StoreResolver(LoRAResolver):  # type: ignore[misc]
        """Answers vLLM's questions for names, and follows aliases."""

        def __init__(self) -> None:
            self.store = Store(root)
            self.requests: dict[str, dict[str, LoRARequest]] = {}  # followed name -> version -> vLLM's request for it
            self.followed: dict[str, dict[str, float]] = {}  # the same -> its shares
            self.said: dict[str, str] = {}  # the same -> why it does not move, which is logged once
            self.following: asyncio.Task[None] | None = None

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            models = _models_of_server(sys._getframe())
            try:
                pinned = await asyncio.to_thread(self.store.pin, lora_name)
                request = await self.request(lora_name, pinned, base_model_name, 1)  # vLLM replaces the id
            except (SearchloraError, OSError) as error:
                _LOG.warning("searchlora: %s", error)
                return None
            if pinned != lora_name:
                self.requests[lora_name], self.followed[lora_name] = {pinned: request}, {pinned: 1.0}
                if models is None:
                    _LOG.warning("searchlora: %s stays at %s: this vLLM is unknown", lora_name, pinned)
                elif self.following is None or self.following.done():
                    self.following = asyncio.create_task(self.follow(models, base_model_name))
            return request

        async def request(self, name: str, pinned: str, base: str, number: int) -> LoRARequest:
            """vLLM compares adapters by name, so two versions of an alias have two: `shop@production/3`."""
            folder = await asyncio.to_thread(checked_folder, self.store, pinned, base)
            own = name if name == pinned else f"{name}/{pinned.partition('@')[2]}"
            return LoRARequest(own, number, str(folder))

        async def follow(self, models: Any, base: str) -> None:
            while True:
                await asyncio.sleep(POLL_S)
                for name in list(self.followed):
                    try:
                        await self.move(models, name, base)
                    except Exception as error:  # the name stays where it is, and the next look tries again
                        if self.said.get(name) != str(error):
                            self.said[name] = str(error)
                            _LOG.warning("searchlora: %s stays at %s: %s", name, next(iter(self.followed[name])), error)

        async def move(self, models: Any, name: str, base: str) -> None:
            wanted = await asyncio.to_thread(shares, self.store, name)
            if wanted == self.followed[name] or name not in models.lora_requests:
                return
            known = self.requests[name]
            for pinned in wanted.keys() - known.keys():
                request = await self.request(name, pinned, base, models.lora_id_counter.inc(1))
                await models.engine_client.add_lora(request)  # raises if vLLM cannot serve it
                known[pinned] = request
            if not isinstance(models.lora_requests, SharedRequests):
                models.lora_requests = SharedRequests(models.lora_requests)
            models.lora_requests[name] = known[next(iter(wanted))]
            models.lora_requests.drawn[name] = ([known[pinned] for pinned in wanted], list(wanted.values()))
            self.followed[name] = wanted
            self.said.pop(name, None)
            shown = ", ".join(f"{pinned} ({share:.0%})" if share < 1 else pinned for pinned, share in wanted.items())
            _LOG.info("searchlora: %s is %s now", name, shown)

    LoRAResolverRegistry.register_resolver("searchlora store", StoreResolver())
