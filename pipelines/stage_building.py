"""Building the stage of each kind from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from searchlora.adapters.full_model import base_of
from searchlora.adapters.load_check import check_renders
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError, UsageError
from searchlora.eval.trec import read_run
from searchlora.http_client import api_key
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import Engine
from searchlora.inference.engines import Engines
from searchlora.inference.metered import MeteredEngine
from searchlora.models.resolve import public_name
from searchlora.pipelines.conditions import described
from searchlora.pipelines.engine_indexes import SearchEngines
from searchlora.pipelines.retrievers import BuiltRetrievers, Encoders, Retrievers
from searchlora.pipelines.stage_settings import (
    AdapterSettings,
    Bm25Settings,
    DenseSettings,
    EngineSearchSettings,
    FuseSettings,
    HitsSettings,
    HttpSettings,
    MatchSettings,
    PassagesSettings,
    RetrieveSettings,
    Settings,
    SimilaritySettings,
    StageSettings,
    VectorSearchSettings,
    conditions,
    stage_kind,
)
from searchlora.pipelines.stages import (
    AdapterStage,
    HitsStage,
    MatchStage,
    PassagesStage,
    RetrieveStage,
    SimilarityStage,
    Stage,
)
from searchlora.progress import Progress, Steps, no_progress, silent
from searchlora.recipe import PromptOptions
from searchlora.records import Document
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.search_engine import folded_filter


def build_stage(
    settings: Settings,
    source: Retrievers,
    store: Store,
    engines: Engines,
    encoders: Encoders,
    search_engines: SearchEngines,
    *,
    tasks: str | Path | None = None,
    cache: AnswerCache | None = None,
    steps: Steps = no_progress,
) -> Stage:
    """Build a stage: load its adapter, index its documents, or connect to its search engine.

    Args:
        settings: With pinned adapters.
        source: Where retrievers and documents come from.
        engines, encoders, search_engines: What is loaded already; new ones are added.
        tasks: A folder of task plugins.
        cache: Answers of adapter stages, see `Pipeline.load`.

    Raises:
        PipelineError: if the stage retrieves and there are no documents.
        StaleIndex: for an index folder that does not fit the stage or its model.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    if isinstance(settings, AdapterSettings):
        return _adapter_stage(settings, store, engines, tasks, cache)
    if isinstance(settings, RetrieveSettings):
        return _retrieve_stage(settings, source, encoders, search_engines, steps)
    if isinstance(settings, HitsSettings):
        return _hits_stage(settings)
    if isinstance(settings, PassagesSettings):
        return PassagesStage(source.documents, settings.k)
    if isinstance(settings, MatchSettings):
        return _match_stage(settings, source)
    assert isinstance(settings, SimilaritySettings)
    return _similarity_stage(settings, encoders)


def _match_stage(settings: MatchSettings, source: Retrievers) -> MatchStage:
    return MatchStage(
        source.documents, conditions(settings.filter), conditions(settings.boost), settings.factor, settings.k
    )


def _hits_stage(settings: HitsSettings) -> HitsStage:
    if settings.run is None:
        return HitsStage(None, settings.k)
    return HitsStage(read_run(settings.run), settings.k, Path(settings.run).name)


def bm25_stage(settings: Bm25Settings, documents: Sequence[Document], progress: Progress = silent) -> RetrieveStage:
    """A BM25 stage over the documents. Raises `PipelineError` if there are none."""
    return _bm25_stage(settings, BuiltRetrievers(documents), progress)


def _retrieve_stage(
    settings: RetrieveSettings, source: Retrievers, encoders: Encoders, engines: SearchEngines, steps: Steps
) -> RetrieveStage:
    if isinstance(settings, FuseSettings):
        return fuse_stage(settings, [_retrieve_stage(part, source, encoders, engines, steps) for part in settings.of])
    if isinstance(settings, EngineSearchSettings):
        inner = [f"{settings.engine}:{settings.index}"]
        if isinstance(settings, VectorSearchSettings):
            inner.append(public_name(encoders.get(settings).name))
        retriever = engines.retriever(settings, encoders)
        return _searched_by(retriever, settings, _label(stage_kind(settings), settings, *inner))
    if isinstance(settings, HttpSettings):
        return _http_stage(settings)
    if isinstance(settings, DenseSettings):
        dense = source.dense(settings, encoders, steps("Encoding"))
        if settings.filter_by:
            dense = dense.filterable(source.columns(settings.filter_by))
        return _searched_by(dense, settings, _label("dense", settings, public_name(dense.encoder.name)))
    assert isinstance(settings, Bm25Settings)
    return _bm25_stage(settings, source, steps("Indexing"))


def _bm25_stage(settings: Bm25Settings, source: Retrievers, progress: Progress) -> RetrieveStage:
    index = source.bm25(settings, progress)
    if settings.filter_by:
        index = index.filterable(source.columns(settings.filter_by))
    return _searched_by(index, settings, _label("bm25", settings))


def _searched_by(retriever: Retriever, settings: RetrieveSettings, label: str) -> RetrieveStage:
    return RetrieveStage(retriever, settings.k, label, conditions(settings.filter_by))


def _http_stage(settings: HttpSettings) -> RetrieveStage:
    from searchlora.retrieval.http import HttpRetriever, ResponsePaths, engine_defaults

    body, paths = engine_defaults(settings.engine)
    given = {key: value for key in ("hits", "id", "score", "title", "text") if (value := getattr(settings, key))}
    retriever = HttpRetriever(
        settings.url,
        settings.body or body,
        ResponsePaths(**{**asdict(paths), **given}),
        api_key=api_key(settings.api_key_env, settings.url),
        auth=settings.auth,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
    )
    return _searched_by(retriever, settings, _label("http", settings, urlsplit(settings.url).path.strip("/")))


def _similarity_stage(settings: SimilaritySettings, encoders: Encoders) -> SimilarityStage:
    encoder = encoders.get(settings)
    return SimilarityStage(
        encoder,
        f"similarity({public_name(encoder.name)})",
        settings.query_prefix,
        settings.document_prefix,
        settings.batch_size,
    )


def fuse_stage(settings: FuseSettings, parts: Sequence[RetrieveStage]) -> RetrieveStage:
    """A stage that fuses the hits of its parts, one for each of `settings.of`."""
    from searchlora.retrieval.fusion import Fused, Source

    weights = settings.weights or (1.0,) * len(parts)
    sources = [
        Source(part.retriever, part.k, weight, part.label, own.on_failure == "skip", own.budget_s)
        for part, weight, own in zip(parts, weights, settings.of, strict=True)
    ]
    fused = Fused(sources, method=settings.method, rrf_k=settings.constant)
    return _searched_by(fused, settings, _label(settings.method, settings, *(part.label for part in parts)))


_CLIENT = ("api_key_env", "auth", "concurrency", "timeout_s", "retries")
_PATHS = ("hits", "id", "score", "title", "text")


def _label(name: str, settings: RetrieveSettings, *inner: str) -> str:
    """The retriever, and each setting that affects its results and differs from the default."""
    excluded = {
        "of",
        "method",
        "model",
        "adapter",
        "batch_size",
        "query_batch_size",
        "url",
        "engine",
        "body",
        "filter",
        "filter_by",
        *StageSettings.model_fields,
        *_CLIENT,
        *_PATHS,
    }
    if isinstance(settings, EngineSearchSettings):
        excluded.add("index")
    changed = settings.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
    shown = [*inner, *(f"{key}={_value(value)}" for key, value in changed.items())]
    if isinstance(settings, EngineSearchSettings):
        shown += [f"filter={name}:{'|'.join(values)}" for name, values in folded_filter(settings.filter).items()]
    if not isinstance(settings, FuseSettings):  # its parts tell it
        shown += [f"filter_by={each}" for each in described(conditions(settings.filter_by))]
    return f"{name}({','.join(shown)})" if shown else name


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ":".join(f"{key}^{boost:g}" for key, boost in value.items())
    return ":".join(f"{number:g}" for number in value) if isinstance(value, list) else str(value)


def _adapter_stage(
    settings: AdapterSettings,
    store: Store,
    engines: Engines,
    tasks: str | Path | None,
    cache: AnswerCache | None,
) -> AdapterStage:
    from searchlora.task import GenerationTask, load_task

    stored = store.get(settings.name)
    manifest = stored.manifest
    tuned = {} if settings.bare else manifest.tuned  # values that were chosen for the adapter's outputs
    task = load_task(manifest.task, tasks).bound(manifest.settings, {**tuned, **settings.tuned})
    if not isinstance(task, GenerationTask):
        raise PipelineError(
            f"the task '{task.name}' has no prompt, so it cannot be an adapter stage", where=settings.name
        )
    try:
        task.check_tuned(settings.tuned)
    except UsageError as error:
        raise PipelineError(error.what, where=f"{settings.name}, tuned", fix=error.fix) from None
    base = manifest.base.resolve()
    model = base if settings.bare else base_of(stored, base)
    # An engine knows the options of each adapter's prompts; those of a base without an adapter are its own.
    own = settings.bare and manifest.prompt_options != PromptOptions()
    options = manifest.prompt_options if own else None
    computing = engines.get(model, manifest.precision, settings=settings.engine, prompt_options=options)
    check_renders(stored, task, computing.renderer)
    engine: Engine = computing
    max_new_tokens = settings.max_new_tokens or manifest.max_new_tokens
    pinned = None if settings.bare else engine.pin(settings.name)
    if cache is not None:
        scope = {
            "engine": engine.engine_id,
            "base": manifest.base.fingerprint.model_dump(),
            "adapter": {} if settings.bare else dict(manifest.files),
            "prompt options": manifest.prompt_options.model_dump(),
        }
        engine = MeteredEngine(engine, cache.answers(scope))
    return AdapterStage(
        task,
        engine,
        pinned,
        max_new_tokens,
        constrained=settings.constrained,
        rest=settings.rest,
        fuse_rewrite=settings.rewrite == "fuse",
    )
