"""The managed vLLM engine: a remote engine whose server this process starts and ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, LoadCheckFailed, concerns_all
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.remote.vllm_server import SERVED_BASE, shared_server
from searchlora.inference.settings import VLLM_MAX_RANK, VllmSettings
from searchlora.models.resolve import BaseModel
from searchlora.recipe import PromptOptions

_LOCALLY = "Use a local engine or `searchlora serve`."


class VllmEngine(RemoteEngine):
    """vLLM in an environment of its own, as a child process of this one. Thread-safe.

    The server starts with the first request, with slots and a maximum rank for the adapters that were pinned by then;
    an adapter that does not fit restarts it, and so does a request after it ended. Engines of one base with the same
    settings share a server, which ends when they are closed or forgotten, or this process ends.

    Args:
        settings: With a `precision`; None leaves it to vLLM.
        base, store, prompt_options: As of `RemoteEngine`.

    Raises:
        EngineError: for an environment without vLLM.
    """

    def __init__(
        self,
        settings: VllmSettings,
        base: BaseModel,
        store: Store | None = None,
        *,
        prompt_options: PromptOptions | None = None,
    ) -> None:
        self._server = shared_server(settings, base)
        self._engine_id = ", ".join([f"vllm {self._server.version}", settings.precision or "auto", *settings.args])
        self._max_rank = settings.max_lora_rank
        self._ranks = self._server.ranks  # of pinned versions and of folders, of all engines that share the server
        self._candidates: dict[str, Path] = {}  # folders that are no versions, to load them again after a restart
        self._seen, self._reloading = 0, Lock()
        super().__init__(
            self._server.url,
            base,
            store,
            api_key=self._server.key,
            prompt_options=prompt_options,
            model=SERVED_BASE,
            dialect="vllm",
            load=True,
            **settings.model_dump(include={"concurrency", "timeout_s", "retries"}),
        )

    @property
    def engine_id(self) -> str:
        """The version of vLLM, the precision and further arguments; not the address, which changes."""
        return self._engine_id

    def pin(self, adapter: str) -> str:
        """As `RemoteEngine.pin`; the server will have a slot for the adapter.

        Raises:
            LoadCheckFailed: for an adapter that vLLM cannot serve, naming the key of its configuration.
        """
        pinned = super().pin(adapter)
        if pinned not in self._ranks and self.store is not None:
            stored = self.store.get(pinned)
            if not stored.is_full:
                self._ranks[pinned] = servable_rank(read_config(stored.path), pinned, self._max_rank)
        return pinned

    def load(self, adapter: str) -> str:
        with self._served([adapter]):
            return super().load(adapter)

    def load_folder(self, name: str, folder: Path) -> None:
        """As `RemoteEngine.load_folder`. Raises `LoadCheckFailed` as `pin`."""
        self._ranks[name] = servable_rank(read_config(folder), name, self._max_rank)
        current = self._candidates.pop(name, None)  # a restart does not load it: its folder may be gone
        try:
            with self._served([]):
                super().load_folder(name, folder)
            current = folder
        finally:
            if current is not None:
                self._candidates[name] = current

    def unload(self, adapter: str) -> bool:
        self._candidates.pop(adapter, None)
        if not self._server.is_running:  # it has no adapters
            return False
        with self._served([]):
            return super().unload(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As `RemoteEngine.generate`. Raises `EngineError` with the end of its log if the server does not run."""
        with self._served(request.adapter for request in requests):
            return super().generate(requests)

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """As `RemoteEngine.score`. Raises `EngineError` with the end of its log if the server does not run."""
        with self._served(request.adapter for request in requests):
            return super().score(requests, choices, prune_margin=prune_margin)

    def close(self) -> None:
        """As `RemoteEngine.close`; the server ends with the last engine that uses it."""
        super().close()
        self.__dict__.pop("_server", None)

    @contextmanager
    def _served(self, adapters: Iterable[str | None]) -> Iterator[None]:
        """Let the server run during the block, with the adapters that were pinned and these."""
        self._check_open()
        for adapter in {*adapters} - {None}:
            assert adapter is not None
            self.pin(adapter)
        server = self._server
        with server.running() as starts:
            try:
                self._restore(starts)
                yield
            except EngineError as error:
                if concerns_all(error) and (died := server.failure()) is not None:
                    raise died from error
                raise

    def _restore(self, starts: int) -> None:
        """Load the folders that are no versions after a restart; versions are loaded when they are asked for."""
        with self._reloading:
            if starts == self._seen:
                return
            self._client.url = self._server.url
            self._models.forget()
            for name, folder in list(self._candidates.items()):
                self._models.load_folder(name, folder)
            self._seen = starts


def servable_rank(config: Mapping[str, Any], name: str, max_rank: int | None = None) -> int:
    """The rank of an adapter, the highest one of its modules.

    Args:
        config: Its configuration, with the keys of PEFT.
        name: The adapter, for error messages.
        max_rank: The highest rank that the server is started with; None: as high as vLLM allows.

    Raises:
        LoadCheckFailed: for a rank that vLLM cannot serve.
    """
    ranks = {
        "r": config["r"],
        **{f"rank_pattern.{module}": r for module, r in (config.get("rank_pattern") or {}).items()},
    }
    key, rank = max(ranks.items(), key=lambda entry: entry[1])
    if rank > VLLM_MAX_RANK:
        raise LoadCheckFailed(
            f"'{key}': rank {rank} is above vLLM's maximum, {VLLM_MAX_RANK}", where=name, fix=_LOCALLY
        )
    if max_rank is not None and rank > max_rank:
        raise LoadCheckFailed(
            f"'{key}': rank {rank} is above 'max_lora_rank' of the engine, {max_rank}",
            where=name,
            fix="Raise it, or leave it out.",
        )
    return int(rank)
