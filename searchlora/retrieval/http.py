"""Retrieval by another search engine over HTTP: OpenSearch, Elasticsearch, Solr, or any that answers with JSON.

Sources of the forms of requests and responses: the search APIs of OpenSearch and Elasticsearch (`POST INDEX/_search`)
and the JSON request API of Solr (`POST COLLECTION/select`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from searchlora.errors import EngineError, RequestRefused, UsageError
from searchlora.eval.trec import ranked
from searchlora.http_client import OF_ONE_REQUEST, HttpClient, Refused
from searchlora.records import Document, Hit
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.retriever import check_k
from searchlora.server_url import server_url


@dataclass(frozen=True)
class ResponsePaths:
    """Where hits and their fields stand in a response: keys joined by dots."""

    hits: str
    id: str
    score: str | None = None
    title: str | None = None  # path of the title in a hit, or None
    text: tuple[str, ...] = ()


_LUCENE_BODY = {"query": {"multi_match": {"query": "{query}"}}, "size": "{k}"}
_LUCENE_PATHS = ResponsePaths("hits.hits", "_id", "_score", "_source.title", ("_source.text",))
_SOLR_BODY = {
    "query": "{query}",
    "limit": "{k}",
    "fields": ["*", "score"],
    "params": {"defType": "edismax", "uf": "-* -_query_"},
}
_ENGINES: Mapping[str | None, tuple[Mapping[str, Any], ResponsePaths]] = {
    "opensearch": (_LUCENE_BODY, _LUCENE_PATHS),
    "elasticsearch": (_LUCENE_BODY, _LUCENE_PATHS),
    "solr": (_SOLR_BODY, ResponsePaths("response.docs", "id", "score", "title", ("text",))),
    None: ({}, ResponsePaths("hits", "id")),
}


def engine_defaults(engine: str | None) -> tuple[Mapping[str, Any], ResponsePaths]:
    """The request body and the response paths of a search engine."""
    return _ENGINES[engine]


class HttpRetriever:
    """A retriever that asks a search engine. Thread-safe."""

    def __init__(
        self,
        url: str,
        body: Mapping[str, Any],
        paths: ResponsePaths,
        *,
        api_key: str | None = None,
        auth: Literal["bearer", "apikey", "basic"] = "bearer",
        concurrency: int = 8,
        timeout_s: float = 30.0,
        retries: int = 4,
    ) -> None:
        parts = server_url(url)
        if parts.query or parts.fragment:
            raise EngineError("the address has a query string", where=url, fix="Put its parameters into the body.")
        self._path = parts.path
        self._body = body
        self._paths = paths
        self._concurrency = concurrency
        self._client = HttpClient(
            f"{parts.scheme}://{parts.netloc}",
            api_key=api_key,
            auth=auth,
            connections=concurrency,
            timeout_s=timeout_s,
            retries=retries,
        )

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first, each with the document that the engine returned."""
        check_k(k)
        if filters and any(filters):
            raise UsageError("a query by HTTP takes no filters", fix="Put a filter into its body, or match its hits.")
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda query: self._search(query, k), queries))

    def _search(self, query: str, k: int) -> list[Hit]:
        try:
            response = self._client.post(self._path, _filled(self._body, query, k))
        except Refused as error:
            if error.status in OF_ONE_REQUEST:
                raise RequestRefused(error.what, where=error.where, fix=error.fix) from None
            raise
        rows = _at(response, self._paths.hits)
        if not isinstance(rows, list):
            raise self._unexpected(f"has no list at '{self._paths.hits}'")
        hits: dict[str, Hit] = {}
        for rank, row in enumerate(rows[:k]):
            hit = self._hit(row, float(len(rows) - rank))
            hits.setdefault(hit.document, hit)
        return [hits[document] for document in ranked({hit.document: hit.score for hit in hits.values()})]

    def _hit(self, row: Any, default: float) -> Hit:
        identifier = _at(row, self._paths.id)
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise self._unexpected(f"has a hit without an id at '{self._paths.id}'")
        score = _at(row, self._paths.score) if self._paths.score is not None else None
        if score is None:
            score = default
        if isinstance(score, bool) or not isinstance(score, int | float) or not isfinite(score):
            raise self._unexpected(f"has a score that is not a number at '{self._paths.score}'")
        title = _text(_at(row, self._paths.title)) if self._paths.title is not None else ""
        texts = (_text(_at(row, path)) for path in self._paths.text)
        document = Document(str(identifier), " ".join(text for text in texts if text), title)
        return Hit(document.id, float(score), document if document.searchable else None)

    def _unexpected(self, what: str) -> EngineError:
        return EngineError(
            f"the answer {what}", where=f"{self._client.url}{self._path}", fix="Set the paths of the http stage."
        )


def _filled(template: Any, query: str, k: int) -> Any:
    """A request body with the query and the number of hits in place of `{query}` and `{k}`.

    Examples:
        >>> _filled({"q": "title:{query}", "rows": "{k}"}, 'a "b" {k}', 10)
        {'q': 'title:a "b" {k}', 'rows': 10}
    """
    if isinstance(template, str):
        return k if template == "{k}" else template.replace("{query}", query)
    if isinstance(template, Mapping):
        return {key: _filled(value, query, k) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [_filled(value, query, k) for value in template]
    return template


def _at(value: Any, path: str) -> Any:
    """The value at a path of keys joined by dots; None where there is none."""
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _text(value: Any) -> str:
    """A field as text: Solr and multi-valued fields give lists."""
    if isinstance(value, list):
        return " ".join(filter(None, map(_text, value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""
