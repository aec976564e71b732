"""Traces by OpenTelemetry: a span for each search, and one for each of its stages, below the caller's `traceparent`.

Spans name pipelines, stages and versions. Queries and outputs are left out: they may hold personal data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from searchlora.server_url import server_url

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_NANOSECONDS = 1_000_000


class Traces:
    """Sends spans to a collector, in batches and in a thread of their own. Thread-safe.

    Args:
        url: The collector's address for OTLP over HTTP, such as `http://localhost:4318/v1/traces`.
        exporter: Where spans go instead, for tests.

    Raises:
        EngineError: for an address that is none.
    """

    def __init__(self, url: str, exporter: SpanExporter | None = None) -> None:
        server_url(url, example="http://localhost:4318/v1/traces")
        self._provider = TracerProvider(resource=Resource.create({"service.name": "searchlora"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("searchlora")

    def search(self, found: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Record a search that has just been answered, with the stages that it went through.

        Args:
            found: The body of the answer.
            headers: Of the request, with the caller's `traceparent`, if there is one.
        """
        end = time.time_ns()
        begin = end - int(found["milliseconds"] * _NANOSECONDS)
        parent = TraceContextTextMapPropagator().extract(dict(headers))
        attributes = {"searchlora.pipeline": found["pipeline"], "searchlora.hits": found["total"]}
        span = self._tracer.start_span(
            f"search {found['pipeline']}", parent, SpanKind.SERVER, attributes=attributes, start_time=begin
        )
        inner = set_span_in_context(span)
        for stage in found["stages"]:
            done = min(begin + int(stage["milliseconds"] * _NANOSECONDS), end)
            child = self._tracer.start_span(stage["label"], inner, attributes=_attributes(stage), start_time=begin)
            if failed := [flag for flag in stage["flags"] if flag.startswith(("invalid", "skipped"))]:
                child.set_status(StatusCode.ERROR, failed[0].partition(":")[0])
            child.end(done)
            begin = done
        span.end(end)

    def close(self) -> None:
        """Send what waits, and stop."""
        self._provider.shutdown()


def _attributes(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a stage; those of generated tokens have the names of OpenTelemetry's conventions for GenAI."""
    attributes: dict[str, Any] = {"searchlora.stage": stage["kind"]}
    if stage.get("adapter"):
        attributes["gen_ai.request.model"] = stage["adapter"]
    if tokens := stage.get("tokens"):
        attributes |= {"gen_ai.usage.input_tokens": tokens["prompt"], "gen_ai.usage.output_tokens": tokens["output"]}
    if flags := [flag.partition(":")[0] for flag in stage["flags"]]:
        attributes["searchlora.flags"] = flags
    return attributes
