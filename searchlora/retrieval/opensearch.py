"""OpenSearch as a search engine: BM25 with boosted fields, and vectors.

A query matches documents with any of its words; the score is the sum of the fields' BM25 scores, weighted by their
boosts (`multi_match` of type `most_fields`), with the statistics of all shards. Vectors are compared by inner product:
exactly by a script, or in a graph (HNSW). An index is published as an alias, and its mapping holds the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import opensearchpy
from opensearchpy import exceptions, helpers

from searchlora.errors import DataError, DeadlineExceeded, EngineError, RequestRefused
from searchlora.http_client import OF_ONE_REQUEST, authorization
from searchlora.records import Hit
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

#: Maximum length of a value that filters compare, in characters.
_MOST_FACET = 2_000

#: Bytes of a bulk request; services refuse more than 10 MB.
_BULK_BYTES = 5_000_000

_SOURCE = ["title", "text", "metadata"]
_META = "searchlora"


class OpenSearch(SearchEngine):
    """A cluster of OpenSearch. Thread-safe.

    The address has no password, as in `https://host:9200`; `password` is `user:password`. There are at most
    `connections` requests at a time.
    """

    default_analyzer = "standard"
    most_hits = 10_000  # `index.max_result_window`

    def __init__(self, url: str, *, password: str | None = None, connections: int = 8, timeout_s: float = 30.0) -> None:
        server_url(url, example="https://localhost:9200")
        self.where = url
        self._client = opensearchpy.OpenSearch(
            hosts=[url],
            headers={"Authorization": authorization(password, "basic")} if password else {},
            pool_maxsize=connections,
            timeout=timeout_s,
            max_retries=4,
            retry_on_status=(429, 502, 503),
            verify_certs=True,
        )

    def published(self, index: str) -> Published | None:
        mappings = self._mappings(index)
        if not mappings:
            return None
        generation, record = next(iter(mappings.items()))
        if record is None or len(mappings) > 1:
            what = f"'{index}' is an index or alias that searchlora did not load"
            raise EngineError(what, where=self.where, fix="Choose another 'index', or search it by a stage 'http'.")
        return Published(generation, record)

    def generations(self, index: str) -> list[str]:
        own = re.compile(rf"{re.escape(index)}_[0-9a-f]{{12}}")  # and not those of an index with a longer name
        mappings = self._mappings(f"{index}_*")
        return sorted(name for name, record in mappings.items() if record is not None and own.fullmatch(name))

    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        del index
        analyzed = {"type": "text", "analyzer": layout.analyzer or self.default_analyzer}
        stored = {"type": "text", "index": False}
        properties: dict[str, Any] = {"id": {"type": "keyword"}, "title": stored, "text": stored}
        properties["metadata"] = {"type": "object", "enabled": False}
        properties["facets"] = {"type": "keyword", "ignore_above": _MOST_FACET}
        properties |= {f"field_{number}": analyzed for number in range(len(layout.fields))}
        if layout.dimensions is not None:
            properties["vector"] = {"type": "knn_vector", "dimension": layout.dimensions}
        if layout.graph:
            parameters = {"m": GRAPH_M, "ef_construction": GRAPH_CANDIDATES}
            method = {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct", "parameters": parameters}
            properties["vector"]["method"] = method
        mappings = {"_meta": {_META: record}, "dynamic": False, "properties": properties}
        settings = {"index": {"knn": True}} if layout.graph else {}  # exact search needs no graph
        with _errors(self.where):
            self._client.indices.create(index=generation, body={"settings": settings, "mappings": mappings})

    def put(self, generation: str, layout: Layout, entries: Sequence[Entry]) -> None:
        actions = (
            {"_op_type": "index", "_index": generation, "_id": entry.document.id, "_source": _row(layout, entry)}
            for entry in entries
        )
        with _errors(self.where):
            options: dict[str, Any] = {"max_chunk_bytes": _BULK_BYTES, "max_retries": 4, "raise_on_error": False}
            for succeeded, item in helpers.streaming_bulk(self._client, actions, **options):
                if not succeeded:
                    result = item["index"]
                    what = f"the engine refuses the document ({result['error']['reason']})"
                    raise DataError(what, where=f"document {result['_id']}")

    def publish(self, index: str, generation: str, layout: Layout) -> None:
        del layout
        published = self.published(index)
        actions: list[dict[str, Any]] = [{"add": {"index": generation, "alias": index}}]
        if published is not None and published.generation != generation:
            actions.insert(0, {"remove": {"index": published.generation, "alias": index}})
        with _errors(self.where):
            self._client.indices.refresh(index=generation)
            self._client.indices.update_aliases(body={"actions": actions})

    def drop(self, generation: str) -> None:
        with _errors(self.where):
            self._client.indices.delete(index=generation, params={"ignore_unavailable": "true"})

    def search_text(
        self, generation: str, layout: Layout, query: str, boosts: Mapping[str, float], where: Filter, k: int
    ) -> list[Hit]:
        fields = [f"field_{layout.fields.index(field)}^{boost!r}" for field, boost in boosts.items()]
        match = {"multi_match": {"query": query, "fields": fields, "type": "most_fields"}}
        body = {"query": {"bool": {"must": [match], "filter": _filters(where)}}}
        # Scores are those of one large shard, and ties are settled by the engine.
        return self._search(generation, body, k, {"search_type": "dfs_query_then_fetch"})

    def search_vectors(
        self, generation: str, layout: Layout, vector: Vector, where: Filter, k: int, effort: int
    ) -> list[Hit]:
        filters, values = _filters(where), vector.tolist()
        if not layout.graph:
            with_vector = {"bool": {"filter": [{"exists": {"field": "vector"}}, *filters]}}
            parameters = {"field": "vector", "query_value": values, "space_type": "innerproduct"}
            script = {"lang": "knn", "source": "knn_score", "params": parameters}
            scored = {"script_score": {"query": with_vector, "script": script}}
            return _inner_products(self._search(generation, {"query": scored}, k))

        count = max(k, effort)
        knn: dict[str, Any] = {"vector": values, "k": count, "method_parameters": {"ef_search": count}}
        if filters:
            knn["filter"] = {"bool": {"filter": filters}}
        return _inner_products(self._search(generation, {"query": {"knn": {"vector": knn}}}, k))

    def close(self) -> None:
        self._client.close()

    def _search(
        self, generation: str, body: Mapping[str, Any], k: int, parameters: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        order = [{"_score": "desc"}, {"id": "desc"}]
        request = {**body, "size": k, "sort": order, "_source": _SOURCE, "track_total_hits": False}
        # Without this, the hits of a shard that failed are missing without an error.
        whole = {"allow_partial_search_results": "false", **(parameters or {})}
        with _errors(self.where):
            response = self._client.search(index=generation, body=request, params=whole)
        if response.get("timed_out"):
            raise DeadlineExceeded("the search was not done in time", where=self.where, fix="Set a longer timeout_s.")
        return [fetched_hit(row["_id"], row["_score"], row["_source"]) for row in response["hits"]["hits"]]

    def _mappings(self, name: str) -> dict[str, str | None]:
        """Index -> its record; None for an index that is not of searchlora."""
        with _errors(self.where):
            options = {"ignore_unavailable": "true", "allow_no_indices": "true"}
            response = self._client.indices.get_mapping(index=name, params=options)
        return {index: content["mappings"].get("_meta", {}).get(_META) for index, content in response.items()}


def _row(layout: Layout, entry: Entry) -> dict[str, Any]:
    row = stored_fields(layout, entry.document)
    row["facets"] = [f"{name}\t{value}" for name, value in row["facets"].items()]
    if entry.vector is not None:
        row["vector"] = entry.vector.tolist()
    return row


def _filters(where: Filter) -> list[dict[str, Any]]:
    return [{"terms": {"facets": [f"{field}\t{value}" for value in values]}} for field, values in where.items()]


def _inner_products(hits: Sequence[Hit]) -> list[Hit]:
    """Hits with the inner product d as score, which engines write as d + 1, or as 1 / (1 - d) where d is negative."""
    return [Hit(hit.document, hit.score - 1 if hit.score >= 1 else 1 - 1 / hit.score, hit.fetched) for hit in hits]


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Errors of opensearch-py as `EngineError`."""
    try:
        yield
    except exceptions.ConnectionTimeout:
        what = "the server did not answer in time"
        raise DeadlineExceeded(what, where=where, fix="Set a longer timeout_s.") from None
    except exceptions.ConnectionError as error:
        raise engine_failure(where, f"the server cannot be reached ({one_line(error.error)})") from None
    except exceptions.TransportError as error:
        status = error.status_code
        kind = RequestRefused if status in OF_ONE_REQUEST else EngineError
        what = f"the server refuses ({one_line(error)})"
        raise engine_failure(where, what, key=status in (401, 403), gone=status == 404, kind=kind) from None
    except exceptions.OpenSearchException as error:
        raise engine_failure(where, f"the server's answer cannot be read ({error})") from None
