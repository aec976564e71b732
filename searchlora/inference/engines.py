"""Engines made from settings: every verb, pipeline and server gets its engines here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.inference.settings import EngineSettings, LocalSettings, ServerSettings
from searchlora.models.load import Precision
from searchlora.recipe import PromptOptions

if TYPE_CHECKING:
    from searchlora.adapters.store import Store
    from searchlora.inference.local import LocalEngine
    from searchlora.inference.remote.engine import RemoteEngine
    from searchlora.models.resolve import BaseModel


def make_engine(
    settings: EngineSettings,
    base: BaseModel,
    store: Store | None,
    *,
    precision: Precision = "bf16",
    prompt_options: PromptOptions | None = None,
) -> LocalEngine | RemoteEngine:
    """An engine for a base model.

    Args:
        precision: Precision of an engine in this process, or of its vLLM, whose settings leave it open.
        prompt_options: Options of the prompts of the bare base.

    Raises:
        BaseModelError: for a base that cannot be loaded.
        PipelineError: if the environment variable with the server's key is not set.
        EngineError: for an invalid URL, or an environment without vLLM.
    """
    return settings.with_precision(precision).make(base, store, prompt_options)


class Engines:
    """Engines by base, settings, precision and prompt options, made on first use.

    Args:
        store: Resolves adapter references.
        settings: Of the engines that are asked for without settings; None: a local engine with default settings.
    """

    def __init__(self, store: Store, settings: EngineSettings | None = None) -> None:
        self.store = store
        self.settings = settings or LocalSettings()
        self._engines: dict[tuple[Path, str, str], LocalEngine | RemoteEngine] = {}

    def get(
        self,
        base: BaseModel,
        precision: Precision,
        *,
        prompt_options: PromptOptions | None = None,
        settings: EngineSettings | None = None,
    ) -> LocalEngine | RemoteEngine:
        """The engine for a base. Arguments and errors as `make_engine`."""
        if settings is None:
            return self.without_settings(base, precision, prompt_options)
        settings = settings.with_precision(precision)
        options = "" if prompt_options is None else prompt_options.model_dump_json()
        key = (base.path, settings.model_dump_json(), options)
        if key not in self._engines:
            self._engines[key] = settings.make(base, self.store, prompt_options)
        return self._engines[key]

    def without_settings(
        self, base: BaseModel, precision: Precision, prompt_options: PromptOptions | None
    ) -> LocalEngine | RemoteEngine:
        """The engine that is asked for without settings; errors as `make_engine`."""
        return self.get(base, precision, prompt_options=prompt_options, settings=self.settings)

    def engine_id(
        self,
        base: BaseModel,
        precision: Precision,
        *,
        prompt_options: PromptOptions | None = None,
        settings: EngineSettings | None = None,
    ) -> str:
        """`Engine.engine_id` of the engine, without loading weights. Raises `EngineError` as it does."""
        settings = settings or self.settings
        if not isinstance(settings, ServerSettings):
            return settings.engine_id(precision, base)
        return self.get(base, precision, prompt_options=prompt_options, settings=settings).engine_id
