"""What the stages that search have in common: their keys, labels, filters, and where they rank a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field

from searchlora.errors import SearchloraError
from searchlora.http_client import check_key_variable
from searchlora.pipelines.stages.conditions import Condition, Conditions, bound, described, unmet, values_read
from searchlora.pipelines.stages.explanation import Retrieved, Sought
from searchlora.pipelines.stages.stage import (
    FAILED_PARTS,
    FUSED_QUERIES,
    Stage,
    StageSettings,
    has_own_hits,
)
from searchlora.records import Document, Hit, SearchContext
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.fusion import Failure, fuse
from searchlora.retrieval.retriever import Retriever, search_filtered

#: How many hits of an index are looked through for a document that is not among those that the stage keeps.
_DEEPEST = 10_000


class RetrieveSettings(StageSettings):
    """Settings of a stage that searches; `k` is the number of hits, and `build` returns a `RetrieveStage`."""

    produces_hits: ClassVar[bool] = True
    removable: ClassVar[bool] = True
    fusible: ClassVar[bool] = True
    #: Keys that do not change the hits, or that the label shows in another way.
    unlabelled: ClassVar[frozenset[str]] = frozenset()

    k: int = Field(100, ge=1, description="number of hits")
    filter_by: Conditions = Field(
        default_factory=dict,
        description="field -> path, or a comparison, as `filter` of [filter](#filter): only documents that match are"
        " searched; search engines compare by `equals` only",
    )

    @property
    def index_key(self) -> str:
        """The settings on which an index depends: not how many hits are wanted, and what happens on failure."""
        return self.model_dump_json(exclude=set(RetrieveSettings.model_fields))

    def label(self, *inner: str, name: str | None = None) -> str:
        """The name, and each setting that affects the hits and differs from the default, after `inner`."""
        excluded = {"filter_by", *StageSettings.model_fields, *self.unlabelled}
        changed = self.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
        shown = [*inner, *(f"{key}={_shown(value)}" for key, value in changed.items())]
        shown += self.labelled_filters()
        name = name or self.kind
        return f"{name}({','.join(shown)})" if shown else name

    def labelled_filters(self) -> list[str]:
        """The filters in the label."""
        return [f"filter_by={phrase}" for phrase in described(self.filter_by)]


class RemoteSettings(RetrieveSettings):
    """Settings of a stage that asks a server."""

    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable that holds the password or key; SEARCHLORA_API_KEY_VARIABLES must list it",
    )
    concurrency: int = Field(8, ge=1, description="maximum number of queries in flight")
    timeout_s: float = Field(30, gt=0, description="time limit of one attempt in seconds")

    def check_file(self, where: str) -> None:
        check_key_variable(self.api_key_env, where)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ":".join(f"{key}^{boost:g}" for key, boost in value.items())
    return ":".join(f"{number:g}" for number in value) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class RetrieveStage(Stage):
    """`query` -> `hits`, at most k. The label names what searches, and its settings.

    Where an earlier stage lets several queries be searched, their hits are fused by reciprocal rank fusion.

    `filter_by`: Field of a document -> its condition; only documents that fulfil all of them are searched. A condition
    whose paths have no values in the search filters nothing.
    """

    retriever: Retriever
    k: int
    label: str = ""
    filter_by: Mapping[str, Condition] = field(default_factory=dict)
    kind: str = "retrieve"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        queries = [searched_queries(search) for search in searches]
        flat = [query for of_search in queries for query in of_search]
        rankings = iter(self._search(flat, self.filters(searches)))
        done: list[SearchContext] = []
        for search, of_search in zip(searches, queries, strict=True):
            hits, failures = zip(*(next(rankings) for _ in of_search), strict=True)
            fused = hits[0] if len(hits) == 1 else fuse(hits)[: self.k]
            failed = dict(failure for of_query in failures for failure in of_query)
            done.append({**search, "hits": fused, **({FAILED_PARTS: failed} if failed else {})})
        return done

    def _search(self, queries: Sequence[str], filters: Sequence[FieldFilter]) -> list[tuple[list[Hit], list[Failure]]]:
        return [(hits, []) for hits in search_filtered(self.retriever, queries, self.k, filters)]

    def filters(self, searches: Sequence[SearchContext]) -> list[FieldFilter]:
        """The filter of each query that is searched; those of one search have the same."""
        of_searches = [bound(self.filter_by, search) for search in searches]
        return [filter for search, filter in zip(searches, of_searches, strict=True) for _ in searched_queries(search)]

    def with_retriever(self, change: Callable[[Retriever], Retriever]) -> RetrieveStage:
        return replace(self, retriever=change(self.retriever))

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        yield "query", search["query"]
        if FUSED_QUERIES in search:
            yield FUSED_QUERIES, list(search[FUSED_QUERIES])
        yield from values_read(search, self.filter_by).items()

    def if_skipped(self, search: SearchContext) -> dict[str, Any]:
        """The hits of an earlier stage; none without one."""
        return {"hits": list(search["hits"]) if has_own_hits(search) else []}

    # Explanations

    def look_up(self, search: SearchContext, sought: Sought) -> Retrieved:
        """Where the stage ranks a document, and, where it searches with several queries, where each of them does."""
        queries, filters = searched_queries(search), self.filters([search])
        of_queries = [self.look_up_query(query, filter, sought) for query, filter in zip(queries, filters, strict=True)]
        if len(of_queries) == 1:
            return of_queries[0]
        parts = tuple(
            replace(retrieved, retriever=f"'{query}'") for retrieved, query in zip(of_queries, queries, strict=True)
        )
        hits = fuse(search_filtered(self.without_skipped(sought).retriever, queries, self.k, filters))
        return Retrieved(self.kind, self.k, *sought.place(hits), len(hits), parts=parts)

    def look_up_query(self, query: str, filter: FieldFilter, sought: Sought) -> Retrieved:
        """Where one query ranks a document; an engine that was searched may still fail when asked for more hits."""
        try:
            deepest = max(self.k, self.deepest())
            retriever = self.without_skipped(sought).retriever
            (hits,) = search_filtered(retriever, [query], deepest, [filter])
            terms = self.terms(query, sought.document)
            return Retrieved(
                self.kind, self.k, *sought.place(hits), deepest, terms, self.look_up_parts(query, filter, sought)
            )
        except SearchloraError as error:
            return Retrieved(self.kind, self.k, None, None, 0, failed=sought.describe(error))

    def look_up_parts(self, query: str, filter: FieldFilter, sought: Sought) -> tuple[Retrieved, ...]:
        """Where the parts of a fusion rank a document."""
        del query, filter, sought
        return ()

    def without_skipped(self, sought: Sought) -> RetrieveStage:
        """The stage without the parts of a fusion that were skipped."""
        del sought
        return self

    def deepest(self) -> int:
        """How many hits are looked through for a document that is not among the first k."""
        return min(len(self.retriever), _DEEPEST) if isinstance(self.retriever, Sized) else 0

    def terms(self, query: str, document: str) -> Mapping[str, float]:
        """Word of the query -> what it adds to the score of a document."""
        del query, document
        return {}

    def unmet(self, search: SearchContext, content: Document | None) -> str:
        return unmet(self.filter_by, search, content)

    def notes(self, before: SearchContext, after: SearchContext, rank: int | None) -> Iterator[str]:
        """The queries whose hits are fused."""
        del after, rank
        if len(others := before.get(FUSED_QUERIES, ())) > 1:
            earlier = "', '".join(others[:-1])
            yield f"its hits are fused with those of the query '{earlier}'"


def searched_queries(search: SearchContext) -> tuple[str, ...]:
    """The queries with which retrievers search: the query, after those that a rewrite is fused with."""
    queries: tuple[str, ...] = search.get(FUSED_QUERIES, (str(search["query"]),))
    return queries
