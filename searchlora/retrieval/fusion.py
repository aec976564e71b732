"""Rank fusion: reciprocal rank fusion, CombSUM and CombMNZ.

Sources: reciprocal rank fusion, Cormack, Clarke, Büttcher (SIGIR 2009), whose constant is 60. CombSUM and CombMNZ, Fox
and Shaw, "Combination of Multiple Searches" (TREC-2, 1994), over scores normalised to 0..1 as in Lee (SIGIR 1997).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from searchlora.errors import SearchloraError, UsageError, concerns_all
from searchlora.eval.trec import ranked
from searchlora.records import Hit
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.retriever import Retriever, check_k, search_filtered
from searchlora.time_limit import within_budget

METHODS = ("rrf", "combsum", "combmnz")


def fuse(
    rankings: Sequence[Sequence[Hit]],
    *,
    method: str = "rrf",
    weights: Sequence[float] | None = None,
    rrf_k: float = 60,
) -> list[Hit]:
    """Fuse rankings into one, best first, with ties by id in descending order.

    * `rrf`: the sum over lists of weight / (rrf_k + rank), ranks from 1; the scores of the lists are not used.
    * `combsum`: the sum over lists of weight × (score - min) / (max - min), with the minimum and the maximum of the
      list. If all scores of a list are equal, each counts as 1.
    * `combmnz`: combsum times the number of lists that contain the document.

    Examples:
        >>> fused = fuse([[Hit("a", 3.0), Hit("b", 1.0)], [Hit("b", 9.0)]])
        >>> [hit.document for hit in fused]
        ['b', 'a']
    """
    _check(method, weights, len(rankings), rrf_k)
    shares: dict[str, list[float]] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for document, share in _shares(ranking, method, rrf_k).items():
            shares.setdefault(document, []).append(weight * share)
    # fsum is exact, so that the order of the lists does not break ties.
    scores = {
        document: math.fsum(of_lists) * (len(of_lists) if method == "combmnz" else 1)
        for document, of_lists in shares.items()
    }
    fetched = {hit.document: hit.fetched for ranking in rankings for hit in ranking if hit.fetched is not None}
    return [Hit(document, scores[document], fetched.get(document)) for document in ranked(scores)]


@dataclass(frozen=True)
class Source:
    """A retriever of a fusion, with the number of hits that are fused and its weight."""

    retriever: Retriever
    depth: int = 100
    weight: float = 1.0
    label: str = ""
    optional: bool = False
    budget_s: float | None = None  # seconds per query, after which it has failed; None: no limit


#: The label of a source that failed for a query, and the error.
Failure: TypeAlias = tuple[str, SearchloraError]


class Fused:
    """A retriever that fuses several retrievers over the same documents."""

    def __init__(self, sources: Sequence[Source], *, method: str = "rrf", rrf_k: float = 60) -> None:
        if not sources:
            raise UsageError("there is nothing to fuse", fix="Give at least one retriever.")
        self.sources = tuple(sources)
        _check(method, [source.weight for source in sources], len(sources), rrf_k)
        for source in sources:
            check_k(source.depth)
        self._method = method
        self._rrf_k = rrf_k

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first. Raises `UsageError` if k is less than 1."""
        return [hits for hits, _ in self.search_with_failures(queries, k, filters)]

    def search_with_failures(
        self, queries: Sequence[str], k: int, filters: Sequence[FieldFilter] | None = None
    ) -> list[tuple[list[Hit], list[Failure]]]:
        """For each query the hits as of `search`, and the optional sources that failed, which are not among them."""
        check_k(k)
        by_source = [self._ask(source, queries, filters) for source in self.sources]
        results = []
        for query, of_query in zip(queries, zip(*by_source, strict=True), strict=True):
            failures = [failure for answer in of_query for failure in answer.failures]
            rankings = [answer.hits for answer in of_query]
            if all(hits is None for hits in rankings):
                raise failures[0][1]
            results.append((self._combined(query, rankings)[:k], failures))
        return results

    def _combined(self, query: str, rankings: Sequence[Sequence[Hit] | None]) -> list[Hit]:
        """The hits of all sources in one order; None for a source that failed."""
        del query
        there = [(hits, source.weight) for hits, source in zip(rankings, self.sources, strict=True) if hits is not None]
        hits, weights = zip(*there, strict=True)
        return fuse(hits, method=self._method, weights=weights, rrf_k=self._rrf_k)

    def _ask(self, source: Source, queries: Sequence[str], filters: Sequence[FieldFilter] | None) -> Sequence[_Answer]:
        """What a source has for each query."""
        try:
            if source.budget_s is None:
                return _search(source, queries, filters)
            called = partial(_search, source, queries, filters)
            return within_budget(called, source.budget_s, len(queries), source.label or "a part of the fusion")
        except SearchloraError as error:
            if not source.optional:
                raise
            # An engine that cannot be asked fails for all queries; one bad query fails alone.
            if len(queries) == 1 or concerns_all(error):
                return [_Answer(None, [(source.label, error)])] * len(queries)
        return [
            answer
            for index, query in enumerate(queries)
            for answer in self._ask(source, [query], None if filters is None else [filters[index]])
        ]


class _Answer(NamedTuple):
    """What a source has for a query: its hits, None if it failed, and what failed of it or in it."""

    hits: list[Hit] | None
    failures: Sequence[Failure] = ()


def _search(source: Source, queries: Sequence[str], filters: Sequence[FieldFilter] | None) -> Sequence[_Answer]:
    if isinstance(source.retriever, Fused):
        return [_Answer(*result) for result in source.retriever.search_with_failures(queries, source.depth, filters)]
    return [_Answer(hits) for hits in search_filtered(source.retriever, queries, source.depth, filters)]


def _shares(ranking: Sequence[Hit], method: str, rrf_k: float) -> Mapping[str, float]:
    """Document -> its contribution from one list."""
    if method == "rrf":
        return {hit.document: 1 / (rrf_k + rank) for rank, hit in enumerate(ranking, start=1)}
    if not ranking:
        return {}
    scores = [hit.score for hit in ranking]
    least, width = min(scores), max(scores) - min(scores)
    return {hit.document: (hit.score - least) / width if width > 0 else 1.0 for hit in ranking}


def _check(method: str, weights: Sequence[float] | None, lists: int, rrf_k: float) -> None:
    if method not in METHODS:
        raise UsageError(f"there is no fusion '{method}'", fix=f"Known: {', '.join(METHODS)}.")
    if weights is not None and len(weights) != lists:
        raise UsageError(f"there are {len(weights)} weights for {lists} rankings", fix="Give one per ranking.")
    if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(
            f"the weights {list(weights)} are not all above 0", fix="Remove the sources that should not count."
        )
    if not math.isfinite(rrf_k) or rrf_k < 0:
        raise UsageError(f"'rrf_k' is {rrf_k}", fix="It is at least 0; 60 is usual.")
