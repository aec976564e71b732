"""Search engines that hold an index of ours: the protocol of an engine, and the retrievers that search in it.

An engine stores documents with their fields, analyses texts, and searches by text or by vector. Each load of a corpus
is a *generation*: a table, collection or index of its own, published under the name of the index when it is complete.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import EngineError, UsageError
from searchlora.eval.trec import ranked
from searchlora.records import Document, Hit
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import USUAL_ENCODING, TextEncoding
from searchlora.retrieval.field_filter import FieldFilter, case_folded
from searchlora.retrieval.retriever import check_k

Vector: TypeAlias = NDArray[np.float32]

#: Field -> folded values, any of which a document must have there.
Filter: TypeAlias = Mapping[str, Sequence[str]]

#: Of a graph for approximate search (HNSW): neighbours per vector, and candidates per vector while it is built.
GRAPH_M, GRAPH_CANDIDATES = 16, 200


@dataclass(frozen=True)
class Layout:
    """What an index can search: fields, numbered in this order, and vectors, exactly or in a `graph` (HNSW)."""

    fields: tuple[str, ...]
    analyzer: str | None = None
    dimensions: int | None = None
    graph: bool = False


class Entry(NamedTuple):
    """A document to store, with its vector; None for a document without text, or an index without vectors."""

    document: Document
    vector: Vector | None


class Published(NamedTuple):
    """The generation that an index name stands for, and its record."""

    generation: str
    record: str


class SearchEngine(ABC):
    """A search engine. Its methods are safe for threads, and raise `EngineError` naming the address if it fails."""

    where: str  # its address
    default_analyzer: ClassVar[str]  # splits any language into words
    most_hits: ClassVar[float] = math.inf  # of a search

    @abstractmethod
    def published(self, index: str) -> Published | None:
        """The generation that is published under a name; None if there is none."""

    @abstractmethod
    def generations(self, index: str) -> list[str]:
        """All generations of a name, complete or not."""

    @abstractmethod
    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        """Create an empty generation."""

    @abstractmethod
    def put(self, generation: str, layout: Layout, entries: Sequence[Entry]) -> None:
        """Store documents. Raises `DataError` naming a document that the engine cannot hold."""

    @abstractmethod
    def publish(self, index: str, generation: str, layout: Layout) -> None:
        """Let the name stand for a generation, at once for all who search, and index it completely."""

    @abstractmethod
    def drop(self, generation: str) -> None:
        """Delete a generation."""

    @abstractmethod
    def search_text(
        self, generation: str, layout: Layout, query: str, boosts: Mapping[str, float], where: Filter, k: int
    ) -> list[Hit]:
        """The k best documents that contain a word of the query in one of the fields, with their texts.

        The score is a sum over fields, weighted by their boosts. Ties at rank k go by id in descending order.
        """

    @abstractmethod
    def search_vectors(
        self, generation: str, layout: Layout, vector: Vector, where: Filter, k: int, effort: int
    ) -> list[Hit]:
        """The k documents whose vectors have the largest inner products with a vector, with their texts.

        `effort` is the number of candidates of an approximate search.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


def engine_failure(
    where: str, what: str, *, key: bool = False, gone: bool = False, kind: type[EngineError] = EngineError
) -> EngineError:
    """The error for what a client library raises: `key` if the password is wrong, `gone` without the index."""
    fix = "Check the address, and the log of the server."
    if key:
        fix = "Name the environment variable with the password or key as 'api_key_env' of the stage."
    if gone:
        fix = "If the index was loaded again, load the pipeline again, too."
    return kind(what, where=where, fix=fix)


def one_line(message: object) -> str:
    """The message of a client library in one line, shortened."""
    return " ".join(str(message).split())[:300]


def stored_fields(layout: Layout, document: Document) -> dict[str, Any]:
    """What every engine stores: id, title, text, metadata for hits and, folded, for filters, and searched fields."""
    searched = {f"field_{number}": storable(document.field(field)) for number, field in enumerate(layout.fields)}
    return {
        "id": document.id,
        "title": storable(document.title),
        "text": storable(document.text),
        "metadata": {storable(name): storable(value) for name, value in document.metadata.items()},
        "facets": facets(document),
        **searched,
    }


def fetched_hit(document: str, score: float, fields: Mapping[str, Any]) -> Hit:
    """A hit with the document that the engine returns, from its `stored_fields`."""
    fetched = Document(document, str(fields["text"]), str(fields["title"]), dict(fields["metadata"] or {}))
    return Hit(document, float(score), fetched)


@dataclass(frozen=True)
class OpenIndex:
    """A generation of an index that is searched. A later load deletes it."""

    engine: SearchEngine
    generation: str
    layout: Layout


class EngineSearch(ABC):
    """Searches an index in an engine. Thread-safe. A query is sent as what `_prepared` makes of it.

    A filter names for a field a value, or several of which any one matches. The engine searches at most `concurrency`
    queries at a time, over all calls.
    """

    def __init__(self, index: OpenIndex, filter: Mapping[str, str | Sequence[str]] | None, concurrency: int) -> None:
        self._index = index
        self._filter = folded_filter(filter or {})
        self._pool = ThreadPoolExecutor(concurrency)

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first, with their texts; a blank query has no hits."""
        check_k(k)
        if k > self._index.engine.most_hits:
            raise UsageError(f"{k} hits are requested, and the engine returns at most {self._index.engine.most_hits:,}")
        wheres = [_where(self._filter, filter) for filter in filters or [{}] * len(queries)]

        def hits(query: Any, where: Filter | None) -> list[Hit]:
            if query is None or where is None:
                return []
            by_id = {hit.document: hit for hit in self._ask(query, where, k)}
            return [by_id[name] for name in ranked({name: hit.score for name, hit in by_id.items()})[:k]]

        return list(self._pool.map(hits, self._prepared([storable(query) for query in queries]), wheres))

    @abstractmethod
    def _prepared(self, queries: Sequence[str]) -> Iterable[Any]:
        """What is sent for each query; None for a blank one."""

    @abstractmethod
    def _ask(self, query: Any, where: Filter, k: int) -> list[Hit]:
        """The hits of the engine."""


class TextSearch(EngineSearch):
    """Full-text search in an engine, by the fields in `boosts`; None: by all fields of the index, equally."""

    def __init__(
        self,
        index: OpenIndex,
        *,
        boosts: Mapping[str, float] | None = None,
        filter: Mapping[str, str | Sequence[str]] | None = None,
        concurrency: int = 8,
    ) -> None:
        super().__init__(index, filter, concurrency)
        self._boosts = dict(boosts or dict.fromkeys(index.layout.fields, 1.0))

    def _prepared(self, queries: Sequence[str]) -> Iterable[str | None]:
        return (query if query.strip() else None for query in queries)

    def _ask(self, query: str, where: Filter, k: int) -> list[Hit]:
        index = self._index
        return index.engine.search_text(index.generation, index.layout, query, self._boosts, where, k)


class VectorSearch(EngineSearch):
    """Dense search in an engine: queries are encoded here, and their vectors sent."""

    def __init__(
        self,
        index: OpenIndex,
        encoder: TextEncoder,
        encoding: TextEncoding = USUAL_ENCODING,
        *,
        filter: Mapping[str, str | Sequence[str]] | None = None,
        effort: int = 64,
        concurrency: int = 8,
    ) -> None:
        super().__init__(index, filter, concurrency)
        self._encoder, self._encoding, self._effort = encoder, encoding, effort

    def _prepared(self, queries: Sequence[str]) -> Iterable[Vector | None]:
        return self._encoding.queries(self._encoder, queries)

    def _ask(self, query: Vector, where: Filter, k: int) -> list[Hit]:
        index = self._index
        return index.engine.search_vectors(index.generation, index.layout, query, where, k, self._effort)


def _where(constant: Filter, filter: FieldFilter) -> Filter | None:
    """The filter of a stage and that of a query as one; None if no value of a field passes both."""
    where = dict(constant)
    for name, test in filter.items():
        field = storable(name)
        values = {case_folded(storable(value)) for value in test.equals or ()}
        where[field] = tuple(sorted(values.intersection(where[field]) if field in where else values))
        if not where[field]:
            return None
    return where


def folded_filter(filter: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """A filter with values as they are compared: without regard to case and repeated blanks."""
    listed = {field: (values,) if isinstance(values, str) else values for field, values in filter.items()}
    return {
        storable(field): tuple(case_folded(storable(value)) for value in values) for field, values in listed.items()
    }


def facets(document: Document) -> dict[str, str]:
    """Field -> value of the metadata, as filters compare it; empty values are left out."""
    values = {storable(name): case_folded(storable(value)) for name, value in document.metadata.items()}
    return {name: value for name, value in values.items() if value}


def storable(text: str) -> str:
    """A text without what engines refuse to store: NUL characters, and halves of characters that no UTF-8 has.

    Examples:
        >>> storable("tent\\x00s \\ud83d")
        'tent s ?'
    """
    return text.replace("\0", " ").encode("utf-8", "replace").decode()
