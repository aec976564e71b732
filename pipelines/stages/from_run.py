"""The stage `from_run`: hits of another engine, from a run file or from the query rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from searchlora.errors import PipelineError
from searchlora.eval.trec import Run, ranked, read_run
from searchlora.pipelines.results import plain
from searchlora.pipelines.stages.stage import BuildContext, Needs, Stage, StageSettings, has_own_hits
from searchlora.records import Hit, SearchContext


class FromRunSettings(StageSettings):
    """`- from_run: {run: bm25.trec, k: 100}`: take the hits of another search engine, from a TREC run.

    Without `run`, the hits are the field `hits` of each query row: a list of document ids, best first, or of
    `{"document": "d1", "score": 12.5}`.
    """

    kind: ClassVar[str] = "from_run"
    produces_hits: ClassVar[bool] = True

    run: str | None = Field(None, description="TREC run, plain or gzip; relative to the working folder")
    k: int = Field(100, ge=1, description="number of hits to keep per query")

    def needs(self) -> Needs:
        return Needs(query_hits=True) if self.run is None else Needs(runs=(self.run,))

    def build(self, context: BuildContext) -> FromRunStage:
        del context
        if self.run is None:
            return FromRunStage(None, self.k)
        return FromRunStage(read_run(self.run), self.k, Path(self.run).name)


@dataclass(frozen=True)
class FromRunStage(Stage):
    """The hits of a run, or of the field `hits` of the search; at most k, best first.

    `run`: Topic -> document -> score; None: the hits are in the search. A topic without results has no hits.
    """

    run: Run | None
    k: int
    name: str = ""

    @property
    def label(self) -> str:
        return f"from_run({self.name or 'query'},k={self.k})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "hits": self._hits(search)[: self.k]} for search in searches]

    def _hits(self, search: SearchContext) -> list[Hit]:
        if self.run is None:
            return supplied_hits(search)
        scores = self.run.get(str(search["id"]), {})
        return [Hit(document, scores[document]) for document in ranked(scores)]

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The hits of the query row."""
        if self.run is None:
            yield "hits", plain(search.get("hits"))

    def if_skipped(self, search: SearchContext) -> dict[str, Any]:
        """The hits of an earlier stage; none without one."""
        return {"hits": list(search["hits"]) if has_own_hits(search) else []}


def supplied_hits(search: SearchContext) -> list[Hit]:
    """The hits in a query row: document ids, best first, or objects with `document` and `score`.

    Ids get the scores n, n - 1, ... 1. Hits with scores are ranked by them, with ties as trec_eval orders them.

    Examples:
        >>> supplied_hits({"id": "q1", "hits": ["d7", "d2"]})
        [Hit(document='d7', score=2.0), Hit(document='d2', score=1.0)]
    """
    where = f"query {search['id']}"
    form = 'Hits are a list of document ids, best first, or of {"document": "d1", "score": 12.5}.'
    rows = search.get("hits")
    if not isinstance(rows, list):
        raise PipelineError("has no list 'hits'", where=where, fix=form)
    if all(isinstance(row, str) for row in rows):
        scores = {row: float(len(rows) - rank) for rank, row in enumerate(rows)}
    else:
        try:
            scores = {row["document"]: float(row["score"]) for row in rows}
        except (TypeError, KeyError, ValueError, OverflowError):
            raise PipelineError("'hits' has an element that is not a hit", where=where, fix=form) from None
        if not all(isinstance(document, str) for document in scores) or not all(map(isfinite, scores.values())):
            raise PipelineError("'hits' has a document that is not text or a score that is not finite", where=where)
    if len(scores) < len(rows):
        raise PipelineError("'hits' names a document twice", where=where)
    return [Hit(document, scores[document]) for document in ranked(scores)]
