"""Index of a corpus in a search engine: loaded in batches, and tied by a record to everything that it depends on.

The engine keeps the record, which is what the manifest of an index folder is, beside the documents. A load goes into a
generation of its own, named by a hash of the record, and is published when it is complete; searches go on in the index
that was there before.
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
from searchlora.errors import DataError, PipelineError, StaleIndex
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.index_manifest import CorpusIdentity, EncodedVectors, FrozenModel, VectorKeys, differences
from searchlora.retrieval.search_engine import Entry, Layout, OpenIndex, SearchEngine, facets, storable

#: Version of the record. Changes with what engines store of a document.
SCHEMA: Literal[3] = 3

#: Documents that are encoded and stored at once. Vectors depend on it in their last bits.
BATCH = 512


class TextKeys(FrozenModel):
    """What the full-text index depends on, besides the documents."""

    fields: tuple[str, ...]
    analyzer: str | None


class EngineVectors(EncodedVectors):
    """Vectors in an engine, searched in a `graph` or exactly."""

    graph: bool


class EngineRecord(FrozenModel):
    """What an index in an engine was loaded from; documents from Python have no corpus. Filters name `facets`."""

    schema_version: Literal[3] = SCHEMA
    created: str
    corpus: CorpusIdentity | None
    documents: int
    facets: tuple[str, ...]
    text: TextKeys | None
    vectors: EngineVectors | None

    @property
    def layout(self) -> Layout:
        """What can be searched."""
        text = (self.text.fields, self.text.analyzer) if self.text else ((), None)
        return Layout(*text, *((self.vectors.dimensions, self.vectors.graph) if self.vectors else ()))

    def generation(self, index: str) -> str:
        """The name of the generation: the index, and a hash of what its content depends on."""
        content = self.model_dump(
            mode="json", exclude={"created": True, "corpus": True, "vectors": {"adapter", "model"}}
        )
        content["corpus"] = self.corpus.content if self.corpus is not None else None
        return f"{index}_{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class LoadedIndex:
    """An index in an engine; `loaded` is False if it was there, complete."""

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
        encoding = TextEncoding(
            batch_size=self.vectors.batch_size,
            normalise=keys.normalise,
            document_prefix=keys.document_prefix,
            precision=keys.precision,
        )
        vectors = encoding.documents(self.encoder, texts) if texts else ()
        of_document = dict(zip(texts, vectors, strict=True))
        return [Entry(document, of_document.get(document.id)) for document in documents]


@dataclass
class IndexNeed:
    """What stages need of one index in an engine."""

    engine: SearchEngine
    index: str
    text: TextKeys | None = None
    vectorizer: Vectorizer | None = None

    def add_text(self, keys: TextKeys) -> None:
        """Add fields of a full-text search, which must have the analyser of the others."""
        if self.text is not None and self.text.analyzer != keys.analyzer:
            raise self._conflict(f"the analysers {self.text.analyzer} and {keys.analyzer}")
        fields = dict.fromkeys((*(self.text.fields if self.text else ()), *keys.fields))
        self.text = TextKeys(fields=tuple(fields), analyzer=keys.analyzer)

    def add_vectors(self, vectorizer: Vectorizer) -> None:
        """Add vectors, which must be those that are needed already."""
        own = self.vectorizer or vectorizer
        if (own.vectors.keys, own.vectors.graph) != (vectorizer.vectors.keys, vectorizer.vectors.graph):
            raise self._conflict("different vectors")
        self.vectorizer = own

    def _conflict(self, what: str) -> PipelineError:
        where = f"{self.engine.where}, {self.index}"
        return PipelineError(f"stages need {what} of one index", where=where, fix="Give them another 'index' each.")


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

    An index that was published before is searched until then, and deleted. One that holds the same stays. `documents`
    is called twice.
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
    generation, published = record.generation(index), engine.published(index)
    if corpus is not None and published is not None and published.generation == generation:
        _drop_others(engine, index, generation)
        return LoadedIndex(index, generation, record, loaded=False)
    # What killed loads left goes, and what has the same name: documents from Python have no hash.
    _drop_others(engine, index, published.generation if published and published.generation != generation else "")
    engine.create(index, generation, record.layout, record.model_dump_json())
    done, unread = 0, iter(documents())
    while batch := list(islice(unread, BATCH)):
        entries = [Entry(document, None) for document in batch] if vectorizer is None else vectorizer.encode(batch)
        engine.put(generation, record.layout, entries)
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
    graph: bool = False,
    filters: Iterable[str] = (),
    pipeline: str = "--pipeline PIPELINE",
) -> OpenIndex:
    """Open an index for searching, if it has what a search needs; `filters` are the fields that filters name.

    A `StaleIndex` names the command that loads it for the pipeline. A corpus that is no longer there is not compared.
    """
    file = "CORPUS"

    def stale(what: str) -> StaleIndex:
        fix = f"Load it: searchlora index load {file} {pipeline}"
        return StaleIndex(what, where=f"{engine.where}, {index}", fix=fix)

    published = engine.published(index)
    if published is None:
        raise stale("there is no such index, or it was not loaded completely")
    try:
        record = EngineRecord.model_validate_json(published.record)
    except ValidationError:
        raise stale("the record of the index cannot be read") from None
    corpus = record.corpus
    if corpus is not None:
        file = shlex.join([corpus.path, *corpus.map_options])
    if corpus is not None and corpus.changed():
        raise stale(f"the corpus {corpus.path} was changed after the index was loaded")
    if text is not None:
        if record.text is None:
            raise stale("the index has no full-text search")
        if unknown := sorted(set(text.fields) - set(record.text.fields)):
            known = ", ".join(record.text.fields)
            raise stale(f"the index does not search '{unknown[0]}'; its fields are {known}")
        if record.text.analyzer != text.analyzer:
            raise stale(f"its analyser is {record.text.analyzer}, and {text.analyzer} in the pipeline")
    if vectors is not None:
        if record.vectors is None:
            raise stale("the index has no vectors")
        different = differences(vectors, record.vectors.keys)
        if record.vectors.graph != graph:
            different.append("its search is by a graph, and exact here" if not graph else "its search is exact")
        if different:
            whose = record.vectors.adapter or record.vectors.model
            raise stale(
                f"the index does not fit this pipeline; its vectors are those of {whose}; {'; '.join(different)}"
            )
    if unknown := sorted(set(filters) - set(record.facets)):
        known = ", ".join(record.facets) or "none"
        raise stale(f"the filter names '{unknown[0]}', which no document of the index has; fields: {known}")
    return OpenIndex(engine, published.generation, record.layout)


def _scan(documents: Iterable[Document], fields: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The number of documents, which must have text and the fields, and the names of their further fields."""
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
        fix = f"Fields: {', '.join(['title', 'text', *names])}."
        raise DataError(f"no document has the field '{min(missing)}'", fix=fix)
    return len(ids), tuple(sorted(names))
