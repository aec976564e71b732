"""The retriever contract, and the checks and the tie order that all retrievers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.records import Hit


class Retriever(Protocol):
    """Searches a collection of documents."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits per query, best first, with ties ordered as in `searchlora.eval.trec.ranked`.

        A query without a match has no hits. The outer list has the length of `queries`.
        """


def tie_order(ids: Sequence[str]) -> NDArray[np.intp]:
    """The rank of each document among documents with equal scores: by id in descending order, as trec_eval.

    Examples:
        >>> tie_order(["a", "c", "b"]).tolist()
        [2, 0, 1]
    """
    order = np.empty(len(ids), dtype=np.intp)
    order[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
    return order


def check_k(k: int) -> None:
    """Raise `UsageError` unless `k` is at least 1."""
    if k < 1:
        raise UsageError(f"{k} hits cannot be requested", fix="Request 1 or more.")
