"""Indexes of a pipeline in search engines: loading a corpus for its stages, and opening what was loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, read_documents
from searchlora.errors import PipelineError
from searchlora.http_client import api_key
from searchlora.models.resolve import public_name
from searchlora.pipelines.config import read_pipelines
from searchlora.pipelines.retrievers import Encoders, vector_keys
from searchlora.pipelines.stage_lists import engine_searches, pinned
from searchlora.pipelines.stage_settings import (
    EngineSearchSettings,
    Settings,
    TextSearchSettings,
    VectorSearchSettings,
)
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.engine_index import (
    EngineVectors,
    LoadedIndex,
    TextKeys,
    Vectorizer,
    load_index,
    open_index,
)
from searchlora.retrieval.index_folder import identity_of
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.search_engine import Graph, SearchEngine, TextSearch, VectorSearch

#: Fields that are searched where a stage names none.
DEFAULT_FIELDS = ("title", "text")


class SearchEngines:
    """Connections to search engines, which the stages of a pipeline share.

    Args:
        pipeline: Options of `searchlora index load` that name the pipeline, for error messages.
    """

    def __init__(self, pipeline: str = "--pipeline PIPELINE") -> None:
        self.pipeline = pipeline
        self._open: dict[str, SearchEngine] = {}

    def get(self, settings: EngineSearchSettings) -> SearchEngine:
        """The engine of a stage.

        Raises:
            PipelineError: if the environment variable with its key is not set.
            EngineError: for an address that cannot be used.
            MissingExtra: without the engine's library.
        """
        key = settings.model_dump_json(include={"engine", "url", "api_key_env", "auth", "concurrency", "timeout_s"})
        if key not in self._open:
            self._open[key] = _connect(settings)
        return self._open[key]

    def retriever(self, settings: EngineSearchSettings, encoders: Encoders) -> Retriever:
        """The retriever of a stage.

        Raises:
            StaleIndex: if the index was not loaded, or does not fit the stage or the models.
            As `get`.
        """
        engine = self.get(settings)
        if isinstance(settings, VectorSearchSettings):
            index = open_index(
                engine,
                settings.index,
                vectors=vector_keys(settings, encoders),
                graph=_graph(settings),
                filters={*settings.filter, *settings.filter_by},
                pipeline=self.pipeline,
            )
            return VectorSearch(
                index,
                encoders.get(settings),
                filter=settings.filter,
                effort=settings.hnsw_ef_search,
                query_batch_size=settings.query_batch_size,
                normalise=settings.normalise,
                query_prefix=settings.query_prefix,
                concurrency=settings.concurrency,
            )
        assert isinstance(settings, TextSearchSettings)
        index = open_index(
            engine,
            settings.index,
            text=_text_keys(settings, engine),
            filters={*settings.filter, *settings.filter_by},
            pipeline=self.pipeline,
        )
        boosts = settings.fields or dict.fromkeys(DEFAULT_FIELDS, 1.0)
        return TextSearch(index, boosts=boosts, filter=settings.filter, concurrency=settings.concurrency)

    def close(self) -> None:
        """Close all connections."""
        for engine in self._open.values():
            engine.close()
        self._open.clear()


def generations(stages: Iterable[Settings]) -> dict[str, str | None]:
    """Index -> the generation that is published now, for the indexes in search engines that stages search.

    Hits depend on it: another load of an index is another collection under the same name.

    Raises:
        EngineError: if an engine cannot be reached.
        As `SearchEngines.get`.
    """
    engines = SearchEngines()
    found: dict[str, str | None] = {}
    try:
        for stage in engine_searches(stages):
            published = engines.get(stage).published(stage.index)
            found[f"{stage.url} {stage.index}"] = published.generation if published is not None else None
    finally:
        engines.close()
    return found


def load_corpus(
    corpus: Corpus,
    *,
    pipelines: Sequence[str | Path],
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    steps: Steps = no_progress,
) -> list[LoadedIndex]:
    """Load a corpus into every index in a search engine that stages of pipelines search.

    A killed load is continued by the same call. An index that holds the corpus as the pipelines need it is left as it
    is; another one is replaced when the new one is complete. All pipelines that search an index are given at once.

    Args:
        corpus: Rows with `id`, `text` and optionally `title`, or an index folder.
        pipelines: Names or YAML files, as `Pipeline.load` takes them.
        overrides: Parameters, `name=value`, each of those pipelines that have it.
        store: The adapter store, for stages with an adapter.

    Raises:
        PipelineError: for an invalid pipeline, one that searches in no engine, or stages that need different things of
            one index.
        DataError: for a row that is not a document, or one that the engine cannot hold.
        EngineError: if the engine cannot be reached, or refuses.
        BaseModelError, NotInStore, LoadCheckFailed: if an encoder or an adapter is missing or fails its load check.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "products.csv").write_text("id,text\\nd1,red couch\\nd2,green tent\\n")
        >>> stage = f"text_search: {{engine: milvus, url: {folder}/shop.db, index: products}}"
        >>> _ = (folder / "shop.yaml").write_text(f"name: shop\\nstages:\\n  - {stage}\\n")
        >>> load_corpus(folder / "products.csv", pipelines=[folder / "shop.yaml"])[0].record.documents
        2
        >>> from searchlora import Pipeline
        >>> Pipeline.load(folder / "shop.yaml").search("tent")["hits"][0]["document"]
        'd2'
    """
    store = store if isinstance(store, Store) else Store(store)
    encoders, engines = Encoders(store), SearchEngines()
    try:
        wanted = _wanted(pipelines, overrides, encoders, engines)
        identity = identity_of(corpus)
        return [
            load_index(
                each.engine,
                each.index,
                lambda: read_documents(corpus),
                corpus=identity,
                text=each.text,
                vectorizer=each.vectorizer(encoders),
                progress=steps(f"Loading {each.index}"),
            )
            for each in wanted.values()
        ]
    finally:
        engines.close()


@dataclass
class _Wanted:
    """What stages need of one index."""

    engine: SearchEngine
    index: str
    fields: dict[str, None] = field(default_factory=dict)
    analyzer: str | None = None
    vectors: VectorSearchSettings | None = None

    @property
    def text(self) -> TextKeys | None:
        return TextKeys(fields=tuple(self.fields), analyzer=self.analyzer) if self.fields else None

    def add(self, stage: EngineSearchSettings, encoders: Encoders) -> None:
        """Add what a stage needs. Raises `PipelineError` if it does not go with what another one needs."""
        if isinstance(stage, TextSearchSettings):
            analyzer = _text_keys(stage, self.engine).analyzer
            if self.fields and analyzer != self.analyzer:
                raise self._conflict(f"the analysers {self.analyzer} and {analyzer}", "")
            self.analyzer = analyzer
            self.fields.update(dict.fromkeys(stage.fields or DEFAULT_FIELDS))
        elif isinstance(stage, VectorSearchSettings):
            if self.vectors is not None and _needed(self.vectors, encoders) != _needed(stage, encoders):
                raise self._conflict("different vectors", "the same model, adapter and structure, or ")
            self.vectors = self.vectors or stage

    def vectorizer(self, encoders: Encoders) -> Vectorizer | None:
        """What encodes documents; None without vectors."""
        if self.vectors is None:
            return None
        encoder = encoders.get(self.vectors)
        adapter = encoders.document_adapter(self.vectors)
        vectors = EngineVectors(
            model=public_name(self.vectors.model),
            adapter=adapter.reference if adapter is not None else None,
            keys=vector_keys(self.vectors, encoders),
            batch_size=self.vectors.batch_size,
            dimensions=self.vectors.dimensions or encoder.model.get_embedding_dimension(),
            graph=_graph(self.vectors),
        )
        return Vectorizer(encoder, vectors)

    def _conflict(self, what: str, fix: str) -> PipelineError:
        return PipelineError(
            f"stages need {what} of one index",
            where=f"{self.engine.where}, {self.index}",
            fix=f"Give them {fix}another 'index' each.",
        )


def _wanted(
    pipelines: Sequence[str | Path], overrides: Sequence[str], encoders: Encoders, engines: SearchEngines
) -> Mapping[tuple[str, str], _Wanted]:
    wanted: dict[tuple[str, str], _Wanted] = {}
    for pipeline, config in read_pipelines(pipelines, overrides):
        stages = engine_searches(config.stages)
        if not stages:
            raise PipelineError(
                "no stage searches in an engine that is loaded from here",
                where=str(pipeline),
                fix="Give a pipeline with a stage 'text_search' or 'vector_search'.",
            )
        for stage in engine_searches(pinned(stages, encoders.store.pin)):
            # By address: stages with other time limits or connections have the same index.
            each = wanted.setdefault((stage.url, stage.index), _Wanted(engines.get(stage), stage.index))
            each.add(stage, encoders)
    return wanted


def _needed(settings: VectorSearchSettings, encoders: Encoders) -> tuple[object, ...]:
    return vector_keys(settings, encoders), _graph(settings)


def _text_keys(settings: TextSearchSettings, engine: SearchEngine) -> TextKeys:
    return TextKeys(
        fields=tuple(settings.fields or DEFAULT_FIELDS), analyzer=settings.analyzer or engine.default_analyzer
    )


def _graph(settings: VectorSearchSettings) -> Graph | None:
    return Graph(settings.hnsw_m, settings.hnsw_ef_construction) if settings.structure == "hnsw" else None


def _connect(settings: EngineSearchSettings) -> SearchEngine:
    secret = api_key(settings.api_key_env, settings.url)
    if settings.engine == "postgres":
        from searchlora.retrieval.postgres import Postgres

        return Postgres(settings.url, password=secret, timeout_s=settings.timeout_s)
    if settings.engine == "milvus":
        from searchlora.retrieval.milvus import Milvus

        return Milvus(settings.url, token=secret, timeout_s=settings.timeout_s)
    from searchlora.retrieval.opensearch import OpenSearch

    return OpenSearch(
        settings.url,
        flavour=settings.engine,
        api_key=secret,
        auth=settings.auth,
        connections=settings.concurrency,
        timeout_s=settings.timeout_s,
    )
