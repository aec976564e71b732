"""Traces: a real collector's endpoint gets a span for each search and stage, below the caller's, and no query."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from searchlora.errors import EngineError
from searchlora.server.api.traces import Traces
from tests.server.api.serving import made_service, served

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector():
    """The address of an OTLP collector, and the spans that it has got."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()


def attributes(span):
    return {each.key: each.value for each in span.attributes}


@pytest.mark.slow
def test_a_search_is_a_span_below_the_callers_with_a_span_for_each_stage(
    collector, store_of_search, tiny_base, pipeline_files, corpus_of_search
):
    url, spans = collector
    settings = {"pipelines": (str(pipeline_files / "rewritten.yaml"),), "corpora": (corpus_of_search,), "traces": url}
    with served(made_service(tiny_base, store_of_search, **settings)) as address:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        body = {"pipeline": "rewritten", "query": "a secret couch"}
        found = httpx.post(f"{address}/v1/search", json=body, headers=headers, timeout=60).json()
        httpx.post(f"{address}/v1/search", json=body, timeout=60)
    traced = [span for span in spans if span.trace_id.hex() == TRACE]
    (search,) = [span for span in traced if span.name == "search rewritten"]
    stages = [span for span in traced if span is not search]
    assert search.parent_span_id.hex() == CALLER
    assert [span.name for span in stages] == [stage["label"] for stage in found["stages"]]
    assert all(span.parent_span_id == search.span_id for span in stages)
    assert all(search.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in stages)
    assert attributes(stages[0])["gen_ai.request.model"].string_value == "rewriter@2"
    assert attributes(stages[0])["gen_ai.usage.input_tokens"].int_value == found["stages"][0]["tokens"]["prompt"]
    assert attributes(search)["searchlora.hits"].int_value == found["total"]
    assert "secret" not in str(spans)
    assert len({span.trace_id for span in spans}) == 2  # a search without a caller begins a trace


def test_a_collector_that_is_away_holds_nothing_up(store_of_search, tiny_base, pipeline_files, corpus_of_search):
    settings = {"pipelines": (str(pipeline_files / "lexical.yaml"),), "corpora": (corpus_of_search,)}
    settings["traces"] = "http://127.0.0.1:1/v1/traces"
    with served(made_service(tiny_base, store_of_search, **settings)) as address:
        response = httpx.post(f"{address}/v1/search", json={"pipeline": "lexical", "query": "couch"}, timeout=5)
        assert response.status_code == 200


def test_an_address_that_is_none_is_refused():
    with pytest.raises(EngineError, match="is not the address"):
        Traces("localhost:4318")
