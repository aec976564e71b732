"""Explanation of a document in one search: its rank and score after each stage, and where and why it fell out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from searchlora.errors import EngineError, SearchloraError, UsageError
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.conditions import Condition, bound
from searchlora.pipelines.execution import Describe, execute_stage
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import plain
from searchlora.pipelines.stage_settings import FuseSettings, Settings, stage_kind
from searchlora.pipelines.stages import (
    FUSED_QUERIES,
    AdapterStage,
    MatchStage,
    PassagesStage,
    RetrieveStage,
    Stage,
    has_own_hits,
    searched_queries,
)
from searchlora.records import Document, Hit, SearchContext
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.fusion import Fused, fuse
from searchlora.retrieval.retriever import Retriever, search_filtered
from searchlora.retrieval.search_engine import TextSearch, VectorSearch

#: How many hits of an index are looked through for a document that is not among those that the stage keeps.
_DEEPEST = 10_000

#: The same for an index in a search engine, which sends the texts of its hits.
_DEEPEST_IN_ENGINE = 1_000


@dataclass(frozen=True)
class Retrieved:
    """Where one retriever ranks the document, beyond the hits that it returns if need be.

    Attributes:
        retriever: Its kind, such as `bm25`, or `fuse`.
        k: Number of hits that it returns.
        rank: From 1; None if the document is not among the first `searched`.
        score: None without a rank.
        searched: Number of hits that were looked through.
        terms: Word of the query -> what it adds to the score; 0: the document does not contain it. For BM25 only.
        parts: The retrievers that it fuses, or the queries whose hits are fused.
        failed: Why it could not be asked; empty if it could.
        skipped: Why the fusion went on without it for this query, such as for being late; its rank is that of the
            explanation, which waits for it. Empty if its hits were fused.
    """

    retriever: str
    k: int
    rank: int | None
    score: float | None
    searched: int
    terms: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[Retrieved, ...] = ()
    failed: str = ""
    skipped: str = ""

    @property
    def reason(self) -> str:
        """Why the document is not among the hits; empty if it is."""
        if self.failed:
            return f"it failed: {self.failed}"
        if self.skipped:
            return f"it was skipped: {self.skipped}{f'; else at rank {self.rank}' if self.rank is not None else ''}"
        if self.rank is not None and self.rank <= self.k:
            return ""
        if self.terms and not any(self.terms.values()):
            return f"it contains no word of the query: {', '.join(self.terms)}"
        if self.rank is not None:
            return f"at rank {self.rank}, and the first {self.k} are kept"
        if self.parts:
            return "; ".join(f"{part.retriever} ({part.reason})" for part in self.parts)
        return f"not among the first {self.searched}"


@dataclass(frozen=True)
class StageExplanation:
    """What a stage did with the document.

    Attributes:
        stage: Its label, with pinned versions.
        query: The query after the stage.
        hits: Number of hits after the stage; None before any stage retrieves.
        rank, score: Of the document among them; None if it is not there.
        retrieved: Of a stage that retrieves.
        wrote: Field -> what the stage wrote about the document there, such as its grade.
        notes: What the stage did with the query and the document, one sentence each.
    """

    stage: str
    query: str
    hits: int | None
    rank: int | None
    score: float | None
    retrieved: Retrieved | None
    wrote: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a document is where it is in one search, or why it is missing."""

    document: str
    query: str
    stages: tuple[StageExplanation, ...]

    @property
    def missing_at(self) -> int | None:
        """Index of the stage from which on the document is not among the hits; None if it is there at the end."""
        with_hits = [index for index, stage in enumerate(self.stages) if stage.hits is not None]
        if not with_hits or self.stages[-1].rank is not None:
            return None
        present = [index for index in with_hits if self.stages[index].rank is not None]
        return min(index for index in with_hits if not present or index > present[-1])

    @property
    def verdict(self) -> str:
        """Where the document is, or at which stage it fell out and why, in a sentence."""
        last = self.stages[-1]
        if last.hits is None:
            return "no stage retrieves, so no document has a rank"
        if last.rank is not None:
            return f"{self.document} is at rank {last.rank} of {last.hits}"
        index = self.missing_at
        assert index is not None
        stage = self.stages[index]
        before = next((each.rank for each in reversed(self.stages[:index]) if each.rank is not None), None)
        why = stage.notes[-1] if stage.notes else "the stage removed it"
        was = f", after rank {before} before it" if before is not None else ""
        return f"{self.document} is missing since stage {index + 1}, {stage.stage}{was}: {why}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        content: dict[str, Any] = plain(self)
        return {**content, "missing_at": self.missing_at, "verdict": self.verdict}


def explain(pipeline: Pipeline, query: str, document: str, describe: Describe = str, /, **fields: Any) -> Explanation:
    """Execute a pipeline on one query, and look after each stage where a document is.

    Retrievers are asked a second time for more hits than they return in the pipeline, so that a document behind those
    has a rank, too: an index for at most 10,000, an index in a search engine for 1,000, a query by HTTP for none.

    Args:
        document: Its id.
        describe: See `execution.execute_stage`.
        fields: Further fields that stages read, as in `Pipeline.search`.

    Raises:
        UsageError: if the pipeline has documents, and this is none of them.
        What `Pipeline.execute` raises. A stage that is skipped there is skipped here, and a note says why.

    Examples:
        >>> from searchlora.records import Document
        >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "red couch"), Document("d2", "green tent")])
        >>> explain(shop, "a tent", "d1").verdict
        'd1 is missing since stage 1, bm25: it contains no word of the query: tent'
    """
    if pipeline.documents and document not in pipeline.documents:
        raise UsageError(f"there is no document '{document}' in the corpus", where="--explain")
    search: SearchContext = {"id": "1", "query": query, **fields}
    explained = []
    for number, (stage, settings) in enumerate(zip_longest(pipeline.stages, pipeline.settings), 1):
        (after,) = execute_stage(stage, settings, [search], number, describe=describe)
        explained.append(
            _explained(stage, settings, search, after, document, pipeline.documents.get(document), describe)
        )
        search = after
    return Explanation(document, query, tuple(explained))


def _explained(
    stage: Stage,
    settings: Settings | None,
    before: SearchContext,
    after: SearchContext,
    document: str,
    content: Document | None,
    describe: Describe,
) -> StageExplanation:
    """What a stage did with a document, whose content is None where only a search engine has it."""
    hits: Sequence[Hit] | None = after.get("hits") if has_own_hits(after) else None
    rank, score = _place(hits or (), document)
    retrieved = None
    if isinstance(stage, RetrieveStage) and _skipped(stage, before, after) is None:
        skipped = _skipped_parts(before, after)
        retrieved = _look_for_all(stage, settings, before, document, skipped, describe)
    wrote = dict(_about(before, after, document))
    notes = tuple(_notes(stage, before, after, document, content, rank, retrieved))
    count = None if hits is None else len(hits)
    return StageExplanation(stage.label, str(after["query"]), count, rank, score, retrieved, wrote, notes)


def _skipped(stage: Stage, before: SearchContext, after: SearchContext) -> str | None:
    """Why the stage was skipped; None if it was not."""
    reason: str | None = after.get("skipped", {}).get(stage.label)
    return reason if after.get("skipped") is not before.get("skipped") else None


def _skipped_parts(before: SearchContext, after: SearchContext) -> dict[str, str]:
    """Label -> reason of the parts of a fusion that a stage, which was not skipped itself, went on without."""
    earlier = before.get("skipped", {})
    return {label: reason for label, reason in after.get("skipped", {}).items() if label not in earlier}


def _place(hits: Sequence[Hit], document: str) -> tuple[int | None, float | None]:
    return next(((rank, hit.score) for rank, hit in enumerate(hits, 1) if hit.document == document), (None, None))


class _Sought(NamedTuple):
    """What retrievers are asked for: a document, by a query and its filter; and how their errors are told.

    Attributes:
        skipped: Label -> reason of the parts of a fusion that were skipped.
    """

    query: str
    filter: FieldFilter
    document: str
    skipped: Mapping[str, str]
    describe: Describe


def _look_for_all(
    stage: RetrieveStage,
    settings: Settings | None,
    search: SearchContext,
    document: str,
    skipped: Mapping[str, str],
    describe: Describe,
) -> Retrieved:
    """Where a stage ranks the document, and, where it searches with several queries, where each of them does."""
    queries, filters = searched_queries(search), stage.filters([search])
    looked = [
        _look_or_failure(stage.retriever, stage.k, settings, _Sought(query, filter, document, skipped, describe))
        for query, filter in zip(queries, filters, strict=True)
    ]
    if len(looked) == 1:
        return looked[0]
    named = tuple(replace(each, retriever=f"'{query}'") for each, query in zip(looked, queries, strict=True))
    fused = fuse(search_filtered(_as_executed(stage.retriever, skipped), queries, stage.k, filters))
    return Retrieved(looked[0].retriever, stage.k, *_place(fused, document), len(fused), parts=named)


def _look(retriever: Retriever, k: int, settings: Settings | None, sought: _Sought) -> Retrieved:
    """Where a retriever ranks the document, and where those that it fuses do."""
    kind = stage_kind(settings) if settings is not None else type(retriever).__name__
    if isinstance(retriever, Fused):
        of: Sequence[Settings | None] = settings.of if isinstance(settings, FuseSettings) else ()
        parts = tuple(
            replace(
                _look_or_failure(source.retriever, source.depth, part, sought),
                skipped=sought.skipped.get(source.label, ""),
            )
            for source, part in zip_longest(retriever.sources, of)
        )
        deepest = max(k, sum(source.depth for source in retriever.sources))
        executed = _as_executed(retriever, sought.skipped)
        return Retrieved(kind, k, *_ranked(executed, sought, deepest), deepest, parts=parts)
    indexed = len(retriever) if isinstance(retriever, Sized) else 0
    if isinstance(retriever, TextSearch | VectorSearch):
        indexed = _DEEPEST_IN_ENGINE
    deepest = max(k, min(indexed, _DEEPEST))
    terms = {}
    if isinstance(retriever, BM25Index):
        try:
            terms = retriever.contributions(sought.query, sought.document)
        except ValueError:  # the document has no text, or belongs to another collection
            terms = {}
    return Retrieved(kind, k, *_ranked(retriever, sought, deepest), deepest, terms)


@dataclass(frozen=True)
class _Skipped:
    """A part of a fusion that was skipped: it is not asked again, as it might answer in time now."""

    reason: str

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        del queries, k, filters
        raise EngineError(self.reason)


def _as_executed(retriever: Retriever, skipped: Mapping[str, str]) -> Retriever:
    """The retriever without the parts of a fusion that were skipped."""
    if not isinstance(retriever, Fused) or not skipped:
        return retriever
    executed = copy(retriever)
    executed.sources = tuple(
        replace(source, retriever=_Skipped(skipped[source.label]), budget_s=None)
        if source.label in skipped
        else replace(source, retriever=_as_executed(source.retriever, skipped))
        for source in retriever.sources
    )
    return executed


def _look_or_failure(retriever: Retriever, k: int, settings: Settings | None, sought: _Sought) -> Retrieved:
    """As `_look`; an engine that was searched may still fail when it is asked for more hits."""
    try:
        return _look(retriever, k, settings, sought)
    except SearchloraError as error:
        kind = stage_kind(settings) if settings is not None else type(retriever).__name__
        return Retrieved(kind, k, None, None, 0, failed=sought.describe(error))


def _ranked(retriever: Retriever, sought: _Sought, deepest: int) -> tuple[int | None, float | None]:
    (hits,) = search_filtered(retriever, [sought.query], deepest, [sought.filter])
    return _place(hits, sought.document)


def _failed(conditions: Mapping[str, Condition], search: SearchContext, content: Document | None) -> str:
    """What a document does not fulfil of the conditions of a filter; empty if it fulfils all, or is not known."""
    if content is None:
        return ""
    return "; ".join(
        f"its {field} does not fulfil "
        + " and ".join(f"{operator} {' or '.join(sorted(values))}" for operator, values in test.values)
        for field, test in bound(conditions, search).items()
        if not test(content.field(field))
    )


def _about(before: SearchContext, after: SearchContext, document: str) -> Iterator[tuple[str, Any]]:
    """The entries about the document in the lists that a stage wrote, such as `grades`."""
    for name, value in after.items():
        if name in ("hits", "passages") or value is before.get(name) or not isinstance(value, list | tuple):
            continue
        for entry in value:
            if isinstance(entry, Mapping) and entry.get("id") == document:
                yield name, {key: plain(each) for key, each in entry.items() if key != "id"}


def _notes(
    stage: Stage,
    before: SearchContext,
    after: SearchContext,
    document: str,
    content: Document | None,
    rank: int | None,
    retrieved: Retrieved | None,
) -> Iterator[str]:
    if (reason := _skipped(stage, before, after)) is not None:
        yield f"the stage was skipped: {reason}"
        return
    if after["query"] != before["query"]:
        yield f"the query '{before['query']}' became '{after['query']}'"
    for label, reason in _skipped_parts(before, after).items():
        yield f"the part {label} was skipped: {reason}"
    if isinstance(stage, AdapterStage):
        outputs = after.get("outputs", {}).get(stage.task.name, ())
        reasons = dict.fromkeys(each.reason for each in outputs if isinstance(each, InvalidOutput))
        for reason in reasons:
            yield f"an output of {stage.label} is invalid: {reason}"
    if isinstance(stage, RetrieveStage) and len(others := before.get(FUSED_QUERIES, ())) > 1:
        earlier = "', '".join(others[:-1])
        yield f"its hits are fused with those of the query '{earlier}'"
    if isinstance(stage, PassagesStage) and rank is not None and rank > stage.k:
        yield f"at rank {rank}; later stages read the first {stage.k} only"
    filters = stage.filter_by if isinstance(stage, RetrieveStage) else {}
    if rank is None and (failed := _failed(filters, before, content)):
        yield f"it was not searched: {failed}"
    elif rank is None and retrieved is not None:
        behind = f"at rank {retrieved.rank}, and not among the first {retrieved.k} of the fused hits"
        yield retrieved.reason or behind
    elif rank is None and has_own_hits(after):
        was, _ = _place(before["hits"] if has_own_hits(before) else (), document)
        if was is not None:
            failed = _failed(stage.filter if isinstance(stage, MatchStage) else {}, before, content)
            yield f"the stage removed it from rank {was}{f': {failed}' if failed else ''}"
        elif not has_own_hits(before):
            yield f"not among the {len(after['hits'])} hits that the stage takes"
