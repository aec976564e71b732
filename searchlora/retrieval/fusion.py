"""Several rankings of the same documents made into one.

Sources: reciprocal rank fusion, Cormack, Clarke, Büttcher (SIGIR 2009), whose constant is 60. CombSUM and CombMNZ, Fox
and Shaw, "Combination of Multiple Searches" (TREC-2, 1994), over scores brought to 0..1 as Lee (SIGIR 1997) does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from searchlora.errors import UsageError
from searchlora.eval.trec import ranked
from searchlora.records import Hit
from searchlora.retrieval.ranking import check_k
from searchlora.retrieval.retriever import Retriever

#: document -> what one list says for it
_Shares = Mapping[str, float]


def fuse(
    rankings: Sequence[Sequence[Hit]],
    *,
    method: str = "rrf",
    weights: Sequence[float] | None = None,
    constant: float = 60,
) -> list[Hit]:
    """One ranking of all documents that stand in any of `rankings`, best first, ties by id from last to first.

    * `rrf`: the sum over lists of weight / (constant + rank), ranks from 1; the scores of the lists are not used.
    * `combsum`: the sum over lists of weight × (score - min) / (max - min), minimum and maximum over that list as
      given. The last document of a list gains nothing from it, and where all are level each gains 1.
    * `combmnz`: combsum times the number of lists that hold the document.

    Args:
        rankings: Each best first, with a document once at most.
        weights: One per list, above 0; all 1 where not given.
        constant: Of `rrf`, at least 0: how little the first ranks stand out.

    Raises:
        UsageError: for an unknown method, or weights or a constant out of range.
    """
    _check(method, weights, len(rankings), constant)
    by_list = [_shares(ranking, method, constant) for ranking in rankings]
    scaled = [
        {document: weight * share for document, share in shares.items()}
        for weight, shares in zip(weights or [1.0] * len(rankings), by_list, strict=True)
    ]
    together: dict[str, list[float]] = {}
    for shares in scaled:
        for document, share in shares.items():
            together.setdefault(document, []).append(share)
    # fsum: the order of the lists must not break a tie by its rounding.
    scores = {document: _METHODS[method](shares) for document, shares in together.items()}
    return [Hit(document, scores[document]) for document in ranked(scores)]


@dataclass(frozen=True)
class Source:
    """A retriever in a fusion: its `depth` best hits count, with `weight`."""

    retriever: Retriever
    depth: int = 100
    weight: float = 1.0


class Fused:
    """Several retrievers over the same documents as one.

    Args:
        sources: Each is asked for its depth, whatever k is asked for, so that fewer hits are the top of more.
        method, constant: As in `fuse`.

    Raises:
        UsageError: as `fuse`; when there is no source, or a depth is less than 1.
    """

    def __init__(self, sources: Sequence[Source], *, method: str = "rrf", constant: float = 60) -> None:
        if not sources:
            raise UsageError("there is nothing to fuse", fix="Give at least one retriever.")
        self._sources = tuple(sources)
        self._weights = [source.weight for source in sources]
        _check(method, self._weights, len(sources), constant)
        for source in sources:
            check_k(source.depth)
        self._method = method
        self._constant = constant

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits per query, best first. Raises `UsageError` when k is less than 1."""
        check_k(k)
        found = [source.retriever.search(queries, source.depth) for source in self._sources]
        return [
            fuse(rankings, method=self._method, weights=self._weights, constant=self._constant)[:k]
            for rankings in zip(*found, strict=True)
        ]


_METHODS: dict[str, Callable[[Sequence[float]], float]] = {
    "rrf": math.fsum,
    "combsum": math.fsum,
    "combmnz": lambda shares: len(shares) * math.fsum(shares),
}
METHODS = tuple(_METHODS)


def _shares(ranking: Sequence[Hit], method: str, constant: float) -> _Shares:
    if method == "rrf":
        return {hit.document: 1 / (constant + rank) for rank, hit in enumerate(ranking, start=1)}
    if not ranking:
        return {}
    scores = [hit.score for hit in ranking]
    least, width = min(scores), max(scores) - min(scores)
    return {hit.document: (hit.score - least) / width if width > 0 else 1.0 for hit in ranking}


def _check(method: str, weights: Sequence[float] | None, lists: int, constant: float) -> None:
    if method not in _METHODS:
        raise UsageError(f"there is no fusion '{method}'", fix=f"Known: {', '.join(METHODS)}.")
    if weights is not None and len(weights) != lists:
        raise UsageError(f"there are {len(weights)} weights for {lists} rankings", fix="Give one each.")
    if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"the weights {list(weights)} are not all above 0", fix="Leave out what shall not count.")
    if not math.isfinite(constant) or constant < 0:
        raise UsageError(f"the constant {constant} is out of range", fix="It is at least 0; 60 is usual.")
