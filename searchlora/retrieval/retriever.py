"""The retriever contract, and what all retrievers share: checks, the order of ties, the documents of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.records import Hit
from searchlora.retrieval.field_filter import FieldColumns, FieldFilter


class Retriever(Protocol):
    """Searches a collection of documents."""

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first, with ties ordered as in `searchlora.eval.trec.ranked`.

        A query without a match has no hits. The outer list has the length of `queries`.

        Args:
            filters: One for each query: only documents that pass it are hits, and k of them if there are so many. None:
                every document may be a hit.
        """


def search_filtered(
    retriever: Retriever, queries: Sequence[str], k: int, filters: Sequence[FieldFilter] | None
) -> list[list[Hit]]:
    """The hits of a retriever; one that knows no filters is asked without, where no query has one."""
    return retriever.search(queries, k, filters=filters) if filters and any(filters) else retriever.search(queries, k)


def tie_order(ids: Sequence[str]) -> NDArray[np.intp]:
    """The rank of each document among documents with equal scores: by id in descending order, as trec_eval."""
    order = np.empty(len(ids), dtype=np.intp)
    order[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
    return order


@dataclass(frozen=True)
class IndexedDocuments:
    """The documents of an index of ours, by their rows."""

    ids: Sequence[str]
    order: NDArray[np.intp]
    columns: FieldColumns | None = None  # their fields, for filters; None: searches cannot be filtered

    def hits(self, rows: NDArray[np.intp], scores: NDArray[np.floating[Any]], k: int) -> list[Hit]:
        """The k best of some rows. Scores that are equal in single precision are ties, as in `eval.trec.ranked`.

        `scores`: Of these rows, shape (rows,).
        """
        if not np.isfinite(scores).all():
            raise ValueError("a score is not finite")
        best = np.lexsort((self.order[rows], -scores.astype(np.float32)))[:k]
        return [Hit(self.ids[rows[place]], float(scores[place])) for place in best]


def check_k(k: int) -> None:
    """Raise `UsageError` unless `k` is at least 1."""
    if k < 1:
        raise UsageError(f"{k} hits cannot be requested", fix="Request 1 or more.")
