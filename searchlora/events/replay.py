"""Recorded searches sent to a server again, and what has changed: a new version, index or machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from searchlora.errors import DataError, SearchloraError
from searchlora.events.export import Search, is_answered
from searchlora.events.shadow_figures import differs
from searchlora.events.summary import Ratio, ratio_by_user
from searchlora.http_client import HttpClient


@dataclass(frozen=True)
class Replayed:
    """One search that was sent again."""

    event: Mapping[str, Any]
    before: Sequence[str]
    after: Sequence[str]
    before_ms: float
    after_ms: float
    error: str | None = None  # why it failed; None if it did not

    @property
    def changed(self) -> bool:
        """Whether the first hits are other documents now."""
        return differs(self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        """A row for a file."""
        row = {
            "id": self.event["id"],
            "query": self.event["query"],
            "before": list(self.before),
            "after": list(self.after),
        }
        times = {"before_ms": self.before_ms, "after_ms": self.after_ms}
        return row | times | ({"error": self.error} if self.error is not None else {"changed": self.changed})


@dataclass(frozen=True)
class ReplayFigures:
    """Figures over searches that were sent again and did not fail."""

    n: int
    failed: int
    changed: Ratio
    before_ms: float
    after_ms: float


def replay(
    searches: Iterable[Search],
    server: HttpClient,
    *,
    pipeline: str | None = None,
    slots: Mapping[str, str] | None = None,
    concurrency: int = 4,
    speed: float | None = None,
) -> Iterator[Replayed]:
    """Send searches to a server again, in their order, but those that failed; the server does not record them.

    `slots`: Slot -> `off`, `base` or a version, in place of those of the search: a candidate to be tried.
    """
    rows = (search for search in searches if is_answered(search[0]))
    began, first = time.monotonic(), None
    with ThreadPoolExecutor(concurrency) as threads:
        while batch := list(islice(rows, 8 * concurrency)):
            pending = []
            for event, _ in batch:
                first = event["time"] if first is None else first
                if speed is not None:
                    time.sleep(max(0.0, began + (event["time"] - first) / 1000 / speed - time.monotonic()))
                pending.append(threads.submit(_sent, server, event, pipeline, slots or {}))
            for future in pending:
                yield future.result()


def replay_figures(rows: Sequence[Replayed]) -> ReplayFigures:
    """Figures of a replay."""
    done = [row for row in rows if row.error is None]
    if not done:
        raise DataError(f"every search failed: {rows[0].error}" if rows else "there is no search to send again")
    return ReplayFigures(
        n=len(done),
        failed=len(rows) - len(done),
        changed=ratio_by_user((row.event, row.changed) for row in done),
        before_ms=float(np.median([row.before_ms for row in done])),
        after_ms=float(np.median([row.after_ms for row in done])),
    )


def _sent(server: HttpClient, event: Mapping[str, Any], pipeline: str | None, slots: Mapping[str, str]) -> Replayed:
    same = pipeline is None or pipeline == event["pipeline"]
    body = {
        "pipeline": pipeline or event["pipeline"],
        "query": event["query"],
        "fields": event.get("fields", {}),
        "slots": {**(event.get("slots", {}) if same else {}), **slots},
        "weights": event.get("weights", []) if same else [],
        "top": max(len(event["hits"]), 1),
        "record": False,
    }
    after: list[str] = []
    milliseconds, error = 0.0, None
    try:
        found = server.post("/v1/search", body)
        after, milliseconds = [hit["document"] for hit in found["hits"]], found["milliseconds"]
    except SearchloraError as refused:
        error = str(refused)
    before = event["hits"]
    return Replayed(event, before, after, event["milliseconds"], milliseconds, error)
