"""Index of a corpus in a search engine: loaded in batches, and tied by a record to everything that it depends on.

The engine keeps the record, which is what the manifest of an index folder is, beside the documents. A load goes into a
generation of its own, named by a hash of the record, and is published when it is complete; so a killed load is
continued by the same call, and searches go on in the index that was there before.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from pydantic import ValidationError

from searchlora.data.collection import check_id
from searchlora.errors import DataError, EngineError, PipelineError, StaleIndex
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.index_manifest import CorpusIdentity, EncodedVectors, FrozenModel, VectorKeys, differences
from searchlora.retrieval.search_engine import (
    Entry,
    Graph,
    Layout,
    OpenIndex,
    SearchEngine,
    facets,
    quoted_names,
    storable,
)

#: Version of the record. Changes with what engines store of a document.
SCHEMA: Literal[1] = 1

#: Documents that are encoded and stored at once. Vectors depend on it in their last bits.
BATCH = 512


class TextKeys(FrozenModel):
    """What the full-text index depends on, besides the documents."""

    fields: tuple[str, ...]
    analyzer: str | None


class EngineVectors(EncodedVectors):
    """Vectors in an engine.

    Attributes:
        graph: Of an approximate search; None: exact.
    """

    graph: Graph | None


class EngineRecord(FrozenModel):
    """What an index in an engine was loaded from.

    Attributes:
        corpus: None for documents from Python.
        facets: Fields that filters can name.
    """

    schema_version: Literal[1] = SCHEMA
    created: str
    corpus: CorpusIdentity | None
    documents: int
    facets: tuple[str, ...]
    text: TextKeys | None
    vectors: EngineVectors | None

    @property
    def layout(self) -> Layout:
        """What can be searched."""
        text, vectors = self.text, self.vectors
        return Layout(
            text.fields if text else (),
            text.analyzer if text else None,
            vectors.dimensions if vectors else None,
            vectors.graph if vectors else None,
        )

    def generation(self, index: str) -> str:
        """The name of the generation: the index, and a hash of what its content depends on."""
        content = self.model_dump(
            mode="json", exclude={"created": True, "corpus": True, "vectors": {"adapter", "model"}}
        )
        content["corpus"] = self.corpus.content if self.corpus is not None else None
        return f"{index}_{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class LoadedIndex:
    """An index in an engine.

    Attributes:
        loaded: Whether this call loaded it; False: it was there, complete.
    """

    index: str
    generation: str
    record: EngineRecord
    loaded: bool


@dataclass(frozen=True)
class Vectorizer:
    """How documents are encoded for an engine: the encoder and what its vectors depend on."""

    encoder: TextEncoder
    vectors: EngineVectors

    def encode(self, documents: Sequence[Document]) -> list[Entry]:
        """The documents with their vectors; None for a document without text."""
        keys = self.vectors.keys
        texts = {document.id: text for document in documents if (text := storable(document.searchable)).strip()}
        if not texts:
            return [Entry(document, None) for document in documents]
        encoding = TextEncoding(
            batch_size=self.vectors.batch_size,
            normalise=keys.normalise,
            document_prefix=keys.document_prefix,
            precision=keys.precision,
        )
        of_document = dict(zip(texts, encoding.documents(self.encoder, texts), strict=True))
        return [Entry(document, of_document.get(document.id)) for document in documents]


@dataclass
class IndexNeed:
    """What stages need of one index in an engine."""

    engine: SearchEngine
    index: str
    text: TextKeys | None = None
    vectorizer: Vectorizer | None = None

    def add_text(self, keys: TextKeys) -> None:
        """Add fields of a full-text search. Raises `PipelineError` for another analyser than that of the others."""
        if self.text is not None and self.text.analyzer != keys.analyzer:
            raise self._conflict(f"the analysers {self.text.analyzer} and {keys.analyzer}")
        fields = dict.fromkeys((*(self.text.fields if self.text else ()), *keys.fields))
        self.text = TextKeys(fields=tuple(fields), analyzer=keys.analyzer)

    def add_vectors(self, vectorizer: Vectorizer) -> None:
        """Add vectors. Raises `PipelineError` for others than those that are needed already."""
        own = self.vectorizer or vectorizer
        if (own.vectors.keys, own.vectors.graph) != (vectorizer.vectors.keys, vectorizer.vectors.graph):
            raise self._conflict("different vectors", "the same model, adapter and structure, or ")
        self.vectorizer = own

    def _conflict(self, what: str, fix: str = "") -> PipelineError:
        return PipelineError(
            f"stages need {what} of one index",
            where=f"{self.engine.where}, {self.index}",
            fix=f"Give them {fix}another 'index' each.",
        )


def load_index(
    engine: SearchEngine,
    index: str,
    documents: Callable[[], Iterable[Document]],
    *,
    corpus: CorpusIdentity | None = None,
    text: TextKeys | None = None,
    vectorizer: Vectorizer | None = None,
    progress: Progress = silent,
) -> LoadedIndex:
    """Load documents into an engine, and publish them under the name of an index.

    The same call continues a load that was killed: documents that are stored are not encoded again, except for a last
    batch. An index that was published before is searched until then, and deleted.

    Args:
        documents: Returns the documents; called twice.
        text: What full-text search needs; None: no full-text search.
        vectorizer: Encodes documents for dense search; None: no dense search.

    Raises:
        DataError: for two documents with the same id, an id that is not one word, a collection without text, a field
            that no document has, a document that the engine cannot hold, or a corpus that changes meanwhile.
        UsageError: for a layout that the engine cannot hold.
        EngineError: if the engine cannot be reached, refuses, or does not store a document.
    """
    count, names = _scan(documents(), text.fields if text is not None else ())
    record = EngineRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        corpus=corpus,
        documents=count,
        facets=names,
        text=text,
        vectors=vectorizer.vectors if vectorizer is not None else None,
    )
    engine.check(record.layout)
    generation = record.generation(index)
    published = engine.published(index)
    if corpus is not None and published is not None and published.generation == generation:
        loaded = parse_record(published.record, index, engine.where)
        if loaded.corpus != corpus:  # a file that was moved is compared where it is now
            loaded = loaded.model_copy(update={"corpus": corpus})
            engine.create(index, generation, loaded.layout, loaded.model_dump_json())
        _drop_others(engine, index, generation)  # those of a load that was killed after it was published
        return LoadedIndex(index, generation, loaded, loaded=False)
    if corpus is None:  # without a hash of the documents, no stored document can be reused
        for earlier in engine.generations(index):
            engine.drop(earlier)
    engine.create(index, generation, record.layout, record.model_dump_json())
    done = 0
    unread = iter(documents())
    while batch := list(islice(unread, BATCH)):
        ids = [document.id for document in batch]
        if set(ids) - engine.present(generation, ids):
            entries = [Entry(document, None) for document in batch] if vectorizer is None else vectorizer.encode(batch)
            engine.put(generation, record.layout, entries)
            if lost := set(ids) - engine.present(generation, ids):
                raise EngineError(
                    f"the engine did not store {len(lost):,} of {len(batch):,} documents, or stored other ids",
                    where=f"{engine.where}, document {min(lost)}",
                    fix="Load it again; look into the engine's log.",
                )
        done += len(batch)
        progress(done, count, "documents loaded")
    if done != count or (corpus is not None and corpus.changed()):
        engine.drop(generation)  # its documents are not those of the record
        raise DataError("the corpus was changed while it was read", where=index, fix="Load it again.")
    engine.publish(index, generation, record.layout)
    _drop_others(engine, index, generation)
    return LoadedIndex(index, generation, record, loaded=True)


def _drop_others(engine: SearchEngine, index: str, generation: str) -> None:
    for other in engine.generations(index):
        if other != generation:
            engine.drop(other)


def open_index(
    engine: SearchEngine,
    index: str,
    *,
    text: TextKeys | None = None,
    vectors: VectorKeys | None = None,
    graph: Graph | None = None,
    filters: Iterable[str] = (),
    pipeline: str = "--pipeline PIPELINE",
) -> OpenIndex:
    """Open an index for searching, if it fits what a search needs.

    Args:
        text: What a full-text search needs: fields among those that were loaded, and their analyser.
        vectors: What the vectors of a dense search depend on.
        graph: Of an approximate search over them.
        filters: Fields that a filter names.
        pipeline: Options of the command that loads it for the pipeline in use, for error messages.

    Raises:
        StaleIndex: if there is no such index, it was loaded from other settings, models or weights, or its corpus
            changed since. A corpus that is no longer there is not compared.
        DataError: if its record cannot be read.
    """
    where = f"{engine.where}, {index}"
    published = engine.published(index)
    if published is None:
        raise StaleIndex(
            "there is no such index, or it was not loaded completely",
            where=where,
            fix=f"Load it: {_load_command(None, pipeline)}",
        )
    record = parse_record(published.record, index, engine.where)

    def stale(what: str) -> StaleIndex:
        return StaleIndex(what, where=where, fix=f"Load it again: {_load_command(record.corpus, pipeline)}")

    if record.corpus is not None and record.corpus.changed():
        raise stale(f"the corpus {record.corpus.path} was changed after the index was loaded")
    if text is not None:
        if record.text is None:
            raise stale("the index has no full-text search")
        if unknown := set(text.fields) - set(record.text.fields):
            known = ", ".join(record.text.fields)
            raise stale(f"the index does not search {quoted_names(unknown)}; its fields are {known}")
        if record.text.analyzer != text.analyzer:
            raise stale(f"its analyser is {record.text.analyzer}, and {text.analyzer} in the pipeline")
    if vectors is not None:
        if record.vectors is None:
            raise stale("the index has no vectors")
        different = differences(vectors, record.vectors.keys)
        if record.vectors.graph != graph:
            different.append(f"its search is {_described(record.vectors.graph)}, and {_described(graph)} here")
        if different:
            whose = record.vectors.adapter or record.vectors.model
            raise stale(
                f"the index does not fit this pipeline; its vectors are those of {whose}; {'; '.join(different)}"
            )
    if unknown := set(filters) - set(record.facets):
        known = ", ".join(record.facets) or "none"
        raise stale(f"the filter names {quoted_names(unknown)}, which no document of the index has; fields: {known}")
    return OpenIndex(engine, published.generation, record.layout)


def parse_record(record: str, index: str, where: str) -> EngineRecord:
    """The record of an index. Raises `DataError` if it is damaged, or of another schema version."""
    try:
        return EngineRecord.model_validate_json(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"the record of the index cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']})",
            where=f"{where}, {index}",
            fix="Load the index again with `searchlora index load`.",
        ) from None


def _load_command(corpus: CorpusIdentity | None, pipeline: str) -> str:
    file = "CORPUS" if corpus is None else shlex.join([corpus.path, *corpus.map_options])
    return f"searchlora index load {file} {pipeline}"


def _scan(documents: Iterable[Document], fields: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The number of documents and the names of their further fields. Raises `DataError` as `load_index`."""
    ids: set[str] = set()
    names: dict[str, None] = {}
    missing = set(fields) - {"title", "text"}
    has_text = False
    for document in documents:
        check_id(document.id)
        if document.id in ids:
            raise DataError(f"two documents have the id '{document.id}'")
        ids.add(document.id)
        has_text = has_text or bool(document.searchable.strip())
        names.update(dict.fromkeys(facets(document)))
        missing -= {field for field in missing if document.field(field).strip()}
    if not has_text:
        raise DataError("no document contains text to search")
    if missing:
        raise DataError(
            f"no document has the field {quoted_names(missing)}",
            fix=f"Fields: {', '.join(['title', 'text', *names])}.",
        )
    return len(ids), tuple(sorted(names))


def _described(graph: Graph | None) -> str:
    return "exact" if graph is None else f"by a graph ({', '.join(f'{k}={v}' for k, v in graph._asdict().items())})"
