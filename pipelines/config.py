"""From a YAML file to a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.adapters.load_check import check_renders
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages import AdapterStage, RetrieveStage, Stage
from searchlora.progress import Progress, Steps, silent, unwatched
from searchlora.records import Document

_READY = Path(__file__).parent
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSettings(_Strict):
    """`- adapter: {name: shop-rewriter@production}`; task and base are those of its manifest."""

    name: str
    max_new_tokens: int | None = Field(None, ge=1, description="default: as in the adapter's recipe")


class Bm25Settings(_Strict):
    """`- bm25: {k: 100}`, over the corpus given to the run."""

    k: int = Field(100, ge=1)
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    stopwords: Literal["english"] | None = "english"
    stemmer: Literal["english"] | None = None
    backend: Literal["bm25s", "rank-bm25"] = "bm25s"


_KINDS: dict[str, type[_Strict]] = {"adapter": AdapterSettings, "bm25": Bm25Settings}


class PipelineFile(_Strict):
    """A pipeline as written: `$name` as a whole value stands for a parameter."""

    name: str = Field(pattern=r"^[\w.-]+$")
    parameters: dict[str, str | int | float] = {}
    stages: list[dict[str, dict[str, Any]]] = Field(min_length=1)


def ready_pipelines() -> list[str]:
    """The names of the pipelines that come with the package."""
    return sorted(file.stem for file in _READY.glob("*.yaml"))


def read_pipeline(pipeline: str | Path, overrides: Sequence[str] = ()) -> tuple[str, list[_Strict]]:
    """Name and stage settings of a pipeline file or a ready pipeline, with `parameter=value` overrides.

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
    except yaml.YAMLError as error:
        raise PipelineError(f"is not YAML ({error})", where=str(path)) from None
    file = _validated(PipelineFile, content, str(path))
    parameters = _overridden(file.parameters, overrides, str(path))
    stages = []
    for number, stage in enumerate(file.stages, 1):
        where = f"{path}, stage {number}"
        if len(stage) != 1 or next(iter(stage)) not in _KINDS:
            raise PipelineError(
                f"has the kinds {sorted(stage)}", where=where, fix=f"A stage is one of: {', '.join(sorted(_KINDS))}."
            )
        (kind, settings), *_ = stage.items()
        stages.append(_validated(_KINDS[kind], _filled(settings, parameters, where), where))
    return file.name, stages


def build_pipeline(
    name: str,
    stages: Sequence[_Strict],
    *,
    store: Store,
    documents: Sequence[Document],
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Pipeline:
    """Load what the stages need: adapters (through their load check, one engine per base) and an index."""
    engines: dict[str, Any] = {}
    built: list[Stage] = []
    for settings in stages:
        if isinstance(settings, AdapterSettings):
            built.append(_adapter_stage(settings, store, engines, tasks))
        elif isinstance(settings, Bm25Settings):
            built.append(bm25_stage(settings, documents, steps("Indexing")))
    return Pipeline(name, built)


def bm25_settings(**settings: Any) -> Bm25Settings:
    """Settings of a BM25 stage. Raises `PipelineError` naming the key that is refused."""
    return _validated(Bm25Settings, settings, "bm25")


def bm25_stage(settings: Bm25Settings, documents: Sequence[Document], progress: Progress = silent) -> RetrieveStage:
    """Index the documents."""
    from searchlora.retrieval.analysis import Analyzer
    from searchlora.retrieval.bm25 import BM25Index

    if not documents:
        raise PipelineError("there are no documents to search in", fix="Give a corpus file that is not empty.")
    analyzer = Analyzer(stopwords=settings.stopwords, stemmer=settings.stemmer)
    method = "robertson" if settings.backend == "rank-bm25" else "lucene"
    index = BM25Index(
        documents,
        k1=settings.k1,
        b=settings.b,
        analyzer=analyzer,
        method=method,
        backend=settings.backend,
        progress=progress,
    )
    return RetrieveStage(index, settings.k)


def _adapter_stage(
    settings: AdapterSettings, store: Store, engines: dict[str, Any], tasks: str | Path | None
) -> AdapterStage:
    from searchlora.inference.local import LocalEngine
    from searchlora.models.resolve import resolve
    from searchlora.task import PromptedTask, load_task

    stored = store.get(settings.name)
    manifest = stored.manifest
    task = load_task(manifest.task, tasks)
    if not isinstance(task, PromptedTask):
        raise PipelineError(f"the task '{task.name}' has no prompt, so it is not an adapter stage", where=settings.name)
    base = manifest.base.name
    if base not in engines:
        at_hand = resolve(base, manifest.base.revision)
        engines[base] = LocalEngine(at_hand, store, precision=manifest.recipe["precision"])
    check_renders(stored, task, engines[base].renderer)
    pinned = engines[base].pin(settings.name)
    return AdapterStage(task, engines[base], pinned, settings.max_new_tokens or manifest.recipe["max_new_tokens"])


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
