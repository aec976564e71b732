"""The models of a server: its names for the base model and for adapters, and loading adapters on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, printable
from searchlora.http_client import HttpClient, Refused
from searchlora.inference.remote.dialects import Dialect, OpenAI, Searchlora, Vllm
from searchlora.inference.settings import DialectName, ServerSettings
from searchlora.models.resolve import BaseModel, public_name
from searchlora.prompts import Renderer


class ServerModels:
    """The models of one server. Thread-safe.

    `settings.model`, `dialect` and `load` apply. A missing model is the name that `searchlora serve` uses, or the first
    that another server lists; a missing dialect is detected from `owned_by` of its models.

    `names`: Pinned reference -> the server's name of the adapter; others are called by their reference.
    """

    def __init__(
        self,
        client: HttpClient,
        base: BaseModel,
        store: Store | None,
        settings: ServerSettings,
        names: Mapping[str, str],
    ) -> None:
        self._client = client
        self._base = base
        self._store = store
        self._names = names
        self._given_base_name, self._given_dialect, self._load = settings.model, settings.dialect, settings.load
        self._max_loaded = settings.max_loaded
        self._loading = Lock()

    @cached_property
    def dialect(self) -> DialectName:
        if self._given_dialect is not None:
            return self._given_dialect
        owners = {str(card.get("owned_by")) for card in self._cards.values()}
        return "vllm" if "vllm" in owners else "searchlora" if "searchlora" in owners else "openai"

    def make_dialect(self, renderer: Renderer, token_bytes: Callable[[int], bytes]) -> Dialect:
        """What talks to this kind of server. Raises `EngineError` for a `searchlora serve` with another base model, on
        which the same request means something else.
        """
        self._check_base()
        dialects: dict[DialectName, Callable[[], Dialect]] = {
            "vllm": lambda: Vllm(renderer, token_bytes),
            "searchlora": Searchlora,
            "openai": lambda: OpenAI(renderer),
        }
        return dialects[self.dialect]()

    @cached_property
    def context(self) -> int | None:
        """Context length in tokens; None if the server does not report it."""
        if self.dialect != "vllm":  # others do not report it, and count what they render
            return None
        lengths = [card.get("max_model_len") for card in self._cards.values()]
        return next((length for length in lengths if type(length) is int and length > 0), None)

    @property
    def description(self) -> str:
        """Kind of server, its name of the base model, and what `searchlora serve` reports of how it is computed.

        Raises `EngineError` for a server that does not list its models, or as `make_dialect`.
        """
        self._check_base()
        known = [self.dialect, self._base_name]
        if self.dialect == "searchlora":
            card = self._cards[self._base_name]
            known += [printable(str(card["precision"]))] if "precision" in card else []
            known += ["not batch invariant"] if card.get("batch_invariant") is False else []
        return ", ".join(known)

    def name(self, pinned: str | None) -> str:
        """The server's name of an adapter, or of the base model; the adapter is loaded if that is allowed."""
        if pinned is None:
            return self._base_name
        name = self._names.get(pinned, pinned)
        if self.dialect == "vllm" and name not in self._cards:
            with self._loading:
                self._ensure_loaded(pinned, name)
        return name

    def reload(self, pinned: str | None) -> bool:
        """Load an adapter on vLLM once more after a 404, since a restarted vLLM forgets it; whether a retry makes
        sense.
        """
        if pinned is None or self.dialect != "vllm":
            return False
        with self._loading:
            self._ensure_loaded(pinned, self._names.get(pinned, pinned))
        return True

    def load(self, pinned: str) -> None:
        """Let the server load an adapter. Raises as `name`."""
        if self.dialect == "searchlora":
            self._client.post_only("/v1/adapters/load", {"adapter": self._names.get(pinned, pinned)})
        else:
            self.name(pinned)

    def load_folder(self, name: str, folder: Path) -> None:
        """Let the server load the adapter in a folder under a name, in place of one that it has by that name."""
        if self.dialect == "searchlora":
            root = None if self._store is None else self._store.root.resolve()
            if root is None or not folder.resolve().is_relative_to(root):
                raise EngineError("the server loads adapters from its store only", where=str(folder))
            place = folder.resolve().relative_to(root).as_posix()
            self._client.post_only("/v1/adapters/load", {"adapter": name, "folder": place})
            return
        if self.dialect != "vllm" or not self._load:
            raise EngineError(
                "the server loads no adapters",
                where=self._client.url,
                fix="Use 'searchlora serve' on the same store, vLLM with 'load: true', or a local engine.",
            )
        with self._loading:
            self.forget()
            if name in self._cards:
                self._client.post_only("/v1/unload_lora_adapter", {"lora_name": name})
            self._load_path(name, folder)
            self.forget()

    def unload(self, pinned: str) -> bool:
        """Let the server unload an adapter; False if it was not loaded."""
        name = self._names.get(pinned, pinned)
        if self.dialect == "searchlora":
            return bool(self._client.post("/v1/adapters/unload", {"adapter": name})["was_loaded"])
        if self.dialect != "vllm" or not self._load:
            raise EngineError("no adapter is unloaded here", where=self._client.url, fix="Unload it on the server.")
        try:
            self._client.post_only("/v1/unload_lora_adapter", {"lora_name": name})
        except Refused as error:
            if error.status != 404:
                raise
            return False
        finally:
            self.forget()
        return True

    def forget(self) -> None:
        """Forget which models the server has, and ask it before the next request."""
        self.__dict__.pop("_cards", None)

    def _check_base(self) -> None:
        if self.dialect == "searchlora" and self._base_name not in self._cards:
            raise EngineError(
                f"the server has no base '{self._base_name}' (it has {', '.join(self._cards) or 'none'})",
                where=self._client.url,
                fix=f"Start it with --base {self._base_name}, or say with 'model' what it calls the base.",
            )

    def _ensure_loaded(self, pinned: str, name: str) -> None:
        """Ask vLLM for its models again; if the adapter is missing, check its files and have vLLM load it."""
        self.forget()
        if name in self._cards:
            return
        if not self._load or self._store is None:
            raise EngineError(
                f"the server has no model '{name}' (it has {', '.join(self._cards) or 'none'})",
                where=self._client.url,
                fix=f"Start vLLM with --lora-modules {name}=FOLDER, say with 'names' what it calls the adapter, or "
                "allow it to be loaded with 'load' (vLLM then needs VLLM_ALLOW_RUNTIME_LORA_UPDATING).",
            )
        stored = self._store.get(pinned)
        check_files(stored, self._base)
        try:
            self._load_path(name, stored.path)
        except Refused:
            self.forget()
            if name not in self._cards:  # otherwise another client has loaded it meanwhile
                raise
        self.forget()

    def _load_path(self, name: str, folder: Path) -> None:
        """Have vLLM load a folder; where it has as many adapters as it may, those that were loaded first go."""
        if self._max_loaded is not None:
            loaded = [other for other, card in self._cards.items() if card.get("parent") and other != name]
            for other in loaded[: max(0, len(loaded) + 1 - self._max_loaded)]:
                self.unload(other)
        self._client.post_only("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        """Name -> the server's description of each model that it lists."""
        answer = self._client.get("/v1/models")
        try:
            return {printable(str(card["id"])): dict(card) for card in answer["data"]}
        except (KeyError, TypeError, ValueError):
            raise EngineError(
                "the list of models is not understood",
                where=f"{self._client.url}/v1/models",
                fix="Give the address of an OpenAI-compatible server.",
            ) from None

    @property
    def _base_name(self) -> str:
        if self._given_base_name is not None:
            return self._given_base_name
        if self.dialect == "searchlora":
            return public_name(self._base.name)
        for name, card in self._cards.items():
            if not card.get("parent"):  # adapters have one
                return name
        raise EngineError("the server lists no model", where=self._client.url, fix="Name the base with 'model'.")
