"""Pipelines: stages that are applied in order, and building them from settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from searchlora.adapters.full_model import base_of
from searchlora.adapters.load_check import check_renders
from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile, check_id, index_folder, read_documents
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.trec import Run, read_run
from searchlora.http_client import api_key
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import Engine
from searchlora.inference.engines import Engines
from searchlora.inference.metered import MeteredEngine
from searchlora.inference.settings import EngineSettings
from searchlora.models.resolve import public_name
from searchlora.pipelines.conditions import described
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.engine_indexes import SearchEngines
from searchlora.pipelines.execution import Trace, execute_stage
from searchlora.pipelines.results import result
from searchlora.pipelines.retrievers import BuiltRetrievers, Encoders, Retrievers, SavedRetrievers, pipeline_options
from searchlora.pipelines.shared_batches import SharedBatches
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
    check_order,
    conditions,
    part_keys,
    pinned,
    reads_corpus,
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
from searchlora.progress import Progress, Steps, silent, unwatched
from searchlora.recipe import PromptOptions
from searchlora.records import Document, SearchContext
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.search_engine import folded_filter

if TYPE_CHECKING:
    from searchlora.retrieval.gate import GateWeigher


@dataclass(frozen=True)
class Pipeline:
    """A sequence of stages.

    Attributes:
        settings: The settings of the stages, with pinned adapters.
        documents: The corpus by id, for pipelines that search one.
    """

    name: str
    stages: Sequence[Stage]
    settings: Sequence[Settings] = ()
    documents: Mapping[str, Document] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        pipeline: str | Path | PipelineConfig,
        *,
        corpus: Corpus | Iterable[Document] | None = None,
        overrides: Sequence[str] = (),
        engine: EngineSettings | None = None,
        store: Store | str | Path | None = None,
        tasks: str | Path | None = None,
        cache: str | Path | AnswerCache | None = None,
        steps: Steps = unwatched,
    ) -> Pipeline:
        """Load a pipeline: read its file, pin its adapters to versions, load them, and index the documents.

        Args:
            pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made
                of one, with the overrides and the engine.
            corpus: Documents, or a file of rows with `id`, `text` and optionally `title`, or an index folder. Default:
                what the pipeline names as `corpus`. A pipeline that neither searches documents nor reads their texts
                needs none.
            overrides: Parameters of the pipeline, `name=value`.
            engine: Where the adapter stages are computed; replaces the engine of the pipeline.
            store: The adapter store. Default: `SEARCHLORA_STORE`, else `./store`.
            tasks: A folder of task plugins.
            cache: A file in which the answers of adapter stages are kept, and looked up by prompt, engine, base, and
                the hashes of the adapter's files; or an `AnswerCache` with another limit than a gibibyte. None: every
                answer is computed.

        Raises:
            PipelineError: for an invalid file, or if a stage needs documents and there are none.
            UsageError: for overrides or an engine of a pipeline that was read before.
            DataError: for a row that is not a document, or two documents with the same id.
            StaleIndex: for an index folder that does not fit the pipeline, the models or the corpus.
            BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.

        Examples:
            >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "red couch"), Document("d2", "green tent")])
            >>> [hit["document"] for hit in shop.search("a green couch")["hits"]]
            ['d2', 'd1']
        """
        if isinstance(pipeline, PipelineConfig):
            if overrides or engine is not None:
                raise UsageError("overrides and engine are for `read_pipeline`", where=pipeline.source)
            config = pipeline
        else:
            config = read_pipeline(pipeline, overrides, engine)
        store = store if isinstance(store, Store) else Store(store)
        check_order(config.stages, config.source)
        stages = pinned(config.stages, store.pin)
        if corpus is None:
            corpus = own_corpus(config)
        documents = retrievers(corpus if corpus is not None else (), config)
        return build_pipeline(
            config.name,
            stages,
            store=store,
            documents=documents,
            tasks=tasks,
            cache=AnswerCache(Path(cache)) if isinstance(cache, str | Path) else cache,
            search_engines=SearchEngines(pipeline_options(config)),
            steps=steps,
        )

    def search(self, query: str, **fields: Any) -> dict[str, Any]:
        """Execute the pipeline on one query.

        Args:
            fields: Further fields that stages read, such as `history`, a list of turns.

        Returns:
            What the stages wrote, in the form of `pipelines.results.result`.
        """
        search = {"id": "1", "query": query, **fields}
        (executed,) = self.execute([search])
        return result(search, executed, self.labels)

    @property
    def labels(self) -> list[str]:
        """The stages with pinned versions."""
        return [stage.label for stage in self.stages]

    @property
    def tag(self) -> str:
        """The name and the pinned stages without white space, for the tag column of a run file."""
        return "-".join("_".join([self.name, *self.labels]).split())

    @property
    def made_by(self) -> list[str]:
        """The engines of the adapter stages, see `Engine.made_by`."""
        return [stage.engine.made_by for stage in self.stages if isinstance(stage, AdapterStage)]

    @property
    def batch_size(self) -> int:
        """The number of searches per call of a stage that keeps the engines of the stages busy."""
        return max([_BATCH, *(stage.engine.call_size for stage in self.stages if isinstance(stage, AdapterStage))])

    def execute(
        self,
        searches: Sequence[SearchContext],
        *,
        batch: int | None = None,
        progress: Progress = silent,
        trace: Trace | None = None,
    ) -> list[SearchContext]:
        """Apply all stages to searches. Adapter stages that do not depend on each other generate in one batch.

        Args:
            searches: Each has `id` and `query`, and further fields that stages read.
            batch: Number of searches per call of a stage; None: `batch_size`.
            trace: Gets a row for each search and stage, search by search, see `execution.trace_row`. None: nothing is
                kept.

        Returns:
            The searches in the same order, with the fields that the stages added.

        Raises:
            PipelineError: if a search lacks `id` or `query`, or two have the same id.
            DeadlineExceeded: if a stage takes longer than its `budget_s`.
            SearchloraError: what a stage raises, except where its `on_failure` is `skip`.
        """
        _check(searches)
        batch = batch or self.batch_size
        done: list[SearchContext] = []
        for start in range(0, len(searches), batch):
            part = list(searches[start : start + batch])
            rows: list[Mapping[str, Any]] = []
            shared = SharedBatches(self.stages, self.settings)
            for number, (_, settings) in enumerate(zip_longest(self.stages, self.settings), 1):
                stage, earlier = shared.stage(number - 1, part)
                part = execute_stage(stage, settings, part, number, rows.append if trace is not None else None, earlier)
            if trace is not None:
                order = {str(search["id"]): place for place, search in enumerate(part)}
                for row in sorted(rows, key=lambda row: order[row["id"]]):  # stable: stages stay in order
                    trace(row)
            done += part
            progress(len(done), len(searches))
        return done


#: Smallest number of searches per call of a stage.
_BATCH = 256


def own_corpus(config: PipelineConfig) -> Corpus | None:
    """The file of documents that a pipeline names; None if it names none and no stage reads documents.

    Raises:
        PipelineError: if it names none and a stage needs them.
    """
    if config.corpus is None and reads_corpus(config.stages):
        raise PipelineError(
            "the pipeline needs documents, and none are given",
            where=config.source,
            fix="Give --corpus FILE, or name a file as 'corpus' in the pipeline.",
        )
    return config.corpus


def run_of(searches: Sequence[SearchContext]) -> Run:
    """The TREC run of searches with hits: topic -> document -> score."""
    return {str(search["id"]): {hit.document: hit.score for hit in search["hits"]} for search in searches}


def _check(searches: Sequence[SearchContext]) -> None:
    seen: set[str] = set()
    for number, search in enumerate(searches, 1):
        for name in ("id", "query"):
            if name not in search:
                raise PipelineError(f"has no '{name}'", where=f"query {number}")
        if str(search["id"]) in seen:
            raise PipelineError(f"the id '{search['id']}' is repeated", where=f"query {number}")
        seen.add(str(search["id"]))


# Building


def build_pipeline(
    name: str,
    stages: Sequence[Settings],
    *,
    store: Store,
    documents: Sequence[Document] | Retrievers,
    tasks: str | Path | None = None,
    cache: AnswerCache | None = None,
    engines: Engines | None = None,
    encoders: Encoders | None = None,
    search_engines: SearchEngines | None = None,
    steps: Steps = unwatched,
) -> Pipeline:
    """Build a pipeline: check and load adapters, index the documents, load encoders. Shared resources are loaded once.

    Args:
        name: The name of the pipeline, for run tags.
        stages: The settings of the stages, with pinned adapters.
        documents: The corpus of retrieval stages, or what `retrievers` returns.
        tasks: A folder of task plugins.
        cache: Answers of adapter stages, see `Pipeline.load`.
        engines: Engines that several pipelines share; None: of this pipeline alone.
        encoders: The same for encoders.
        search_engines: The same for the search engines of text_search and vector_search stages.

    Raises:
        PipelineError: if a stage retrieves and there are no documents.
        StaleIndex: for an index folder that does not fit the stages or the models.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    engines = engines or Engines(store)
    encoders = encoders or Encoders(store)
    searching = search_engines or SearchEngines()
    source: Retrievers = BuiltRetrievers(documents) if isinstance(documents, Sequence) else documents
    built: list[Stage] = []
    for settings in stages:
        if isinstance(settings, AdapterSettings):
            built.append(_adapter_stage(settings, store, engines, tasks, cache))
        elif isinstance(settings, RetrieveSettings):
            built.append(_retrieve_stage(settings, source, encoders, searching, steps))
        elif isinstance(settings, HitsSettings):
            built.append(_hits_stage(settings))
        elif isinstance(settings, PassagesSettings):
            built.append(PassagesStage(source.documents, settings.k))
        elif isinstance(settings, MatchSettings):
            built.append(_match_stage(settings, source))
        elif isinstance(settings, SimilaritySettings):
            built.append(_similarity_stage(settings, encoders))
    return Pipeline(name, built, tuple(stages), source.documents)


def retrievers(corpus: Corpus | Iterable[Document], config: PipelineConfig | None = None) -> Retrievers:
    """Where stages get retrievers and documents from: built in memory, or those of an index folder.

    Args:
        corpus: Documents, a file of them, or an index folder.
        config: The pipeline, for error messages.

    Raises:
        DataError: for a row that is not a document, or two documents with the same id.
        StaleIndex: for an index folder whose files or corpus were changed.
    """
    if not isinstance(corpus, str | Path | CorpusFile):
        return BuiltRetrievers(_unique(corpus))
    folder = index_folder(corpus)
    return SavedRetrievers(folder, config) if folder is not None else BuiltRetrievers(_unique(read_documents(corpus)))


def _unique(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list; raises `DataError` for an id that is not one word, or is repeated."""
    unique: dict[str, Document] = {}
    for document in documents:
        check_id(document.id)
        if document.id in unique:
            raise DataError(f"two documents have the id '{document.id}'")
        unique[document.id] = document
    return list(unique.values())


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
        Source(part.retriever, part.k, weight, part.label, own.on_failure == "skip")
        for part, weight, own in zip(parts, weights, settings.of, strict=True)
    ]
    weigher = _gate_weigher(settings, parts)
    fused = Fused(sources, method=settings.method, constant=settings.constant, weigher=weigher)
    gate = () if weigher is None else (f"gate={(settings.gate_sha256 or '')[:8]}",)
    return _searched_by(fused, settings, _label(settings.method, settings, *(part.label for part in parts), *gate))


def _gate_weigher(settings: FuseSettings, parts: Sequence[RetrieveStage]) -> GateWeigher | None:
    """The gate of a fusion; None without one, or where weights are given in its place.

    Raises:
        DataError: if the file is missing, is no gate, or has changed.
        PipelineError: for a gate of another fusion.
    """
    if settings.gate is None or settings.weights is not None:
        return None
    from searchlora.retrieval.gate import GateWeigher, read_gate

    gate = read_gate(Path(settings.gate), settings.gate_sha256)
    fitted: list[tuple[str, object, object]] = [
        ("method", gate.method, settings.method),
        ("constant", gate.constant, settings.constant),
    ]
    if settings.gate_parts is None:
        fitted.append(("of", gate.parts, part_keys(settings.of)))
    for key, of_gate, own in fitted:
        if of_gate != own:
            raise PipelineError(
                f"the gate was fitted with another '{key}': {of_gate}, and not {own}",
                where=settings.gate,
                fix="Fit it again with `searchlora gate fit`.",
            )
    return GateWeigher(gate, [part.retriever for part in parts], settings.gate_parts)


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
        "gate",
        "gate_sha256",
        "gate_parts",
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
    from searchlora.models.resolve import resolve
    from searchlora.task import PromptedTask, load_task

    stored = store.get(settings.name)
    manifest = stored.manifest
    tuned = {} if settings.bare else manifest.tuned  # values that were chosen for the adapter's outputs
    task = load_task(manifest.task, tasks).bound(manifest.settings, {**tuned, **settings.tuned})
    if not isinstance(task, PromptedTask):
        raise PipelineError(
            f"the task '{task.name}' has no prompt, so it cannot be an adapter stage", where=settings.name
        )
    try:
        task.check_tuned(settings.tuned)
    except UsageError as error:
        raise PipelineError(error.what, where=f"{settings.name}, tuned", fix=error.fix) from None
    base = resolve(manifest.base.name, manifest.base.revision)
    model = base if settings.bare else base_of(stored, base)
    # An engine knows the options of each adapter's prompts; those of a base without an adapter are its own.
    own = settings.bare and manifest.prompt_options != PromptOptions()
    options = manifest.prompt_options if own else None
    computing = engines.get(model, manifest.recipe["precision"], settings=settings.engine, prompt_options=options)
    check_renders(stored, task, computing.renderer)
    engine: Engine = computing
    max_new_tokens = settings.max_new_tokens or manifest.recipe["max_new_tokens"]
    pinned = None if settings.bare else engine.pin(settings.name)
    if cache is not None:
        scope = {
            "engine": engine.made_by,
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
