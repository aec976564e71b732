"""What Prometheus reads: counts of the server's own, and the engine's as they stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.inference.engine import Completion
from searchlora.inference.scheduling.engine_core import Stats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The measures of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "searchlora_requests", "Requests answered or refused.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "searchlora_request_seconds",
            "From a request's first byte to its answer's last.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "searchlora_time_to_first_token_seconds",
            "From a request to the first token of its answer, where answers are streamed.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "searchlora_tokens",
            "Tokens of answered requests, by kind: prompt, completion, scored, embedded.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.invalid = Counter(
            "searchlora_invalid_outputs",
            "Completions under a grammar that were cut before they fitted it.",
            ["model"],
            registry=self.registry,
        )

    def completed(self, model: str, completion: Completion, *, invalid: bool) -> None:
        """Count a completion; `invalid` where it does not fit the grammar that it was asked under."""
        self.tokens.labels(model, "prompt").inc(completion.prompt_tokens)
        self.tokens.labels(model, "completion").inc(completion.completion_tokens)
        self.invalid.labels(model).inc(invalid)

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Read an engine's counts whenever somebody asks."""
        self.registry.register(_EngineCounts(stats))

    def text(self) -> bytes:
        """All measures in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCounts(Collector):
    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The measures."""
        stats = self._stats()
        yield GaugeMetricFamily("searchlora_requests_waiting", "Requests in the engine's queue.", stats.waiting)
        yield GaugeMetricFamily("searchlora_rows_writing", "Answers being written now.", stats.writing)
        yield GaugeMetricFamily("searchlora_adapters_loaded", "Adapters in slots.", len(stats.loaded))
        yield SummaryMetricFamily(
            "searchlora_batch_size",
            "Rows of each step in which all rows that write wrote a token.",
            count_value=stats.steps,
            sum_value=stats.rows_stepped,
        )
        for name, about, value in (
            ("engine_prompt_tokens", "Tokens of prompts that were read.", stats.prompt_tokens),
            (
                "engine_prompt_tokens_reused",
                "Those of them that were kept from earlier ones.",
                stats.prompt_tokens_reused,
            ),
            ("engine_tokens_written", "Tokens written, those of answers given up among them.", stats.tokens_written),
            ("engine_requests_scored", "Requests whose choices were scored.", stats.scored),
            ("engine_requests_refused", "Requests that found no room in the queue.", stats.refused),
            ("slot_hits", "Adapters found loaded.", stats.slot_hits),
            ("slot_misses", "Adapters loaded because they were not.", stats.slot_misses),
            ("slot_evictions", "Adapters put out to make room.", stats.slot_evictions),
        ):
            yield CounterMetricFamily(f"searchlora_{name}", about, value)


class Counted:
    """ASGI middleware: counts and times every request.

    Args:
        paths: That are counted under their names; what lies below one of them is counted as "PATH/NAME", others as
            "other".
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path = self._name(scope["path"])
        started = time.monotonic()
        try:
            await self._app(scope, receive, send_and_see)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)

    def _name(self, path: str) -> str:
        if path in self._paths:
            return path
        return next((f"{above}/NAME" for above in self._paths if path.startswith(f"{above}/")), "other")
