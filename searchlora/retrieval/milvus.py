"""Milvus as a search engine: BM25 full text, and vectors; embedded by the path of a file, or a cluster by its URI.

Each searched field has a sparse vector that Milvus' BM25 function makes of it; the score of a document is the sum of
the fields' BM25 scores, weighted by their boosts. Milvus returns the best of one field at a time and breaks ties as it
likes, so hits are requested until ties at rank k are settled, see `searchlora.retrieval.threshold`. BM25's statistics
are those of a segment of the collection.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

import grpc
import numpy as np
from pymilvus import DataType, Function, FunctionType, MilvusClient
from pymilvus.exceptions import MilvusException

from searchlora.errors import DataError, EngineError
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
    storable,
    stored_fields,
)
from searchlora.retrieval.threshold import best_by_sum
from searchlora.server_url import server_url

#: Maximum length of a text in bytes.
_MOST_BYTES = 65_535

#: Maximum length of an id in bytes.
_ID_BYTES = 512

#: Milvus' defaults; given, because the embedded version has others.
_K1, _B = 1.2, 0.75

#: Documents per request; one may have twice 64 kB, and a request 64 MB.
_PUT = 128

#: Ids in one filter.
_IDS = 1_000

#: Least time limit of a write, and of loading a collection into memory, in seconds: they may take long.
_WRITE_S = 600.0

_REGISTRY = "searchlora_indexes"
_OUTPUT = ["id", "title", "text", "metadata"]


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
            client = MilvusClient(self._address, token=self._token, timeout=self._timeout_s, **options)
        self._finalizer = finalize(self, client.close)
        return client

    def published(self, index: str) -> Published | None:
        if self._is_embedded and not Path(self._address).exists():
            return None
        rows = [row for row in self._registered(index) if row["published"] > 0]
        if not rows:
            return None
        latest = max(rows, key=lambda row: int(row["published"]))
        return Published(latest["generation"], latest["record"])

    def generations(self, index: str) -> list[str]:
        return sorted(row["generation"] for row in self._registered(index))

    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        if not self._call("has_collection", _REGISTRY):
            self._create(_REGISTRY, *_registry_schema())
        self._create(generation, *self._schema(layout))
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
            of_documents: dict[str, float] = {}
            for start in range(0, len(ids), _IDS):
                part = ids[start : start + _IDS]
                hits = self._by_text(generation, layout, field, query, _any_of("id", part), len(part))
                of_documents |= {hit.document: hit.score for hit in hits}
            return of_documents

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
        if self.__dict__.pop("_client", None) is not None:
            self._finalizer()
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
            analyzer = {"type": layout.analyzer or self.default_analyzer}
            schema.add_field(
                field, DataType.VARCHAR, max_length=_MOST_BYTES, enable_analyzer=True, analyzer_params=analyzer
            )
            schema.add_field(words, DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(
                Function(
                    name=f"bm25_{number}",
                    function_type=FunctionType.BM25,
                    input_field_names=[field],
                    output_field_names=[words],
                )
            )
            indexes.add_index(
                words,
                index_type="SPARSE_INVERTED_INDEX",
                metric_type="BM25",
                params=self._index_parameters({"bm25_k1": _K1, "bm25_b": _B}),
            )
        if layout.dimensions is not None:
            schema.add_field("has_vector", DataType.BOOL)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=layout.dimensions)
            if layout.graph:
                options = self._index_parameters({"M": GRAPH_M, "efConstruction": GRAPH_CANDIDATES})
                indexes.add_index("vector", index_type="HNSW", metric_type="IP", params=options)
            else:
                indexes.add_index("vector", index_type="FLAT", metric_type="IP")
        return schema, indexes

    def _index_parameters(self, parameters: Mapping[str, float]) -> dict[str, Any]:
        """Parameters of an index; Milvus Lite reads them as JSON under `params`, as older clients sent them."""
        return {"params": dict(parameters)} if self._is_embedded else dict(parameters)

    # The registry: a collection with a row for each generation.

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

    def _create(self, collection: str, schema: Any, indexes: Any) -> None:
        options = {"schema": schema, "index_params": indexes, "consistency_level": "Strong"}
        self._call("create_collection", collection, **options, writes=True)


def _registry_schema() -> tuple[Any, Any]:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("generation", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
    schema.add_field("index", DataType.VARCHAR, max_length=_ID_BYTES)
    schema.add_field("record", DataType.VARCHAR, max_length=_MOST_BYTES)
    schema.add_field("published", DataType.INT64)
    schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # a collection needs a vector
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("nothing", index_type="FLAT", metric_type="IP")
    return schema, indexes


def _row(layout: Layout, entry: Entry) -> dict[str, Any]:
    document, row = entry.document, stored_fields(entry.document)
    for number, field in enumerate(layout.fields):
        row[f"field_{number}"] = storable(document.field(field))
    lengths = {name: len(value.encode()) for name, value in row.items() if isinstance(value, str)}
    lengths |= {name: len(json.dumps(row[name], ensure_ascii=False).encode()) for name in ("metadata", "facets")}
    longest = max(lengths, key=lambda name: lengths[name])
    if lengths["id"] > _ID_BYTES or lengths[longest] > _MOST_BYTES:
        most = _ID_BYTES if lengths["id"] > _ID_BYTES else _MOST_BYTES
        raise DataError(
            f"Milvus cannot hold the document: its {longest} has {lengths[longest]:,} bytes, more than {most:,}",
            where=f"document {document.id}",
            fix="Split it into passages.",
        )
    if layout.dimensions is not None:
        row["has_vector"] = entry.vector is not None
        row["vector"] = [0.0] * layout.dimensions if entry.vector is None else entry.vector.tolist()
    return row


# The expression language of Milvus. Every value of a filter is written by `_string`.


def _condition(where: Filter) -> str:
    """A filter as an expression."""
    return " and ".join(
        "(" + " or ".join(f"facets[{_string(field)}] == {_string(value)}" for value in values) + ")"
        for field, values in where.items()
    )


def _any_of(field: str, values: Sequence[str]) -> str:
    """An expression for the rows whose field has one of some values."""
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
