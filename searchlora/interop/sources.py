"""What retrievers of other libraries search: a pipeline in this process, or one of a server, with the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from searchlora.pipelines.pipeline import Pipeline

#: Beginning of the flag of a stage whose output does not parse, see `pipelines.execution.trace_row`.
_INVALID = "invalid: "


@dataclass(frozen=True)
class FoundDocument:
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
class Found:
    """What a search found.

    Attributes:
        query: The query as it was searched with.
        documents: At most k, best first.
        stages: Labels of the stages, with pinned versions of adapters.
        fields: What the stages wrote, as JSON values: `intent`, `answer`, `grades`, and so on; and `invalid`, label of
            a stage -> why outputs of its adapter do not parse, if there are any.
    """

    query: str
    documents: tuple[FoundDocument, ...]
    stages: tuple[str, ...]
    fields: Mapping[str, Any]

    def metadata(self, document: FoundDocument) -> dict[str, Any]:
        """The metadata of a document for retrievers of other libraries.

        Returns:
            The document's own metadata; its `id`, `title`, `score` and `rank`; and as `search` the `query` as it was
            searched with, the `stages`, and each field that stages wrote. Of a list about documents, such as `grades`,
            only what concerns this one is there.

        Examples:
            >>> tent = FoundDocument("d1", "Tent", "For four.", 2.5, 1, {"brand": "Acme"})
            >>> grades = [{"id": "d1", "grade": 3}, {"id": "d2", "grade": 0}]
            >>> metadata = Found("tent", (tent,), ("bm25",), {"grades": grades}).metadata(tent)
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


class Source(Protocol):
    """Searches by a pipeline."""

    def search(self, query: str, k: int, fields: Mapping[str, Any]) -> Found:
        """The first k hits of a query.

        Args:
            fields: Further fields that stages read, such as `history`.

        Raises:
            PipelineError: if the pipeline does not retrieve, or a stage lacks a field.
            SearchloraError: what a stage raises, or the server answers.
        """


class LocalSource:
    """A pipeline in this process.

    Examples:
        >>> from searchlora import Pipeline
        >>> from searchlora.records import Document
        >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "A red couch."), Document("d2", "A green tent.")])
        >>> found = LocalSource(shop).search("tent", 10, {})
        >>> [(each.id, each.text, each.rank) for each in found.documents]
        [('d2', 'A green tent.', 1)]
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def search(self, query: str, k: int, fields: Mapping[str, Any]) -> Found:
        """The first k hits of a query, see `Source`."""
        from searchlora.errors import PipelineError
        from searchlora.pipelines.results import result
        from searchlora.records import Document

        search = {"id": "1", "query": query, **fields}
        rows: list[Mapping[str, Any]] = []
        (executed,) = self.pipeline.execute([search], trace=rows.append)
        if "hits" not in executed:
            raise PipelineError("the pipeline finds no documents: no stage retrieves", where=self.pipeline.name)
        found = result(search, executed, self.pipeline.labels)
        documents = []
        for rank, hit in enumerate(executed["hits"][:k], 1):
            corpus = self.pipeline.documents
            document = hit.fetched or (corpus[hit.document] if hit.document in corpus else Document(hit.document, ""))
            documents.append(
                FoundDocument(document.id, document.title, document.text, float(hit.score), rank, document.metadata)
            )
        labels = tuple(self.pipeline.labels)
        return Found(str(executed["query"]), tuple(documents), labels, _fields(found, _invalid(rows)))


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
        from searchlora.http_client import HttpClient

        self.pipeline = pipeline
        self._slots = dict(slots or {})
        self._client = HttpClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries)

    def search(self, query: str, k: int, fields: Mapping[str, Any]) -> Found:
        """The first k hits of a query, see `Source`; k is at most 1000."""
        body: dict[str, Any] = {"pipeline": self.pipeline, "query": query, "top": k}
        body |= {name: value for name, value in (("fields", dict(fields)), ("slots", self._slots)) if value}
        answer = self._client.post("/v1/search", body)
        documents = tuple(
            FoundDocument(hit["document"], hit["title"] or "", hit["text"] or "", float(hit["score"]), hit["rank"])
            for hit in answer["hits"]
        )
        stages = tuple(stage["label"] for stage in answer["stages"])
        return Found(answer["query"], documents, stages, _fields(answer["output"], _invalid(answer["stages"])))


def _invalid(stages: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Label of a stage -> why outputs of its adapter do not parse, of the rows of a trace."""
    reasons: dict[str, list[str]] = {}
    for stage in stages:
        flags = [flag.removeprefix(_INVALID) for flag in stage["flags"] if flag.startswith(_INVALID)]
        reasons.setdefault(stage["label"], []).extend(flags)
    return reasons


def _fields(written: Mapping[str, Any], invalid: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    from searchlora.pipelines.results import NOT_FIELDS

    fields = {name: value for name, value in written.items() if name not in NOT_FIELDS}
    reasons = {stage: list(dict.fromkeys(why)) for stage, why in invalid.items() if why}
    return {**fields, "invalid": reasons} if reasons else fields


def _concerning(document: str, value: Any) -> Any:
    """Of a list of objects with the ids of documents, those of one document; any other value as it is."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not value or not all(isinstance(each, Mapping) and "id" in each for each in value):
        return value
    return [each for each in value if each["id"] == document]
