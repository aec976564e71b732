"""The queries that went wrong most often, for people and teachers to label first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchlora.eval.text_identity import normalised
from searchlora.events.export import OUTCOME, UNSERVED, Search, is_answered, user_of
from searchlora.files import atomic_text, json_line

#: Flags of a stage that say that it went wrong.
_FLAGS = ("invalid", "skipped", "undecided")


@dataclass
class FailedQuery:
    """A query, in the way in which it was first typed."""

    query: str
    searches: int = 0
    failed: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """A row of a file for `data label`."""
        counts = {"searches": self.searches, "failed_users": len(self.failed)}
        return {"query": self.query, **counts, "reasons": dict(self.reasons.most_common())}


def failed_queries(searches: Iterable[Search], top: int | None = None) -> list[FailedQuery]:
    """The queries without hits or an answer, and those for which an output was invalid, skipped or undecided, or a
    version failed.

    Queries that differ in case, punctuation or spacing only are one.

    Examples:
        >>> stage = {"label": "shop-rewriter@3", "flags": ["invalid: is empty"]}
        >>> event = {"id": "1", "query": "Red couch", "hits": [], "stages": [stage]}
        >>> [query.to_json()["reasons"] for query in failed_queries([(event, [])])]
        [{'no hits': 1, 'invalid: shop-rewriter@3': 1}]
    """
    found: dict[str, FailedQuery] = {}
    for event, _ in searches:
        query = found.setdefault(normalised(event["query"]), FailedQuery(event["query"]))
        query.searches += 1
        reasons = [event[OUTCOME]] if not is_answered(event) else ["no hits"] if not event["hits"] else []
        reasons += [f"{how}: {version}" for version, how in event.get(UNSERVED, {}).items()]
        for stage in event["stages"]:
            flags = {flag.partition(":")[0] for flag in stage["flags"]}
            reasons += [f"{flag}: {stage['label']}" for flag in _FLAGS if flag in flags]
        if reasons:
            query.reasons.update(reasons)
            query.failed.add(user_of(event))
    failed = [query for query in found.values() if query.failed]
    return sorted(failed, key=lambda query: (-len(query.failed), query.query))[:top]


def write_failed(queries: Iterable[FailedQuery], out: Path) -> None:
    """Write the queries as JSONL, atomically. Raises `DataError`."""
    with atomic_text(out) as file:
        file.writelines(json_line(query.to_json()) for query in queries)
