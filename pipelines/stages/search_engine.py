"""The stages `text_search` and `vector_search`: search in an index that `searchlora index load` filled."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveFloat, StringConstraints, model_validator

from searchlora.http_client import api_key
from searchlora.models.resolve import public_name
from searchlora.pipelines.corpus import Shared
from searchlora.pipelines.stages.encoder import EncodingSettings
from searchlora.pipelines.stages.retrieve import RemoteSettings, RetrieveStage
from searchlora.pipelines.stages.stage import BuildContext, Needs
from searchlora.retrieval.engine_index import EngineVectors, IndexNeed, TextKeys, Vectorizer, open_index
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.search_engine import OpenIndex, SearchEngine, TextSearch, VectorSearch, folded_filter

if TYPE_CHECKING:
    from searchlora.pipelines.engine_load import EngineNeeds

#: Fields that are searched where a stage names none.
DEFAULT_FIELDS = ("title", "text")

#: A value of a filter.
Value: TypeAlias = Annotated[str, StringConstraints(pattern=r"\S")]

_CONNECTION = ("engine", "url", "api_key_env", "concurrency", "timeout_s")


class EngineSearchSettings(RemoteSettings):
    """Settings of a stage that searches an index in a search engine, which `searchlora index load` filled.

    The texts come with the hits, so that no corpus is needed.
    """

    unlabelled: ClassVar[frozenset[str]] = frozenset({*_CONNECTION, "index", "filter"})

    engine: Literal["postgres", "milvus", "opensearch"] = Field(description="kind of search engine")
    url: str = Field(
        min_length=1,
        description="address without a password: `postgresql://user@host/database`, `https://host:9200`,"
        " `http://host:19530` for Milvus, or the path of a file `.db` of Milvus Lite, relative to the working folder",
    )
    index: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="name of the index in the engine")
    filter: dict[str, Value | Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="field -> value, or a list of values of which one must match, ignoring case; fields are other"
        " columns of the corpus",
    )

    @model_validator(mode="after")
    def _of_the_engine(self) -> EngineSearchSettings:
        for name, condition in self.filter_by.items():
            if set(condition.paths) != {"equals"}:
                raise ValueError(f"a search engine compares '{name}' by 'equals' only; use a stage 'filter'")
        return self

    def needs(self) -> Needs:
        return Needs(texts_with_hits=True)

    def add_to_engines(self, needs: EngineNeeds, context: BuildContext) -> bool:
        engine = self.connection(context.shared)
        # By address: stages with other time limits or connections have the same index.
        need = needs.setdefault((self.url, self.index), IndexNeed(engine, self.index))
        self.pinned(context.store.pin)._add_to(need, context)
        return True

    @abstractmethod
    def _add_to(self, need: IndexNeed, context: BuildContext) -> None: ...

    def generations(self, shared: Shared) -> dict[str, str | None]:
        published = self.connection(shared).published(self.index)
        return {f"{self.url} {self.index}": published.generation if published is not None else None}

    def labelled_filters(self) -> list[str]:
        """The filters in the label."""
        filters = [f"filter={name}:{'|'.join(values)}" for name, values in folded_filter(self.filter).items()]
        return [*filters, *super().labelled_filters()]

    def connection(self, shared: Shared) -> SearchEngine:
        """The search engine, connected on first use."""
        key = ("search engine", self.model_dump_json(include=set(_CONNECTION)))
        return shared.get(key, self._connect)

    def _connect(self) -> SearchEngine:
        secret = api_key(self.api_key_env, self.url)
        if self.engine == "postgres":
            from searchlora.retrieval.postgres import Postgres

            return Postgres(self.url, password=secret, timeout_s=self.timeout_s)
        if self.engine == "milvus":
            from searchlora.retrieval.milvus import Milvus

            return Milvus(self.url, token=secret, timeout_s=self.timeout_s)
        from searchlora.retrieval.opensearch import OpenSearch

        return OpenSearch(self.url, password=secret, connections=self.concurrency, timeout_s=self.timeout_s)

    def build(self, context: BuildContext) -> RetrieveStage:
        retriever = self._retriever(context)
        return EngineStage(retriever, self.k, self.label(*self._inner(context)), self.filter_by, self.kind)

    def _inner(self, context: BuildContext) -> list[str]:
        """What the label names first."""
        del context
        return [f"{self.engine}:{self.index}"]

    @abstractmethod
    def _retriever(self, context: BuildContext) -> Retriever: ...

    def _open(self, context: BuildContext, **wanted: Any) -> OpenIndex:
        engine, filters = self.connection(context.shared), {*self.filter, *self.filter_by}
        return open_index(engine, self.index, filters=filters, pipeline=context.pipeline, **wanted)


class TextSearchSettings(EngineSearchSettings):
    """`- text_search: {engine: postgres, url: "postgresql:///shop", index: products}`: full-text search.

    The engine analyses the texts and scores them: OpenSearch and Milvus by BM25, PostgreSQL by cover
    density. The score of a document is a sum over fields, weighted by their boosts.
    """

    kind: ClassVar[str] = "text_search"

    fields: dict[str, PositiveFloat] | None = Field(
        None,
        min_length=1,
        description="field -> boost, as in `{title: 3, text: 1, brand: 0.5}`; fields are title, text and other"
        " columns of the corpus, in PostgreSQL at most four; default: title and text",
    )
    analyzer: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*$",
        description="the engine's name of the analyser, such as `english`; default: an analyser without a language,"
        " `simple` in PostgreSQL and `standard` in the others",
    )

    def _keys(self, engine: SearchEngine) -> TextKeys:
        return TextKeys(fields=tuple(self.fields or DEFAULT_FIELDS), analyzer=self.analyzer or engine.default_analyzer)

    def _add_to(self, need: IndexNeed, context: BuildContext) -> None:
        del context
        need.add_text(self._keys(need.engine))

    def _retriever(self, context: BuildContext) -> Retriever:
        index = self._open(context, text=self._keys(self.connection(context.shared)))
        boosts = self.fields or dict.fromkeys(DEFAULT_FIELDS, 1.0)
        return TextSearch(index, boosts=boosts, filter=self.filter, concurrency=self.concurrency)


class VectorSearchSettings(EncodingSettings, EngineSearchSettings):
    """`- vector_search: {engine: milvus, url: shop.db, index: products, model: all-minilm-l6-v2}`: dense search.

    Queries are encoded in this process, and their vectors are sent. `adapter: shop-embedder@production` adds an adapter
    to the encoder. An index with vectors of another encoder or adapter is refused.
    """

    kind: ClassVar[str] = "vector_search"
    unlabelled: ClassVar[frozenset[str]] = EncodingSettings.unlabelled | EngineSearchSettings.unlabelled

    structure: Literal["flat", "hnsw"] = Field(
        "flat", description="exact search (flat), or approximate search in a graph (hnsw)"
    )
    hnsw_ef_search: int = Field(64, ge=1, le=1000, description="hnsw: candidates per query, at least its hits")

    def needs(self) -> Needs:
        return replace(super().needs(), texts_with_hits=True)

    def _inner(self, context: BuildContext) -> list[str]:
        return [*super()._inner(context), public_name(self.encoder(context).name)]

    def _retriever(self, context: BuildContext) -> Retriever:
        index = self._open(context, vectors=self.vector_keys(context), graph=self.structure == "hnsw")
        search: dict[str, Any] = {"filter": self.filter, "effort": self.hnsw_ef_search, "concurrency": self.concurrency}
        return VectorSearch(index, self.encoder(context), self.encoding, **search)

    def _add_to(self, need: IndexNeed, context: BuildContext) -> None:
        encoder = self.encoder(context)
        layout = {"dimensions": encoder.vector_dimensions, "graph": self.structure == "hnsw"}
        need.add_vectors(Vectorizer(encoder, EngineVectors(**self.encoded(context), **layout)))


class EngineStage(RetrieveStage):
    """A stage that searches in an engine, which sends the texts of its hits."""

    def deepest(self) -> int:
        return 1_000
