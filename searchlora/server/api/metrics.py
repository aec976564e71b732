"""Prometheus metrics: counters of the server, and gauges and counters read from the engine."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.inference.engine import ChoiceScores, Completion
from searchlora.inference.scheduling.engine_core import Stats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, base: str = "base", price_prompt: float = 0.0, price_output: float = 0.0) -> None:
        self._base = base
        self._prices = {"prompt": price_prompt, "embedded": price_prompt}
        self._prices |= {"completion": price_output, "scored": price_output}
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "searchlora_requests", "Requests, by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "searchlora_request_seconds",
            "From a request's first byte to the last byte of its response.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "searchlora_time_to_first_token_seconds",
            "From a request to its first token; streamed answers only.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "searchlora_tokens",
            "Tokens of completed requests and searches, by kind: prompt, completion, scored, embedded. Without those of"
            " shadow searches and explanations.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.cost = Counter(
            "searchlora_cost",
            "What the tokens cost at --price-prompt and --price-output, in their currency.",
            ["model"],
            registry=self.registry,
        )
        self.invalid = Counter(
            "searchlora_invalid_outputs",
            "Completions under a grammar that were truncated.",
            ["model"],
            registry=self.registry,
        )

        self.feedback = Counter(
            "searchlora_feedback",
            "Clicks, carts, purchases and grades, by outcome: new, repeated, forged, late.",
            ["action", "outcome"],
            registry=self.registry,
        )
        self.dropped_searches = Counter(
            "searchlora_events_dropped",
            "Searches that were not recorded, since too many waited to be written.",
            registry=self.registry,
        )
        self.shadow = Counter(
            "searchlora_shadow_searches",
            "Shadow searches, by outcome: done, same (no candidate), interrupted, failed, dropped.",
            ["outcome"],
            registry=self.registry,
        )
        self.searches = Counter(
            "searchlora_searches",
            "Searches, by how they ended: ok, fell back (another version answered), failed, timed out, cancelled.",
            ["pipeline", "outcome"],
            registry=self.registry,
        )
        self.unserved = Counter(
            "searchlora_unserved",
            "Searches in which a version failed, so that another one answered, or none, by how: failed, timed out,"
            " cancelled.",
            ["version", "outcome"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "searchlora_stage_seconds",
            "Time of a stage of a search, by pipeline and by the version of its adapter, or its kind.",
            ["pipeline", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_flags = Counter(
            "searchlora_stage_flags",
            "What happened to the outputs of a stage: invalid, skipped, undecided or cached.",
            ["pipeline", "stage", "flag"],
            registry=self.registry,
        )
        self.no_hits = Counter(
            "searchlora_searches_without_hits", "Searches without a hit.", ["pipeline"], registry=self.registry
        )
        self.undecided = Counter(
            "searchlora_undecided",
            "Answers that were not sure enough to be acted on, by adapter.",
            ["model"],
            registry=self.registry,
        )

    def stage(self, pipeline: str, row: Mapping[str, Any]) -> None:
        """Count a stage of a search, a row of its trace.

        Reasons of flags and settings of stages, such as the weights of a request, are left out: there are many.
        """
        stage = row.get("adapter") or row["kind"]
        self.stage_seconds.labels(pipeline, stage).observe(row["milliseconds"] / 1000)
        model = row.get("adapter") or self._base
        for request in row.get("requests", ()):
            if "cached" not in request:
                self.count_tokens(model, "prompt", request["tokens"]["prompt"])
                kind = "scored" if "log_probabilities" in request else "completion"
                self.count_tokens(model, kind, request["tokens"]["output"])
        for flag in {each.partition(":")[0] for each in row["flags"]}:
            self.stage_flags.labels(pipeline, stage, flag).inc()

    def count_tokens(self, model: str, kind: str, n: int) -> None:
        """Count tokens of a model, and what they cost."""
        self.tokens.labels(model, kind).inc(n)
        if price := self._prices[kind]:
            self.cost.labels(model).inc(n * price / 1e6)

    def completed(self, model: str, answers: Sequence[Completion], *, invalid: int = 0) -> None:
        """Count the answers to one prompt; `invalid` of them were truncated under a grammar."""
        self.count_tokens(model, "prompt", answers[0].prompt_tokens)
        self.count_tokens(model, "completion", sum(each.completion_tokens for each in answers))
        self.invalid.labels(model).inc(invalid)

    def scored(self, model: str, scores: ChoiceScores) -> None:
        """Count the tokens of a scored request."""
        self.count_tokens(model, "prompt", scores.prompt_tokens)
        self.count_tokens(model, "scored", scores.scored_tokens)

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Read an engine's statistics at every scrape."""
        self.registry.register(_EngineCollector(stats))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        stats = self._stats()
        yield GaugeMetricFamily("searchlora_requests_waiting", "Requests in the engine's queue.", stats.waiting)
        yield GaugeMetricFamily("searchlora_rows_writing", "Answers being generated now.", stats.generating)
        yield GaugeMetricFamily("searchlora_adapters_loaded", "Adapters loaded into slots.", len(stats.loaded))
        yield SummaryMetricFamily(
            "searchlora_batch_size",
            "Rows per decode step.",
            count_value=stats.decode_steps,
            sum_value=stats.decoded_rows,
        )
        for name, help_text, value in (
            ("engine_prompt_tokens", "Prompt tokens, computed or reused.", stats.prompt_tokens),
            (
                "engine_prompt_tokens_reused",
                "Prompt tokens reused from the prefix cache.",
                stats.cached_prompt_tokens,
            ),
            (
                "engine_tokens_written",
                "Generated tokens, including those of cancelled requests.",
                stats.generated_tokens,
            ),
            ("engine_requests_scored", "Requests whose choices were scored.", stats.scored_requests),
            ("engine_requests_refused", "Requests refused because the queue was full.", stats.refused),
            ("slot_hits", "Requests whose adapter was loaded.", stats.slot_hits),
            ("slot_misses", "Requests whose adapter had to be loaded.", stats.slot_misses),
            ("slot_evictions", "Adapters evicted to free a slot.", stats.slot_evictions),
        ):
            yield CounterMetricFamily(f"searchlora_{name}", help_text, value)


class RequestMetrics:
    """ASGI middleware: counts, times and logs every request."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], access_log: logging.Logger | None = None
    ) -> None:
        self._app, self._metrics, self._paths, self._access_log = app, metrics, paths, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def tracked_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path = self._label(scope["path"])
        started = time.monotonic()
        try:
            await self._app(scope, receive, tracked_send)
        finally:
            self._metrics.requests.labels(path, status).inc()
            seconds = time.monotonic() - started
            self._metrics.seconds.labels(path).observe(seconds)
            if self._access_log is not None:
                self._access_log.info("%s", json.dumps(_entry(scope, status, seconds)))

    def _label(self, path: str) -> str:
        if path in self._paths:
            return path
        return next((f"{parent}/NAME" for parent in self._paths if path.startswith(f"{parent}/")), "other")


def _entry(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """A line of the access log: ASCII, so that nothing in a request can forge another. No query, header or body."""
    client = scope.get("client") or ("unknown",)
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "caller": scope.get("state", {}).get("client_id", client[0]),
        "method": scope["method"][:20],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(seconds, 6),
    }
