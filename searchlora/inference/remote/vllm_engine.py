"""The managed vLLM engine: a remote engine whose server this process starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, concerns_all
from searchlora.inference.engine import Request
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.remote.vllm_server import SERVED_BASE, shared_server
from searchlora.inference.settings import VllmSettings
from searchlora.models.resolve import BaseModel
from searchlora.recipe import PromptOptions

Result = TypeVar("Result")


class VllmEngine(RemoteEngine):
    """vLLM in an environment of its own, as a child process of this one. Thread-safe.

    Engines of one base with the same settings share a server, which ends when they are closed or forgotten, or this
    process ends.

    Args:
        settings: With a `precision`; None leaves it to vLLM.
        base, store, prompt_options: As of `RemoteEngine`.

    Raises:
        EngineError: for an environment without vLLM, or with the end of its log if the server does not start.
    """

    def __init__(
        self,
        settings: VllmSettings,
        base: BaseModel,
        store: Store | None = None,
        *,
        prompt_options: PromptOptions | None = None,
    ) -> None:
        self._settings = settings
        self._server = shared_server(settings, base)
        super().__init__(
            self._server.url,
            base,
            store,
            api_key=self._server.key,
            prompt_options=prompt_options,
            model=SERVED_BASE,
            dialect="vllm",
            load=True,
            # One slot stays empty: on a CPU, vLLM 0.32 gives a request without an adapter the adapter of the last slot
            # if one with an adapter is in the same batch (its pull request 48421).
            max_loaded=settings.max_loras - 1,
            **settings.model_dump(include={"concurrency", "timeout_s", "retries"}),
        )

    @property
    def engine_id(self) -> str:
        return self._settings.engine_id("auto")

    def _run(self, requests: Sequence[Request], jobs: Sequence[Callable[..., Result]]) -> list[Result]:
        try:
            return super()._run(requests, jobs)
        except EngineError as error:
            if concerns_all(error) and not self._closed.is_set() and (died := self._server.failure()) is not None:
                raise died from error
            raise

    def close(self) -> None:
        """As `RemoteEngine.close`; the server ends with the last engine that uses it."""
        super().close()
        self.__dict__.pop("_server", None)
