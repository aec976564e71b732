"""What retrievers of other libraries search: a pipeline in this process, or one of a server, with the same result.

A source has one method, `search(query, k, fields)`: the first k hits of a query, with further fields that stages read,
such as `history`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from searchlora.errors import PipelineError
from searchlora.http_client import HttpClient
from searchlora.pipelines.results import NOT_FIELDS, result
from searchlora.records import Document

if TYPE_CHECKING:
    from searchlora.pipelines.pipeline import Pipeline

#: Beginning of the flag of a stage whose output does not parse, see `pipelines.execution.trace_row`.
_INVALID = "invalid: "


@dataclass(frozen=True)
class ResultDocument:
    """A hit with its document.

    Attributes:
        id, title, text: Of the document; without the corpus, title and text are empty.
        score: Comparable within one search only.
        rank: From 1.
        metadata: Further fields of the document; a server does not send them.
    """

    id: str
    title: str
    text: str
    score: float
    rank: int
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        query: The query as it was searched with.
        documents: At most k, best first.
        stages: Labels of the stages, with pinned versions of adapters.
        fields: Field -> what a stage wrote, as JSON; `invalid`: stage -> why outputs do not parse, if any do not.
    """

    query: str
    documents: tuple[ResultDocument, ...]
    stages: tuple[str, ...]
    fields: Mapping[str, Any]

    def metadata(self, document: ResultDocument) -> dict[str, Any]:
        """The metadata of a document for retrievers of other libraries.

        Its own metadata, `id`, `title`, `score` and `rank`; and as `search` the `query`, the `stages` and each field
        that stages wrote. Of a list about documents, such as `grades`, only what concerns this one is there.

        Examples:
            >>> tent = ResultDocument("d1", "Tent", "For four.", 2.5, 1, {"brand": "Acme"})
            >>> grades = [{"id": "d1", "grade": 3}, {"id": "d2", "grade": 0}]
            >>> metadata = SearchResult("tent", (tent,), ("bm25",), {"grades": grades}).metadata(tent)
            >>> metadata["brand"], metadata["id"], metadata["rank"], metadata["search"]["grades"]
            ('Acme', 'd1', 1, [{'id': 'd1', 'grade': 3}])
        """
        fields = {name: _concerning(document.id, value) for name, value in self.fields.items()}
        return {
            **document.metadata,
            "id": document.id,
            "title": document.title,
            "score": document.score,
            "rank": document.rank,
            "search": {"query": self.query, "stages": list(self.stages), **fields},
        }


class LocalSource:
    """A pipeline in this process.

    Examples:
        >>> from searchlora import Pipeline
        >>> from searchlora.records import Document
        >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "A red couch."), Document("d2", "A green tent.")])
        >>> found = LocalSource(shop).search("tent", 10, {})
        >>> [(document.id, document.text, document.rank) for document in found.documents]
        [('d2', 'A green tent.', 1)]
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def search(self, query: str, k: int, fields: Mapping[str, Any]) -> SearchResult:
        """The first k hits. Raises `PipelineError` if no stage retrieves, and what stages raise."""
        search = {"id": "1", "query": query, **fields}
        rows: list[Mapping[str, Any]] = []
        (executed,) = self.pipeline.execute([search], trace=rows.append)
        if "hits" not in executed:
            raise PipelineError("the pipeline finds no documents: no stage retrieves", where=self.pipeline.name)
        corpus, labels = self.pipeline.documents, tuple(self.pipeline.labels)
        documents = []
        for rank, hit in enumerate(executed["hits"][:k], 1):
            found = hit.fetched or corpus.get(hit.document) or Document(hit.document, "")
            documents.append(ResultDocument(found.id, found.title, found.text, float(hit.score), rank, found.metadata))
        written = _fields(result(search, executed, labels), rows)
        return SearchResult(str(executed["query"]), tuple(documents), labels, written)


class ServerSource:
    """A pipeline of a server, by `POST /v1/search`. It needs no model and no index here.

    Args:
        url: Base URL of `searchlora serve --pipeline FILE --corpus FILE`.
        pipeline: Its name on the server, see `GET /v1/pipelines`.
        api_key: Sent as a bearer token.
        slots: Slot -> `off`, `base`, or a version of its adapter.
        timeout_s: Time limit of one attempt in seconds.
        retries: Attempts after the first.

    Raises:
        EngineError: for an invalid URL or key.
    """

    def __init__(
        self,
        url: str,
        pipeline: str,
        *,
        api_key: str | None = None,
        slots: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        self.pipeline = pipeline
        self._slots = dict(slots or {})
        self._client = HttpClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries)

    def search(self, query: str, k: int, fields: Mapping[str, Any]) -> SearchResult:
        """The first k hits, at most 1000. Raises `EngineError` for what the server refuses."""
        body: dict[str, Any] = {"pipeline": self.pipeline, "query": query, "top": k}
        body |= {name: value for name, value in (("fields", dict(fields)), ("slots", self._slots)) if value}
        answer = self._client.post("/v1/search", body)
        documents = tuple(
            ResultDocument(hit["document"], hit["title"] or "", hit["text"] or "", float(hit["score"]), hit["rank"])
            for hit in answer["hits"]
        )
        stages = tuple(stage["label"] for stage in answer["stages"])
        return SearchResult(answer["query"], documents, stages, _fields(answer["output"], answer["stages"]))


class SourceRetriever:
    """What retrievers of other libraries have in common: how they are made."""

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, **options: Any) -> Self:
        """Search by a loaded pipeline; `options` are those of the class."""
        return cls(source=LocalSource(pipeline), **options)  # type: ignore[call-arg]

    @classmethod
    def from_server(
        cls, url: str, pipeline: str, *, api_key: str | None = None, timeout_s: float = 60.0, **options: Any
    ) -> Self:
        """Search by a pipeline of a server; arguments as of `ServerSource`."""
        source = ServerSource(url, pipeline, api_key=api_key, timeout_s=timeout_s)
        return cls(source=source, **options)  # type: ignore[call-arg]


def _fields(written: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What stages wrote, and label of a stage -> why outputs of its adapter do not parse, of the rows of a trace."""
    invalid: dict[str, list[str]] = {}
    for stage in stages:
        for flag in dict.fromkeys(stage["flags"]):
            if flag.startswith(_INVALID):
                invalid.setdefault(stage["label"], []).append(flag.removeprefix(_INVALID))
    fields = {name: value for name, value in written.items() if name not in NOT_FIELDS}
    return {**fields, "invalid": invalid} if invalid else fields


def _concerning(document: str, value: Any) -> Any:
    """Of a list of objects with the ids of documents, those of one document; any other value as it is."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not value or not all(isinstance(entry, Mapping) and "id" in entry for entry in value):
        return value
    return [entry for entry in value if entry["id"] == document]
