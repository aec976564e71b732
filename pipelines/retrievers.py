"""Retrievers of a pipeline's stages: built in memory from documents, or loaded from an index folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.stage_settings import (
    Bm25Settings,
    DenseSettings,
    EncodingSettings,
    RetrieveSettings,
    SimilaritySettings,
)
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.field_filter import FieldColumns

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.retrieval.analysis import Analyzer
    from searchlora.retrieval.bm25 import BM25Index
    from searchlora.retrieval.dense import DenseIndex
    from searchlora.retrieval.encoder import Encoder
    from searchlora.retrieval.index_folder import Bm25Keys, VectorKeys
    from searchlora.retrieval.nearest import Structure


class Encoders:
    """Encoders by model, adapter and dimensions, loaded on first use."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._loaded: dict[tuple[str, str | None, int | None], Encoder] = {}

    def get(self, settings: EncodingSettings | SimilaritySettings) -> Encoder:
        """The encoder of a stage.

        Raises:
            BaseModelError, NotInStore, LoadCheckFailed: if the model or the adapter is missing or fails its load check.
        """
        from searchlora.retrieval.encoder import Encoder

        adapter = self.adapter(settings)
        key = (settings.model, adapter.reference if adapter else None, settings.dimensions)
        if key not in self._loaded:
            self._loaded[key] = Encoder.load(settings.model, adapter=adapter, dimensions=settings.dimensions)
        return self._loaded[key]

    def adapter(self, settings: EncodingSettings | SimilaritySettings) -> StoredAdapter | None:
        """The adapter of a stage; None without one."""
        return self.store.get(settings.adapter) if settings.adapter is not None else None

    def document_adapter(self, settings: EncodingSettings) -> StoredAdapter | None:
        """The adapter with which documents are encoded; None without one, and for one that is for queries only."""
        adapter = self.adapter(settings)
        return None if adapter is None or adapter.manifest.query_side_only else adapter


class Retrievers(Protocol):
    """Where the stages of a pipeline get their retrievers and documents from."""

    @property
    def documents(self) -> Mapping[str, Document]:
        """The corpus by id."""

    def bm25(self, settings: Bm25Settings, progress: Progress = silent) -> BM25Index:
        """The BM25 index of a stage."""

    def dense(self, settings: DenseSettings, encoders: Encoders, progress: Progress = silent) -> DenseIndex:
        """The dense index of a stage."""

    def columns(self, fields: Iterable[str]) -> FieldColumns:
        """The fields of all documents, in the order of the indexes, for filters."""


class BuiltRetrievers:
    """Retrievers that are built in memory.

    Raises:
        PipelineError: if a stage retrieves and there are no documents.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self._rows = documents
        self.documents: Mapping[str, Document] = {document.id: document for document in documents}
        self._columns = _Columns()

    def bm25(self, settings: Bm25Settings, progress: Progress = silent) -> BM25Index:
        """Index the documents for a stage."""
        from searchlora.retrieval.bm25 import BM25Index

        self._check()
        return BM25Index(
            self._rows,
            k1=settings.k1,
            b=settings.b,
            analyzer=analyzer(settings),
            fields=settings.fields,
            progress=progress,
        )

    def dense(self, settings: DenseSettings, encoders: Encoders, progress: Progress = silent) -> DenseIndex:
        """Encode the documents for a stage."""
        from searchlora.retrieval.dense import DenseIndex

        self._check()
        return DenseIndex(
            self._rows,
            encoders.get(settings),
            batch_size=settings.batch_size,
            query_batch_size=settings.query_batch_size,
            normalise=settings.normalise,
            query_prefix=settings.query_prefix,
            document_prefix=settings.document_prefix,
            precision=settings.precision,
            structure=structure(settings),
            effort=effort(settings),
            progress=progress,
        )

    def columns(self, fields: Iterable[str]) -> FieldColumns:
        """See `Retrievers.columns`."""
        return self._columns.get(fields, lambda: self._rows)

    def _check(self) -> None:
        if not self._rows:
            raise PipelineError("there are no documents to search in", fix="Give a corpus file that is not empty.")


class SavedRetrievers:
    """Retrievers of an index folder, memory-mapped.

    Args:
        folder: The index folder.
        config: The pipeline, for error messages that name the command that builds its index.

    Raises:
        DataError, StaleIndex: as `IndexFolder`, and if the index has nothing for the settings of a stage.
    """

    def __init__(self, folder: Path, config: PipelineConfig | None = None) -> None:
        from searchlora.retrieval.index_folder import IndexFolder

        self._index = IndexFolder(folder, *([pipeline_options(config)] if config is not None else []))
        self.documents: Mapping[str, Document] = self._index.documents
        self._columns = _Columns()

    def bm25(self, settings: Bm25Settings, progress: Progress = silent) -> BM25Index:
        """Load the BM25 index of a stage."""
        del progress
        return self._index.bm25(bm25_keys(settings))

    def dense(self, settings: DenseSettings, encoders: Encoders, progress: Progress = silent) -> DenseIndex:
        """Load the vectors of a stage, and its encoder for queries."""
        from searchlora.retrieval.dense import DenseIndex

        del progress
        return DenseIndex.load(
            self._index.vectors(vector_keys(settings, encoders), structure(settings), effort(settings)),
            encoders.get(settings),
            query_batch_size=settings.query_batch_size,
            normalise=settings.normalise,
            query_prefix=settings.query_prefix,
        )

    def columns(self, fields: Iterable[str]) -> FieldColumns:
        """See `Retrievers.columns`."""
        return self._columns.get(fields, self._index.documents.in_order)


class _Columns:
    """The columns of a corpus by their fields, read once for all stages with the same."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, ...], FieldColumns] = {}

    def get(self, fields: Iterable[str], documents: Callable[[], Iterable[Document]]) -> FieldColumns:
        key = tuple(sorted(fields))
        if key not in self._read:
            self._read[key] = FieldColumns(documents(), key)
        return self._read[key]


# Settings of stages as those of indexes


def analyzer(settings: Bm25Settings) -> Analyzer:
    """The analyser of a stage."""
    from searchlora.retrieval.analysis import Analyzer

    return Analyzer(stopwords=settings.stopwords, stemmer=settings.stemmer, shortest=settings.shortest)


def bm25_keys(settings: Bm25Settings) -> Bm25Keys:
    """What a BM25 index of the stage depends on."""
    from searchlora.retrieval.index_folder import Bm25Keys

    return Bm25Keys(**settings.model_dump(exclude=set(RetrieveSettings.model_fields)))


def vector_keys(settings: EncodingSettings, encoders: Encoders) -> VectorKeys:
    """What the document vectors of the stage depend on. Loads the encoder."""
    from searchlora.models.fingerprint import fingerprint
    from searchlora.retrieval.encoder import encoder_base
    from searchlora.retrieval.index_folder import VectorKeys

    adapter = encoders.document_adapter(settings)
    weights = None
    if adapter is not None:
        files = adapter.manifest.files
        weights = {name: files[name] for name in sorted(files) if name.endswith((".safetensors", "_config.json"))}
    return VectorKeys(
        encoder=fingerprint(encoder_base(settings.model, encoders.adapter(settings)).path),
        adapter=weights,
        max_tokens=encoders.get(settings).max_tokens,
        dimensions=settings.dimensions,
        normalise=settings.normalise,
        document_prefix=settings.document_prefix,
        precision=settings.precision,
    )


def structure(settings: DenseSettings) -> Structure | None:
    """The structure of an approximate search; None for exact search."""
    from searchlora.retrieval.nearest import Hnsw, Ivf

    if settings.index == "hnsw":
        return Hnsw(m=settings.hnsw_m, ef_construction=settings.hnsw_ef_construction)
    return Ivf(lists=settings.ivf_lists) if settings.index == "ivf" else None


def effort(settings: DenseSettings) -> int:
    """How much an approximate search looks at per query."""
    return settings.hnsw_ef_search if settings.index == "hnsw" else settings.ivf_probes


def pipeline_options(config: PipelineConfig) -> str:
    """The options of `searchlora index` that name a pipeline."""
    words = ["--pipeline", config.source, *(part for each in config.overrides for part in ("--set", each))]
    return shlex.join(words)
