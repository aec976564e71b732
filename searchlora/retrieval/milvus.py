"""Milvus as a search engine: BM25 full text, and vectors; embedded by the path of a file, or a cluster by its URI.

Each searched field has a sparse vector that Milvus' BM25 function makes of it; the score of a document is the sum of
the fields' BM25 scores, weighted by their boosts. Milvus returns the best of one field at a time and breaks ties as it
likes, so hits are requested until ties at rank k are settled. BM25's statistics are those of a segment of the
collection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import grpc
import numpy as np
from pymilvus import DataType, Function, FunctionType, MilvusClient
from pymilvus.exceptions import MilvusException

from searchlora.errors import DataError, EngineError
from searchlora.eval.trec import ranked
from searchlora.records import Hit
from searchlora.retrieval.nearest import inner_products
from searchlora.retrieval.search_engine import (
    GRAPH_CANDIDATES,
    GRAPH_M,
    Entry,
    Filter,
    Layout,
    Published,
    SearchEngine,
    Vector,
    engine_failure,
    fetched_hit,
    one_line,
    stored_fields,
)
from searchlora.server_url import server_url

#: Maximum length of a text and of an id in bytes.
_MOST_BYTES, _ID_BYTES = 65_535, 512

#: Milvus' defaults; given, because the embedded version has others.
_K1, _B = 1.2, 0.75

#: Documents per request; one may have twice 64 kB, and a request 64 MB.
_PUT = 128

#: Least time limit of a write, and of loading a collection into memory, in seconds: they may take long.
_WRITE_S = 600.0

_REGISTRY = "searchlora_indexes"
_OUTPUT = ["id", "title", "text", "metadata"]

#: Returns the n best hits by one field, best first.
BestOf: TypeAlias = Callable[[str, int], Sequence[Hit]]

#: Returns the scores by one field of those of the documents that it matches.
ScoresOf: TypeAlias = Callable[[str, Sequence[str]], Mapping[str, float]]

#: Hits beyond k that are requested first, so that ties at rank k rarely need a second request.
_MARGIN = 32


class Milvus(SearchEngine):
    """A Milvus cluster, or a file of the embedded Milvus Lite, which one process at a time can open. Thread-safe.

    The address is `https://host:19530`, or the path of a file that ends with `.db`; the token is `user:password`, or an
    API key. The time limit is that of a search; loading documents may take ten minutes per request.
    """

    default_analyzer = "standard"
    most_hits = 16_384

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 30.0) -> None:
        if "://" in url:
            server_url(url, schemes=("http", "https", "tcp"), example="http://localhost:19530")
        elif not (url.endswith(".db") and url.isprintable()):
            raise EngineError(f"{url!r} is neither an address nor a file of Milvus Lite", fix="A file ends with .db.")
        self.where = url
        self._is_embedded = "://" not in url
        self._address = str(Path(url).resolve()) if self._is_embedded else url
        self._token = token or ""
        self._timeout_s = timeout_s
        self._write_s = max(timeout_s, _WRITE_S)
        self._in_memory: set[str] = set()
        self._loading = Lock()

    @cached_property
    def _client(self) -> Any:
        """The connection; a file that is not there is created."""
        if self._is_embedded:
            import milvus_lite  # noqa: F401 (a missing one names the extra)
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # each error is raised, too
        # Milvus Lite's server closes connections that it finds pinged too often, as a client's idle ones are.
        options = {"grpc_options": {"grpc.keepalive_time_ms": 2**31 - 1}} if self._is_embedded else {}
        with _errors(self.where):
            return MilvusClient(self._address, token=self._token, timeout=self._timeout_s, **options)

    def published(self, index: str) -> Published | None:
        if self._is_embedded and not Path(self._address).exists():
            return None
        rows = [row for row in self._registered(index) if row["published"]]
        latest = max(rows, key=lambda row: int(row["published"]), default=None)
        return Published(latest["generation"], latest["record"]) if latest else None

    def generations(self, index: str) -> list[str]:
        return sorted(row["generation"] for row in self._registered(index))

    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        if not self._call("has_collection", _REGISTRY):
            # A collection needs a vector; the other columns are dynamic.
            columns = {"primary_field_name": "generation", "vector_field_name": "nothing", "dimension": 2}
            self._create(_REGISTRY, id_type="string", max_length=_ID_BYTES, metric_type="IP", **columns)
        schema, indexes = self._schema(layout)
        self._create(generation, schema=schema, index_params=indexes)
        self._register({"generation": generation, "index": index, "record": record, "published": 0})

    def put(self, generation: str, layout: Layout, entries: Sequence[Entry]) -> None:
        rows = [_row(layout, entry) for entry in entries]
        for start in range(0, len(rows), _PUT):
            self._call("upsert", generation, rows[start : start + _PUT], writes=True)

    def publish(self, index: str, generation: str, layout: Layout) -> None:
        del layout
        self._call("flush", generation, writes=True)
        (row,) = [row for row in self._registered(index) if row["generation"] == generation]
        self._register({**row, "published": time.time_ns()})

    def drop(self, generation: str) -> None:
        self._call("drop_collection", generation, writes=True)
        self._in_memory.discard(generation)
        self._call("delete", _REGISTRY, filter=_any_of("generation", [generation]), writes=True)

    def search_text(
        self, generation: str, layout: Layout, query: str, boosts: Mapping[str, float], where: Filter, k: int
    ) -> list[Hit]:
        condition = _condition(where)

        def best(field: str, count: int) -> list[Hit]:
            return self._by_text(generation, layout, field, query, condition, count)

        def scores(field: str, ids: Sequence[str]) -> dict[str, float]:
            hits = self._by_text(generation, layout, field, query, _any_of("id", ids), len(ids))
            return {hit.document: hit.score for hit in hits}

        return best_by_sum(boosts, best, scores, k, self.most_hits)

    def search_vectors(
        self, generation: str, layout: Layout, vector: Vector, where: Filter, k: int, effort: int
    ) -> list[Hit]:
        # The products are computed again: those of the engine depend, in the last bits, on the place of a vector. This
        # is the error of the engine's products, for vectors of about length 1.
        error = len(vector) * float(np.finfo(np.float32).eps) * max(1.0, float(np.linalg.norm(vector)))
        condition = " and ".join(filter(None, ["has_vector == true", _condition(where)]))

        def best(_: str, count: int) -> list[Hit]:
            parameters = {"ef": max(effort, count)} if layout.graph else {}
            options = {"metric_type": "IP", "params": parameters}
            rows = self._search(generation, vector.tolist(), "vector", options, condition, count)
            if not rows:
                return []
            stored = np.array([row["entity"]["vector"] for row in rows], dtype=np.float32)
            products = inner_products(stored, vector).astype(np.float32)
            return [fetched_hit(row["id"], score, row["entity"]) for row, score in zip(rows, products, strict=True)]

        return best_by_sum({"vector": 1.0}, best, lambda *_: {}, k, self.most_hits, error)

    def close(self) -> None:
        if client := self.__dict__.pop("_client", None):
            client.close()
            self._in_memory.clear()

    def _call(self, method: str, collection: str, *values: Any, writes: bool = False, **options: Any) -> Any:
        """What the client answers within the time limit of a search, or of a write."""
        timeout_s = self._write_s if writes else self._timeout_s
        with _errors(self.where):
            return getattr(self._client, method)(collection, *values, timeout=timeout_s, **options)

    def _load(self, collection: str) -> None:
        """Load a collection into the memory of the server: in a file that another process wrote none is loaded."""
        with self._loading:  # Milvus Lite refuses searches of a collection while it is loaded again
            if collection not in self._in_memory:
                self._call("load_collection", collection)
                self._in_memory.add(collection)

    def _by_text(
        self, generation: str, layout: Layout, field: str, query: str, condition: str, count: int
    ) -> list[Hit]:
        name = f"words_{layout.fields.index(field)}"
        rows = self._search(generation, query, name, {"metric_type": "BM25"}, condition, count)
        # Milvus Lite returns the negated score.
        hits = [fetched_hit(row["id"], abs(row["distance"]), row["entity"]) for row in rows]
        return [hit for hit in hits if hit.score > 0]

    def _search(
        self, generation: str, query: Any, field: str, options: Mapping[str, Any], condition: str, count: int
    ) -> list[Any]:
        self._load(generation)
        (rows,) = self._call(
            "search",
            generation,
            data=[query],
            anns_field=field,
            search_params=dict(options),
            filter=condition,
            limit=count,
            output_fields=[*_OUTPUT, field] if field == "vector" else _OUTPUT,
        )
        return list(rows)

    def _schema(self, layout: Layout) -> tuple[Any, Any]:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        indexes = MilvusClient.prepare_index_params()
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        for name in ("title", "text"):
            schema.add_field(name, DataType.VARCHAR, max_length=_MOST_BYTES)
        for name in ("metadata", "facets"):
            schema.add_field(name, DataType.JSON)
        for number in range(len(layout.fields)):
            field, words = f"field_{number}", f"words_{number}"
            analyzed = {"enable_analyzer": True, "analyzer_params": {"type": layout.analyzer or self.default_analyzer}}
            schema.add_field(field, DataType.VARCHAR, max_length=_MOST_BYTES, **analyzed)
            schema.add_field(words, DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(Function(f"bm25_{number}", FunctionType.BM25, [field], [words]))
            options = self._index_parameters({"bm25_k1": _K1, "bm25_b": _B})
            indexes.add_index(words, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=options)
        if layout.dimensions is not None:
            schema.add_field("has_vector", DataType.BOOL)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=layout.dimensions)
            options = {"M": GRAPH_M, "efConstruction": GRAPH_CANDIDATES} if layout.graph else {}
            kind, options = "HNSW" if layout.graph else "FLAT", self._index_parameters(options)
            indexes.add_index("vector", index_type=kind, metric_type="IP", params=options)
        return schema, indexes

    def _index_parameters(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Parameters of an index; Milvus Lite reads them as JSON under `params`, as older clients sent them."""
        return {"params": dict(parameters)} if self._is_embedded else dict(parameters)

    def _registered(self, index: str) -> list[dict[str, Any]]:
        if not self._call("has_collection", _REGISTRY):
            return []
        self._load(_REGISTRY)
        fields = ["generation", "index", "record", "published"]
        rows = self._call("query", _REGISTRY, filter=_any_of("index", [index]), output_fields=fields)
        return [dict(row) for row in rows]

    def _register(self, row: Mapping[str, Any]) -> None:
        self._call("upsert", _REGISTRY, [{**row, "nothing": [0.0, 0.0]}], writes=True)
        self._call("flush", _REGISTRY, writes=True)

    def _create(self, collection: str, **options: Any) -> None:
        self._call("create_collection", collection, consistency_level="Strong", **options, writes=True)


def best_by_sum(
    weights: Mapping[str, float], best: BestOf, scores: ScoresOf, k: int, most: int, error: float = 0.0
) -> list[Hit]:
    """The k best documents by the sum over fields of weight × score, from the best hits by each field.

    More hits of each field are requested until no document that was not seen can be among the k best, ties included:
    the threshold algorithm of Fagin, Lotem and Naor ("Optimal aggregation algorithms for middleware", PODS 2001). The
    engine returns at most `most` hits, and orders them with a rounding error of at most `error`.
    """
    count = min(k + _MARGIN, most)
    while True:
        lists = {field: best(field, count) for field in weights}
        partial = {field: {hit.document: hit.score for hit in hits} for field, hits in lists.items()}
        open_fields = [field for field, hits in lists.items() if len(hits) >= count]
        seen = {hit.document: hit for hits in lists.values() for hit in hits}
        for field in open_fields if len(weights) > 1 else ():
            unknown = sorted(seen.keys() - partial[field].keys())
            if unknown:
                partial[field] |= scores(field, unknown)
        sums = {
            document: float(sum(weights[field] * partial[field].get(document, 0.0) for field in weights))
            for document in seen
        }
        order = ranked(sums)[:k]
        # A document that was not seen scores at most the last of each list that goes on.
        bound = sum(weights[field] * lists[field][-1].score for field in open_fields) + error
        settled = len(order) == k and np.float32(sums[order[-1]]) > np.float32(bound)
        if not open_fields or settled or count >= most:
            return [Hit(document, sums[document], seen[document].fetched) for document in order]
        count = min(count * 4, most)


def _row(layout: Layout, entry: Entry) -> dict[str, Any]:
    row = stored_fields(layout, entry.document)
    if any(isinstance(value, str) and len(value.encode()) > _MOST_BYTES for value in row.values()):
        what = f"Milvus cannot hold the document: a field has more than {_MOST_BYTES:,} bytes"
        raise DataError(what, where=f"document {entry.document.id}", fix="Split it into passages.")
    if layout.dimensions is not None:
        row["has_vector"] = entry.vector is not None
        row["vector"] = [0.0] * layout.dimensions if entry.vector is None else entry.vector.tolist()
    return row


def _condition(where: Filter) -> str:
    """A filter as an expression. Every value is written by `_string`."""
    return " and ".join(
        "(" + " or ".join(f"facets[{_string(field)}] == {_string(value)}" for value in values) + ")"
        for field, values in where.items()
    )


def _any_of(field: str, values: Sequence[str]) -> str:
    return f"{field} in [{', '.join(map(_string, values))}]"


def _string(text: str) -> str:
    """A text as a string of the language; parameters of expressions are unknown to Milvus Lite.

    Milvus and Milvus Lite both read these escapes, and other characters as they are. JSON's `\\u001b` is an error in
    Milvus Lite.
    """
    return f'"{text.translate(_ESCAPES)}"'


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Errors of pymilvus as `EngineError`."""
    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        said = one_line(getattr(error, "message", "") or error)
        gone = "not found" in said or "not exist" in said
        raise engine_failure(where, f"Milvus refuses or cannot be reached ({said})", gone=gone) from None
