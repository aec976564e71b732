"""Explanation of a document in one search: its rank and score after each stage, and where and why it fell out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from searchlora.errors import UsageError
from searchlora.pipelines.execution import execute_stage
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import plain
from searchlora.pipelines.stages.explanation import Describe, Retrieved, Sought
from searchlora.pipelines.stages.stage import Stage, has_own_hits
from searchlora.records import Hit, SearchContext


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
        before = next((stage.rank for stage in reversed(self.stages[:index]) if stage.rank is not None), None)
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
        sought = Sought(document, pipeline.documents.get(document), describe=describe)
        explained.append(_explained(stage, search, after, sought))
        search = after
    return Explanation(document, query, tuple(explained))


def _explained(stage: Stage, before: SearchContext, after: SearchContext, sought: Sought) -> StageExplanation:
    """What a stage did with a document."""
    hits: Sequence[Hit] | None = after.get("hits") if has_own_hits(after) else None
    rank, score = sought.place(hits or ())
    earlier, now = before.get("skipped", {}), after.get("skipped", {})
    retrieved = None
    if now is not earlier and stage.label in now:
        notes = [f"the stage was skipped: {now[stage.label]}"]
    else:  # or parts of a fusion were
        sought = replace(sought, skipped={label: now[label] for label in now if label not in earlier})
        retrieved = stage.look_up(before, sought)
        notes = list(_notes(stage, before, after, sought, rank, retrieved))
    return StageExplanation(
        stage=stage.label,
        query=str(after["query"]),
        hits=None if hits is None else len(hits),
        rank=rank,
        score=score,
        retrieved=retrieved,
        wrote=dict(_about(before, after, sought.document)),
        notes=tuple(notes),
    )


def _about(before: SearchContext, after: SearchContext, document: str) -> Iterator[tuple[str, Any]]:
    """The entries about the document in the lists that a stage wrote, such as `grades`."""
    for name, value in after.items():
        if name in ("hits", "passages") or value is before.get(name) or not isinstance(value, list | tuple):
            continue
        for entry in value:
            if isinstance(entry, Mapping) and entry.get("id") == document:
                yield name, {key: plain(part) for key, part in entry.items() if key != "id"}


def _notes(
    stage: Stage,
    before: SearchContext,
    after: SearchContext,
    sought: Sought,
    rank: int | None,
    retrieved: Retrieved | None,
) -> Iterator[str]:
    if after["query"] != before["query"]:
        yield f"the query '{before['query']}' became '{after['query']}'"
    for label, reason in sought.skipped.items():
        yield f"the part {label} was skipped: {reason}"
    yield from stage.notes(before, after, rank)
    if rank is not None:
        return
    unmet = stage.unmet(before, sought.content)
    if retrieved is not None:
        behind = f"at rank {retrieved.rank}, and not among the first {retrieved.k} of the fused hits"
        yield f"it was not searched: {unmet}" if unmet else retrieved.reason or behind
    elif has_own_hits(after):
        was, _ = sought.place(before["hits"] if has_own_hits(before) else ())
        if was is not None:
            yield f"the stage removed it from rank {was}{f': {unmet}' if unmet else ''}"
        elif not has_own_hits(before):
            yield f"not among the {len(after['hits'])} hits that the stage takes"
