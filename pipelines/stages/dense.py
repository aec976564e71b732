"""The stage `dense`: search of the corpus by the vectors of an encoder."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from searchlora.adapters.store import Store
from searchlora.errors import StoreError
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.encoder import EncodingSettings
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import BuildContext, Needs

if TYPE_CHECKING:
    from searchlora.pipelines.index_build import IndexNeeds
    from searchlora.retrieval.dense import DenseIndex
    from searchlora.retrieval.nearest import Hnsw


class DenseSettings(EncodingSettings):
    """`- dense: {model: all-minilm-l6-v2, k: 100}`: dense search; the model is a catalogue name, a folder or a hub id.

    `adapter: shop-embedder@production` adds an adapter to the model; `server: {url: "http://localhost:8000"}` has the
    model computed by a server. The search is exact; `index: hnsw` searches large collections approximately.
    """

    kind: ClassVar[str] = "dense"

    index: Literal["flat", "hnsw"] = Field(
        "flat", description="exact search (flat), or approximate search in a graph (hnsw)"
    )
    hnsw_m: int = Field(32, ge=2, description="hnsw: neighbours per vector")
    hnsw_ef_construction: int = Field(200, ge=1, description="hnsw: candidates per vector while the graph is built")
    hnsw_ef_search: int = Field(64, ge=1, description="hnsw: candidates per query, at least its hits")

    @model_validator(mode="after")
    def _of_the_index(self) -> DenseSettings:
        for key in sorted(self.model_fields_set):
            if key.startswith("hnsw_") and self.index != "hnsw":
                raise ValueError(f"'{key}' is for 'index: hnsw'")
        return self

    def needs(self) -> Needs:
        return replace(super().needs(), documents=True)

    def build(self, context: BuildContext) -> RetrieveStage:
        """Encode the documents, or open their vectors."""
        index = context.corpus.indexes.get(("dense", self.index_key), lambda: self._index(context))
        if self.filter_by:
            index = index.filterable(context.corpus.columns(self.filter_by))
        label = self.label(public_name(index.encoder.name))
        return RetrieveStage(index, self.k, label, self.filter_by, self.kind)

    def _index(self, context: BuildContext) -> DenseIndex:
        """A new index, or the vectors of another one: adapters of queries search the vectors of their base."""
        corpus, encoder, graph, effort = context.corpus, self.encoder(context), self.graph(), self.hnsw_ef_search
        if (folder := corpus.folder) is not None:
            key = ("mapped vectors", self._vectors_key(context), graph, effort)
            index = corpus.indexes.get(
                key, lambda: folder.dense(self.vector_keys(context), encoder, self.encoding, graph, effort)
            )
        else:
            index = corpus.indexes.get(("vectors", self._vectors_key(context)), lambda: self._vectors(context))
            if graph is not None:
                key = ("graph", self._vectors_key(context), graph, effort)
                exact, progress = index, context.steps("Indexing")
                index = corpus.indexes.get(key, lambda: exact.approximate(graph, effort, progress))
        return index.searched_by(encoder, self.encoding)

    def _vectors(self, context: BuildContext) -> DenseIndex:
        from searchlora.retrieval.dense import DenseIndex

        rows, progress = context.corpus.rows(), context.steps("Encoding")
        return DenseIndex(rows, self.encoder(context), self.encoding, progress=progress)

    def _vectors_key(self, context: BuildContext) -> Hashable:
        """What the vectors of the documents depend on, among the stages of a process: encoded once for all of them."""
        from searchlora.retrieval.encoder import encoder_base

        adapter = self.document_adapter(context.store)
        if self.server is not None:
            model: Hashable = (self.server.url, self.model)
        else:
            model = encoder_base(self.model, self.stored_adapter(context.store)).path
        of_texts = (self.dimensions, self.normalise, self.document_prefix, self.precision, self.batch_size)
        return model, adapter.reference if adapter is not None else None, of_texts

    def graph(self) -> Hnsw | None:
        """The graph of an approximate search; None for exact search."""
        from searchlora.retrieval.nearest import Hnsw

        return Hnsw(m=self.hnsw_m, ef_construction=self.hnsw_ef_construction) if self.index == "hnsw" else None

    def add_to_index(self, needs: IndexNeeds, context: BuildContext) -> None:
        pinned = self.pinned(context.store.pin)
        needs.add_vectors(pinned.vector_keys(context), pinned, self.graph())

    def can_swap(self, reference: str, store: Store) -> bool:
        """Whether a version encodes queries only, so that it searches the vectors of its base."""
        try:
            return store.get(reference).manifest.query_side_only
        except StoreError:  # a damaged or removed version cannot be selected
            return False
