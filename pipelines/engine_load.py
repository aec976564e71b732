"""Loading a corpus into the indexes in search engines that stages of pipelines search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, read_documents
from searchlora.errors import PipelineError
from searchlora.inference.engines import Engines
from searchlora.models.resolve import public_name
from searchlora.pipelines.config import read_pipelines
from searchlora.pipelines.corpus import Shared
from searchlora.pipelines.stages.search_engine import EngineSearchSettings, VectorSearchSettings
from searchlora.pipelines.stages.stage import BuildContext, StageSettings, leaves, pinned
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.engine_index import EngineVectors, LoadedIndex, TextKeys, Vectorizer, load_index
from searchlora.retrieval.index_folder import identity_of
from searchlora.retrieval.search_engine import SearchEngine


def engine_searches(stages: Iterable[StageSettings]) -> list[EngineSearchSettings]:
    """The stages that search an index in a search engine, including those under `fuse`."""
    return [leaf for leaf in leaves(stages) if isinstance(leaf, EngineSearchSettings)]


def generations(stages: Iterable[StageSettings]) -> dict[str, str | None]:
    """Index -> the generation that is published now, for the indexes in search engines that stages search.

    Hits depend on it: another load of an index is another collection under the same name.

    Raises:
        EngineError: if an engine cannot be reached.
        As `EngineSearchSettings.connection`.
    """
    shared = Shared()
    current: dict[str, str | None] = {}
    try:
        for stage in engine_searches(stages):
            published = stage.connection(shared).published(stage.index)
            current[f"{stage.url} {stage.index}"] = published.generation if published is not None else None
    finally:
        shared.close()
    return current


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
    store = Store.of(store)
    context = BuildContext(store, Engines(store))
    try:
        needs = _needs(pipelines, overrides, context)
        identity = identity_of(corpus)
        return [
            load_index(
                need.engine,
                need.index,
                lambda: read_documents(corpus),
                corpus=identity,
                text=need.text,
                vectorizer=need.vectorizer(context),
                progress=steps(f"Loading {need.index}"),
            )
            for need in needs.values()
        ]
    finally:
        context.shared.close()


@dataclass
class _EngineNeeds:
    """What stages need of one index in an engine."""

    engine: SearchEngine
    index: str
    fields: dict[str, None] = field(default_factory=dict)
    analyzer: str | None = None
    vectors: VectorSearchSettings | None = None

    @property
    def text(self) -> TextKeys | None:
        return TextKeys(fields=tuple(self.fields), analyzer=self.analyzer) if self.fields else None

    def add(self, stage: EngineSearchSettings, context: BuildContext) -> None:
        """Add what a stage needs. Raises `PipelineError` if it does not go with what another one needs."""
        if (text := stage.text_keys(self.engine)) is not None:
            if self.fields and text.analyzer != self.analyzer:
                raise self._conflict(f"the analysers {self.analyzer} and {text.analyzer}", "")
            self.analyzer = text.analyzer
            self.fields.update(dict.fromkeys(text.fields))
        if (vectors := stage.vectors()) is not None:
            own = vectors.vector_keys(context), vectors.graph
            if self.vectors is not None and own != (self.vectors.vector_keys(context), self.vectors.graph):
                raise self._conflict("different vectors", "the same model, adapter and structure, or ")
            self.vectors = self.vectors or vectors

    def vectorizer(self, context: BuildContext) -> Vectorizer | None:
        """What encodes documents; None without vectors."""
        if self.vectors is None:
            return None
        encoder = self.vectors.encoder(context)
        adapter = self.vectors.document_adapter(context.store)
        vectors = EngineVectors(
            model=public_name(self.vectors.model),
            adapter=adapter.reference if adapter is not None else None,
            keys=self.vectors.vector_keys(context),
            batch_size=self.vectors.batch_size,
            dimensions=self.vectors.dimensions or encoder.model.get_embedding_dimension(),
            graph=self.vectors.graph,
        )
        return Vectorizer(encoder, vectors)

    def _conflict(self, what: str, fix: str) -> PipelineError:
        return PipelineError(
            f"stages need {what} of one index",
            where=f"{self.engine.where}, {self.index}",
            fix=f"Give them {fix}another 'index' each.",
        )


def _needs(
    pipelines: Sequence[str | Path], overrides: Sequence[str], context: BuildContext
) -> Mapping[tuple[str, str], _EngineNeeds]:
    needs: dict[tuple[str, str], _EngineNeeds] = {}
    for pipeline, config in read_pipelines(pipelines, overrides):
        stages = engine_searches(config.stages)
        if not stages:
            raise PipelineError(
                "no stage searches in an engine that is loaded from here",
                where=str(pipeline),
                fix="Give a pipeline with a stage 'text_search' or 'vector_search'.",
            )
        for stage in pinned(stages, context.store.pin):
            # By address: stages with other time limits or connections have the same index.
            engine = stage.connection(context.shared)
            needs.setdefault((stage.url, stage.index), _EngineNeeds(engine, stage.index)).add(stage, context)
    return needs
