"""Shadow searches: a candidate version searches again what was asked live, after the answer and while nobody waits.

A shadow search runs only while the server has no request in progress. A request that arrives withdraws it, and it is
tried again later. Its hits are never served: they are recorded beside those of the live search.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchlora.errors import DeadlineExceeded
from searchlora.events.export import OUTCOME
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.server.api.client_engine import ClientEngine
from searchlora.server.api.search_execution import SearchJob, search_event, unanswered_event
from searchlora.time_limit import within_budget

if TYPE_CHECKING:
    from searchlora.server.api.search_schemas import SearchRequest
    from searchlora.server.api.service import Service

_LOG = logging.getLogger(__name__)

#: Searches that wait at most; the oldest are dropped, since the newest say most about today.
_CAPACITY = 256

#: How often a search that live requests have interrupted is tried.
_TRIES = 5

#: Seconds without a live request before a shadow search begins: between two requests of one client there are few.
_QUIET_S = 0.02

_CLIENT = "shadow"


@dataclass
class _Waiting:
    """A live search that a candidate will search again; `versions` are those of the adapters that answered it."""

    search: str
    body: SearchRequest
    versions: Collection[str]
    tries: int = 0


class ShadowSearches:
    """Searches of a candidate beside those of the live versions. Thread-safe."""

    def __init__(self, service: Service, alias: str, rows_per_minute: float | None = None) -> None:
        self._service, self._alias, self._rows_per_minute = service, alias, rows_per_minute
        self._waiting: deque[_Waiting] = deque(maxlen=_CAPACITY)
        self._changed = threading.Condition()
        self._live = 0
        self._quiet_since = time.monotonic()
        self._running: SearchJob | None = None
        self._closed = False
        self._rows = rows_per_minute or 0.0  # that may be used now; negative after an expensive search
        self._thread = threading.Thread(target=self._run, name="searchlora-shadow", daemon=True)
        self._thread.start()

    def offer(self, search: str, body: SearchRequest, versions: Collection[str]) -> None:
        """Search again what a recorded live search has asked, some time later; never waits."""
        with self._changed:
            if len(self._waiting) == _CAPACITY:
                self._service.metrics.shadow.labels("dropped").inc()
            self._waiting.append(_Waiting(search, body, versions))
            self._changed.notify()

    def live_began(self) -> None:
        """A live request has arrived: withdraw the shadow search that runs."""
        with self._changed:
            self._live += 1
            running = self._running
        if running is not None:
            running.cancel()

    def live_ended(self) -> None:
        """A live request is done."""
        with self._changed:
            self._live -= 1
            self._quiet_since = time.monotonic()
            self._changed.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Stop, without searching what waits."""
        with self._changed:
            self._closed = True
            running = self._running
            self._changed.notify()
        if running is not None:
            running.cancel()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            try:
                outcome = self._searched(waiting)
            except Exception:
                _LOG.exception("a shadow search failed")
                outcome = "failed"
            with self._changed:
                self._running = None
                if outcome == "interrupted" and waiting.tries < _TRIES and not self._closed:
                    if len(self._waiting) != self._waiting.maxlen:
                        self._waiting.appendleft(waiting)
                        continue
                    outcome = "dropped"  # it is the oldest
            self._service.metrics.shadow.labels(outcome).inc()

    def _next(self) -> _Waiting | None:
        """The next search, once the server is idle and the budget allows it; None when closed."""
        refilled = time.monotonic()
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._rows_per_minute is not None:
                    self._rows = min(self._rows_per_minute, self._rows + (now - refilled) * self._rows_per_minute / 60)
                    refilled = now
                quiet = _QUIET_S - (now - self._quiet_since)
                if not self._waiting or self._live:
                    self._changed.wait(1.0)
                elif quiet > 0:
                    self._changed.wait(quiet)
                elif self._rows_per_minute is not None and self._rows < 1:
                    self._changed.wait(0.1)
                else:
                    return self._waiting.popleft()
        return None

    def _searched(self, waiting: _Waiting) -> str:
        """`done`, `same` without a candidate, `interrupted`, or `failed`."""
        service, body = self._service, waiting.body
        waiting.tries += 1
        candidates = service.pipelines.candidates(body.pipeline, self._alias)
        candidates = {
            slot: version
            for slot, version in candidates.items()
            if slot not in body.slots and version not in waiting.versions
        }
        if not candidates:
            return "same"
        update = {"slots": {**body.slots, **candidates}, "record": False, "trace": False, "stream": False}
        engine = _CountingEngine(service, _CLIENT)
        job = SearchJob(service, body.model_copy(update=update), _CLIENT, engine=engine)
        with self._changed:
            if self._live:
                return "interrupted"
            self._running = job
        outcome, began = "ok", time.monotonic()
        try:
            event = search_event(job.body, within_budget(job.run, service.config.timeout, 1, "shadow search"))
        except Exception as error:
            if job.cancelled:
                return "interrupted"
            job.cancel()
            _LOG.error("a shadow search of %s failed: %r", ", ".join(candidates.values()), error)
            outcome = "timed out" if isinstance(error, DeadlineExceeded) else "failed"
            event = unanswered_event(job.body, time.monotonic() - began)
        finally:
            with self._changed:
                self._rows -= engine.rows
        if service.events is not None:
            service.events.shadow(waiting.search, candidates, event | {OUTCOME: outcome})
        return "done" if outcome == "ok" else "failed"


class _CountingEngine(ClientEngine):
    """The engine with the number of requests that it was asked."""

    rows = 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.rows += len(requests)
        return super().generate(requests)

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        self.rows += len(requests)
        return super().score(requests, choices, prune_margin=prune_margin)
