"""What every retriever does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from searchlora.records import Hit


class Retriever(Protocol):
    """Finds documents for queries."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits per query, best first, ties ordered as in `searchlora.eval.trec.ranked`.

        A query that matches nothing has no hits. The outer list is as long as `queries`.
        """
