"""Which models a server has, and what it calls the base and an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any

from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.errors import EngineError
from searchlora.inference.remote.dialects import Dialect, DialectName, OpenAI, Searchlora, Vllm
from searchlora.inference.remote.http import Refused, Server
from searchlora.models.resolve import BaseModel, public_name
from searchlora.prompts import Renderer


class Models:
    """The models of one server. Safe for threads.

    Args:
        names: Pinned reference -> what the server calls it; one that is not there is called by its reference.
        base_name: What the server calls the base; None: as `searchlora serve` calls it, else the first that is listed.
        dialect: What kind of server it is; None: what `owned_by` of its models says.
        load: Whether adapters may be loaded on vLLM from the store's folder, which it must see under the same path.
    """

    def __init__(
        self,
        server: Server,
        base: BaseModel,
        store: Store | None,
        *,
        names: Mapping[str, str],
        base_name: str | None,
        dialect: DialectName | None,
        load: bool,
    ) -> None:
        self._server = server
        self._base = base
        self._store = store
        self._names = names
        self._base_name = base_name
        self._dialect = dialect
        self._load = load
        self._loading = Lock()

    @cached_property
    def dialect(self) -> DialectName:
        """What kind of server it is."""
        if self._dialect is not None:
            return self._dialect
        owners = {str(card.get("owned_by")) for card in self._cards.values()}
        return "vllm" if "vllm" in owners else "searchlora" if "searchlora" in owners else "openai"

    def spoken(self, renderer: Renderer) -> Dialect:
        """The way in which the server is asked.

        Raises:
            EngineError: for `searchlora serve` with another base, to which the same request means something else.
        """
        if self.dialect == "searchlora" and self._called not in self._cards:
            raise EngineError(
                f"the server has no base '{self._called}' (it has {', '.join(self._cards) or 'none'})",
                where=self._server.url,
                fix=f"Start it with --base {self._called}, or say with 'model' what it calls the base.",
            )
        kinds: dict[DialectName, Callable[[], Dialect]] = {
            "vllm": lambda: Vllm(renderer),
            "searchlora": Searchlora,
            "openai": OpenAI,
        }
        return kinds[self.dialect]()

    @cached_property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together, where the server says so."""
        if self.dialect != "vllm":  # others do not say, and count what they render
            return None
        return next((card["max_model_len"] for card in self._cards.values() if card.get("max_model_len")), None)

    def name(self, pinned: str | None) -> str:
        """What the server calls an adapter, which is loaded where that is allowed, or the base.

        Raises:
            EngineError: where the server lists no base; where vLLM does not have the adapter and must not load it.
            Refused, LoadCheckFailed, NotInStore: where it cannot be loaded.
        """
        if pinned is None:
            return self._called
        name = self._names.get(pinned, pinned)
        if self.dialect == "vllm" and name not in self._cards:
            with self._loading:
                self._bring(pinned, name)
        return name

    def bring_again(self, pinned: str | None) -> bool:
        """After a 404: whether it may be asked again, since vLLM had forgotten the adapter and has it now.

        vLLM keeps what was loaded until it is started anew. Raises as `name`.
        """
        if pinned is None or self.dialect != "vllm":
            return False
        with self._loading:
            self._bring(pinned, self._names.get(pinned, pinned))
        return True

    def load(self, pinned: str) -> None:
        """Let the server load an adapter. Raises as `name`."""
        if self.dialect == "searchlora":
            self._server.tell("/v1/adapters/load", {"adapter": self._names.get(pinned, pinned)})
        else:
            self.name(pinned)

    def unload(self, pinned: str) -> bool:
        """Whether the server had the adapter, and now has not.

        Raises:
            EngineError: where that is not allowed, or the server cannot.
        """
        name = self._names.get(pinned, pinned)
        if self.dialect == "searchlora":
            return bool(self._server.post("/v1/adapters/unload", {"adapter": name})["was_loaded"])
        if self.dialect != "vllm" or not self._load:
            raise EngineError("no adapter is unloaded here", where=self._server.url, fix="Unload it on the server.")
        try:
            self._server.tell("/v1/unload_lora_adapter", {"lora_name": name})
        except Refused as error:
            if error.status != 404:
                raise
            return False
        finally:
            self._look_again()
        return True

    def _bring(self, pinned: str, name: str) -> None:
        """See whether vLLM has it by now, and else have it loaded, after the checks of every load."""
        self._look_again()
        if name in self._cards:
            return
        if not self._load or self._store is None:
            raise EngineError(
                f"the server has no model '{name}' (it has {', '.join(self._cards) or 'none'})",
                where=self._server.url,
                fix=f"Start vLLM with --lora-modules {name}=FOLDER, say with 'names' what it calls the adapter, or "
                "allow it to be loaded with 'load' (vLLM then needs VLLM_ALLOW_RUNTIME_LORA_UPDATING).",
            )
        stored = self._store.get(pinned)
        check_files(stored, self._base)
        folder = str(stored.path.resolve())
        try:
            self._server.tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except Refused:
            self._look_again()
            if name not in self._cards:  # else another client was quicker
                raise
        self._look_again()

    def _look_again(self) -> None:
        self.__dict__.pop("_cards", None)

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        """Name -> what the server tells of each model that it lists."""
        answer = self._server.get("/v1/models")
        try:
            return {str(card["id"]): card for card in answer["data"]}
        except (KeyError, TypeError):
            raise EngineError(
                "the list of models is not understood",
                where=f"{self._server.url}/v1/models",
                fix="Give the address of an OpenAI-compatible server.",
            ) from None

    @property
    def _called(self) -> str:
        """What the server calls the base."""
        if self._base_name is not None:
            return self._base_name
        if self.dialect == "searchlora":
            return public_name(self._base.name)
        for name, card in self._cards.items():
            if not card.get("parent"):  # adapters have one
                return name
        raise EngineError("the server lists no model", where=self._server.url, fix="Name the base with 'model'.")
