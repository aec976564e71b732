"""From a YAML file to the settings of a pipeline's stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from searchlora.errors import PipelineError
from searchlora.pipelines.building import bm25_stage, build_pipeline
from searchlora.pipelines.settings import (
    KINDS,
    AdapterSettings,
    Bm25Settings,
    DenseSettings,
    EngineSettings,
    FuseSettings,
    RetrieveSettings,
    Settings,
    adapters,
    asked_of,
    encoders,
    pinned,
)

# Whoever reads a pipeline needs its settings and builds it: one place to import from.
__all__ = [
    "AdapterSettings",
    "Bm25Settings",
    "DenseSettings",
    "EngineSettings",
    "FuseSettings",
    "RetrieveSettings",
    "Settings",
    "adapters",
    "bm25_settings",
    "bm25_stage",
    "build_pipeline",
    "encoders",
    "engine_settings",
    "parse_stages",
    "pinned",
    "read_pipeline",
    "ready_pipelines",
]

_READY = Path(__file__).parent
Model = TypeVar("Model", bound=BaseModel)


class PipelineFile(Settings):
    """A pipeline as written: `$name` as a whole value stands for a parameter."""

    name: str = Field(pattern=r"^[\w.-]+$")
    parameters: dict[str, str | int | float] = Field(default_factory=dict)
    engine: dict[str, Any] | None = None
    stages: list[dict[str, dict[str, Any]]] = Field(min_length=1)


def ready_pipelines() -> list[str]:
    """The names of the pipelines that come with the package."""
    return sorted(file.stem for file in _READY.glob("*.yaml"))


def read_pipeline(
    pipeline: str | Path, overrides: Sequence[str] = (), engine: EngineSettings | None = None
) -> tuple[str, list[Settings]]:
    """Name and stage settings of a pipeline file or a ready pipeline, with `parameter=value` overrides.

    Args:
        engine: In place of the one at the top of the file.

    Raises:
        PipelineError: naming file, stage and key.
    """
    path = Path(pipeline)
    if not path.suffix and f"{pipeline}" in ready_pipelines():
        path = _READY / f"{pipeline}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise PipelineError(
            f"there is no pipeline '{pipeline}'", fix=f"Give a YAML file, or one of: {', '.join(ready_pipelines())}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"is not YAML ({error})", where=str(path)) from None
    file = _validated(PipelineFile, content, str(path))
    parameters = _overridden(file.parameters, overrides, str(path))
    stages = parse_stages(file.stages, str(path), parameters)
    if engine is None and file.engine is not None:
        where = f"{path}, engine"
        engine = _validated(EngineSettings, _filled(file.engine, parameters, where), where)
    return file.name, asked_of(stages, engine) if engine else stages


def parse_stages(
    stages: Sequence[Mapping[str, Mapping[str, Any]]], where: str, parameters: Mapping[str, Any] | None = None
) -> list[Settings]:
    """The settings of stages as they stand under `stages` in a pipeline file.

    Args:
        where: Of errors: the file, or what stands for it.
        parameters: Name -> value for each `$name`.

    Raises:
        PipelineError: naming `where`, stage and key.
    """
    return [
        _stage(stage, KINDS, parameters or {}, f"{where}, stage {number}") for number, stage in enumerate(stages, 1)
    ]


def bm25_settings(**settings: Any) -> Bm25Settings:
    """Settings of a BM25 stage. Raises `PipelineError` naming the key that is refused."""
    return _validated(Bm25Settings, settings, "bm25")


def engine_settings(**settings: Any) -> EngineSettings:
    """Settings of a server that adapters are asked of. Raises `PipelineError` naming the key that is refused."""
    return _validated(EngineSettings, settings, "engine")


def _stage(stage: Any, kinds: Mapping[str, type[Settings]], parameters: Mapping[str, Any], where: str) -> Settings:
    shown = dict(stage) if isinstance(stage, Mapping) else {str(stage): None}
    kind, written = next(iter(shown.items()), ("", None))
    if len(shown) != 1 or kind not in kinds or not isinstance(written, Mapping):
        raise PipelineError(
            f"{list(shown)} is not one kind of stage with its settings",
            where=where,
            fix=f"A stage is one of: {', '.join(sorted(kinds))}, as in '- bm25: {{k: 100}}'.",
        )
    settings = _filled(written, parameters, where)
    if kinds[kind] is FuseSettings and isinstance(settings.get("of"), list):
        retrieving = {name: each for name, each in KINDS.items() if issubclass(each, RetrieveSettings)}
        settings["of"] = [
            _stage(inner, retrieving, parameters, f"{where}, of {number}")
            for number, inner in enumerate(settings["of"], 1)
        ]
    return _validated(kinds[kind], settings, where)


def _validated(model: type[Model], content: Any, where: str) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        known = f"Known keys: {', '.join(sorted(model.model_fields))}." if first["type"] == "extra_forbidden" else None
        raise PipelineError(f"'{key}': {first['msg'].lower()}", where=where, fix=known) from None


def _overridden(defaults: Mapping[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    parameters = dict(defaults)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in parameters:
            raise PipelineError(
                f"'{override}' sets no parameter", where=where, fix=f"Parameters: {', '.join(parameters) or 'none'}."
            )
        try:
            parameters[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PipelineError(f"'{value}' is not a YAML value", where=f"--set {key}") from None
    return parameters


def _filled(settings: Mapping[str, Any], parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    filled = {}
    for key, value in settings.items():
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in parameters:
                raise PipelineError(f"'{key}' wants the parameter '{value}', which is not declared", where=where)
            value = parameters[value[1:]]
        filled[key] = value
    return filled
