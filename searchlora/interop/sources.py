"""What retrievers of other libraries search: a pipeline in this process, or one of a server, with the same result.

A source is a function of a query, the number of documents, and further fields that stages read, such as `history`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from searchlora.errors import PipelineError
from searchlora.http_client import HttpClient
from searchlora.pipelines.results import NOT_FIELDS, result
from searchlora.records import Document

if TYPE_CHECKING:
    from searchlora.pipelines.pipeline import Pipeline

#: Documents with their scores, best first.
Hits: TypeAlias = list[tuple[Document, float]]
Source: TypeAlias = Callable[[str, int, Mapping[str, Any]], Hits]


def pipeline_source(pipeline: Pipeline) -> Source:
    """Search by a pipeline in this process. A search raises `PipelineError` if no stage retrieves.

    Examples:
        >>> from searchlora import Pipeline
        >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "A red couch."), Document("d2", "A green tent.")])
        >>> [(document.text, document.metadata["rank"]) for document, _ in pipeline_source(shop)("tent", 10, {})]
        [('A green tent.', 1)]
    """

    def search(query: str, k: int, fields: Mapping[str, Any]) -> Hits:
        asked = {"id": "1", "query": query, **fields}
        (executed,) = pipeline.execute([asked])
        if "hits" not in executed:
            raise PipelineError("the pipeline finds no documents: no stage retrieves", where=pipeline.name)
        hits = [
            (hit.fetched or pipeline.documents.get(hit.document) or Document(hit.document, ""), float(hit.score))
            for hit in executed["hits"][:k]
        ]
        return _with_metadata(hits, result(asked, executed, pipeline.labels))

    return search


def server_source(url: str, pipeline: str, *, api_key: str | None = None, slots: Mapping[str, str] = {}) -> Source:
    """Search by a pipeline of `searchlora serve`; `slots` are those of `/v1/search`. Raises `EngineError`."""
    client = HttpClient(url, api_key=api_key)

    def search(query: str, k: int, fields: Mapping[str, Any]) -> Hits:
        body = {"pipeline": pipeline, "query": query, "top": k, "fields": dict(fields), "slots": dict(slots)}
        answer = client.post("/v1/search", body)
        found = [(hit["document"], hit["text"] or "", hit["title"] or "", hit["score"]) for hit in answer["hits"]]
        hits = [(Document(name, text, title), float(score)) for name, text, title, score in found]
        stages = [stage["label"] for stage in answer["stages"]]
        return _with_metadata(hits, {**answer["output"], "query": answer["query"], "stages": stages})

    return search


def _with_metadata(hits: Hits, output: Mapping[str, Any]) -> Hits:
    """Add `id`, `title`, `score`, `rank`, and as `search` the query, the stages and what they wrote."""
    search = {name: value for name, value in output.items() if name not in NOT_FIELDS or name in ("query", "stages")}
    found: Hits = []
    for document, score in hits:
        own = {"id": document.id, "title": document.title, "score": score, "rank": len(found) + 1}
        about = {name: _concerning(document.id, value) for name, value in search.items()}
        metadata: Any = {**document.metadata, **own, "search": about}
        found.append((replace(document, metadata=metadata), score))
    return found


def _concerning(document: str, value: Any) -> Any:
    """Of a list of objects with the ids of documents, those of one document; any other value as it is."""
    if isinstance(value, list | tuple) and all(isinstance(each, Mapping) and "id" in each for each in value):
        return [each for each in value if each["id"] == document]
    return value
