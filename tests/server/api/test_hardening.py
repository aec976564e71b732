"""Attacks on the HTTP layer: endless heads, ambiguous framing, blocked event loop, greedy clients, moved files."""

from __future__ import annotations

import io
import json
import logging
import shutil
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import httpx
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.models.resolve import resolve
from searchlora.server.api import middleware
from searchlora.server.api.serve import make_server
from tests.factories import first_word, random_adapter
from tests.server.api.serving import asked, made_service, served

CHAT, SCORE, EMBED = "/v1/chat/completions", "/v1/score", "/v1/embeddings"
JSON = {"content-type": "application/json"}
SCORED = {"model": "one", "messages": [{"role": "user", "content": "x"}], "choices": ["a", "b"]}


@contextmanager
def connection(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as connected:
        yield connected


def read_to_end(connected):
    parts = []
    try:
        while part := connected.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def endless(connected, head, piece, limit=20_000_000):
    """Send a piece again and again, and give the bytes until the server stops reading."""
    sent = 0
    try:
        connected.sendall(head)
        while sent < limit:
            sent += connected.send(piece)
    except ConnectionError:
        pass
    return sent


def healthz_latencies(client, stop):
    """The latencies of health probes until `stop` is set, in seconds."""
    took = []
    with httpx.Client(base_url=client.base_url, timeout=30) as prober:
        while not (stop.is_set() and took):
            started = time.monotonic()
            assert prober.get("/healthz").status_code == 200
            took.append(time.monotonic() - started)
            time.sleep(0.01)
    return took


# Request heads


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 65_536),
        (b"GET /", b"a" * 65_536),
        (b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5;", b"1" * 65_536),
    ],
    ids=["header", "request line", "chunk header"],
)
def test_an_endless_request_head_is_refused(client, head, piece):
    with connection(client) as connected:
        assert endless(connected, head, piece) < 20_000_000
    with connection(client) as connected:
        connected.sendall(head + piece + piece[:10_000])
        answers = read_to_end(connected)
    assert b"HTTP/1.1 400 " in answers
    assert client.get("/healthz", headers={"x": "a" * 60_000}).status_code == 200


@pytest.mark.slow
def test_an_idle_connection_outlives_those_that_clients_keep(client):
    """httpx keeps a connection for five seconds. A server that closed it then would lose a request now and then."""
    kept = HTTPConnection(client.base_url.host, client.base_url.port)
    for seconds in (0, 5.5):
        time.sleep(seconds)
        kept.request("GET", "/healthz")
        assert json.loads(kept.getresponse().read())["status"] == "alive"


def test_a_body_that_does_not_arrive_is_408_once(tiny_base, store, monkeypatch):
    monkeypatch.setattr(middleware, "_BODY_SECONDS", 0.3)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 500"
    with served(made_service(tiny_base, store)) as url, httpx.Client(base_url=url) as client:
        with connection(client) as connected:
            connected.sendall(f"{head}\r\n\r\n{{".encode())
            answer = read_to_end(connected)
        assert answer.startswith(b"HTTP/1.1 408 ") and answer.count(b"HTTP/1.1") == 1


def test_requests_beyond_the_limit_of_connections_are_503(tiny_base, store):
    with served(made_service(tiny_base, store, limit_concurrency=3)) as url, httpx.Client(base_url=url) as client:
        idle = [socket.create_connection((client.base_url.host, client.base_url.port)) for _ in range(3)]
        assert client.get("/healthz").status_code == 503
        for each in idle:
            each.close()
        time.sleep(0.1)
        assert client.get("/healthz").status_code == 200


# Time limits


@pytest.mark.slow
def test_a_request_without_the_engine_times_out_at_the_limit(tiny_base, store, monkeypatch):
    service = made_service(tiny_base, store, timeout=0.4)
    blocked = threading.Event()
    monkeypatch.setattr(Store, "list", lambda _: blocked.wait(20))
    try:
        with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
            started = time.monotonic()
            answer = client.get("/v1/models")
            took = time.monotonic() - started
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
            assert 0.35 < took < 2
            assert client.get("/healthz").status_code == 200
    finally:
        blocked.set()


@pytest.mark.slow
def test_a_stalled_stream_ends_at_the_limit(tiny_base, store, monkeypatch):
    service = made_service(tiny_base, store, timeout=0.5)

    def stalls(*_, on_token, **__):
        on_token(0, "hello", None)
        return [Future()]

    monkeypatch.setattr(service.engine, "submit_answers", stalls)
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
        started = time.monotonic()
        answer = client.post(CHAT, json=asked(stream=True))
        assert time.monotonic() - started < 2
    assert answer.status_code == 200
    assert "hello" in answer.text and "deadline_exceeded" in answer.text.strip().splitlines()[-1]


@pytest.mark.slow
def test_work_of_an_abandoned_request_is_cancelled(tiny_base, store, monkeypatch):
    service, submitted = made_service(tiny_base, store, timeout=0.2), []

    def slow(*_, **__):
        time.sleep(0.6)
        submitted.append(Future())
        return submitted

    monkeypatch.setattr(service.engine, "submit_answers", slow)
    with served(service) as url:
        assert httpx.post(f"{url}{CHAT}", json=asked(), timeout=30).status_code == 504
        end = time.monotonic() + 10
        while not (submitted and submitted[0].cancelled()):
            assert time.monotonic() < end
            time.sleep(0.01)


# The event loop


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"model": "one", "messages": [{}] * 240_000}),
        json.dumps(asked() | {f"k{number}": 0 for number in range(70_000)}),
        json.dumps(asked() | {"structured_outputs": {"choice": [1] * 300_000}}),
    ],
    ids=["empty messages", "unknown fields", "no choices"],
)
def test_a_body_with_many_errors_does_not_delay_others(client, body):
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        latencies = pool.submit(healthz_latencies, client, stop)
        started = time.monotonic()
        answer = client.post(CHAT, content=body, headers=JSON)
        took = time.monotonic() - started
        stop.set()
        assert answer.status_code == 400
        assert max(latencies.result()) < 1.0
    assert took < 2


@pytest.mark.slow
def test_slow_stores_and_tokenizers_do_not_delay_others(tiny_base, store, monkeypatch):
    service = made_service(tiny_base, store)
    render, entries, pin = service.engine.renderer.prompt_ids, Store.list, service.engine.pin

    def slowly(function):
        def call(*arguments, **more):
            time.sleep(0.5)
            return function(*arguments, **more)

        return call

    monkeypatch.setattr(service.engine.renderer, "prompt_ids", slowly(render))
    monkeypatch.setattr(service.engine, "pin", slowly(pin))
    monkeypatch.setattr(Store, "list", slowly(entries))
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(4) as pool:
        stop = threading.Event()
        latencies = pool.submit(healthz_latencies, client, stop)
        answers = [
            pool.submit(client.post, CHAT, json=asked()),
            pool.submit(client.post, SCORE, json=SCORED),
            pool.submit(client.get, "/v1/models"),
        ]
        assert [answer.result().status_code for answer in answers] == [200] * 3
        stop.set()
        assert max(latencies.result()) < 0.4


# Clients


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (SCORE, {"choices": ["a", "b"], "choice_suffix": "b" * 8001}),
        (CHAT, {"structured_outputs": {"regex": "a" * 65_537}}),
        (CHAT, {"structured_outputs": {"choice": [str(number) for number in range(20_000)]}}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": "x" * 70_000}}}}),
    ],
    ids=["suffixes", "regex", "choices", "response_format"],
)  # fmt: skip
def test_texts_that_take_long_to_tokenise_or_to_compile_have_a_limit(client, path, more):
    body = asked() if path == CHAT else SCORED
    started = time.monotonic()
    answer = client.post(path, json=body | more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert [*more][-1] in (answer.json()["error"]["param"] or "")
    assert "at most" in answer.json()["error"]["message"]
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_client_cannot_use_more_than_its_share(tiny_base, store, monkeypatch):
    service = made_service(tiny_base, store, api_keys=("first", "second"), per_client=3)
    held = []

    def submit(*_, **__):
        held.append(Future())
        return held[-1:]

    engine_submit = service.engine.submit_answers
    monkeypatch.setattr(service.engine, "submit_answers", submit)
    with served(service) as url, ThreadPoolExecutor(4) as pool:

        def ask(key, path=CHAT, body=None):
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{url}{path}", json=body or asked(max_tokens=1), headers=headers, timeout=30)

        waiting = [pool.submit(ask, "first") for _ in range(3)]
        end = time.monotonic() + 10
        while len(held) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        monkeypatch.setattr(service.engine, "submit_answers", engine_submit)
        refused = ask("first")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert ask("second").status_code == 200
        # A batch counts as its requests.
        assert ask("second", SCORE, {"requests": [SCORED] * 4}).status_code == 429
        assert ask("second", SCORE, {"requests": [SCORED] * 3}).status_code == 200
        assert ask("second", body=asked(n=4, max_tokens=1)).status_code == 429
        assert ask("second", body=asked(n=3, max_tokens=1)).status_code == 200
        for future in held:
            future.set_exception(UsageError("enough"))
        assert {answer.result().status_code for answer in waiting} == {400}
        assert ask("first").status_code == 200


# Files that disappear


@pytest.mark.slow
def test_a_moved_base_or_store_is_not_ready_with_a_reason(tiny_base, encoder_base, tmp_path, caplog):
    shutil.copytree(tiny_base.path, tmp_path / "base")
    shutil.copytree(encoder_base.path, tmp_path / "encoder")
    base, store = resolve(str(tmp_path / "base")), Store(tmp_path / "store")
    random_adapter(store, "one", first_word(tmp_path / "task"), base, tmp_path / "made", seed=1)
    service = made_service(base, store, resolve(str(tmp_path / "encoder")))
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
        for name, request in (
            ("base", (CHAT, asked())),
            ("base", ("/v1/adapters/load", {"adapter": "one"})),
            ("encoder", (EMBED, {"model": "encoder", "input": "x"})),
            ("store", (CHAT, asked())),
            ("store", (SCORE, SCORED)),
            ("store", ("/v1/adapters/load", {"adapter": "one"})),
        ):
            assert client.get("/readyz").status_code == 200
            (tmp_path / name).rename(tmp_path / "moved")
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "storage_unavailable")
            assert client.get("/healthz").status_code == 200
            answer = client.post(request[0], json=request[1])
            assert answer.status_code == 503, name
            assert answer.json()["error"]["code"] == ("base_moved" if name == "base" else "storage_unavailable")
            assert str(tmp_path) not in answer.text
            if name == "store":
                assert client.get("/v1/models").status_code == 503
            (tmp_path / "moved").rename(tmp_path / name)
        assert str(tmp_path / "base") in caplog.text  # the log names what is missing
        assert not any(record.exc_info for record in caplog.records)
        assert client.post(CHAT, json=asked()).status_code == 200


# Logs, headers, proxies


def test_a_path_cannot_forge_a_log_line(tiny_base, store, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("broken")

    monkeypatch.setattr("searchlora.server.api.service.Service.check_store", broken)
    with served(made_service(tiny_base, store)) as url, caplog.at_level(logging.DEBUG):
        assert httpx.get(f"{url}/v1/models/x%0dERROR%20forged%1b[31m").status_code == 500
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("searchlora")]
    assert any("ERROR forged" in message for message in messages)
    assert not any(character in message for message in messages for character in "\n\r\x1b")


class ClosingHandler(logging.StreamHandler):
    """Closes its stream when it is closed, as the handler of absl does with a stream that is not stderr."""

    def close(self):
        self.stream.close()
        super().close()


def test_a_server_leaves_the_log_handlers_of_its_process_open(tiny_base, store):
    """One of a library in use, absl, closes the stream that it writes to: a redirected stderr."""
    with io.StringIO() as stream:
        handler = ClosingHandler(stream)
        make_server(made_service(tiny_base, store))
        assert not stream.closed
        handler.close()


@pytest.mark.parametrize(
    "headers",
    [
        *({"origin": origin} for origin in (
            *("", "null", "http://[", "//HOST", "HOST", "file://HOST", "http://user@HOST", "http://HOST/", "http://HOST#"),
            *("http://HOST, http://evil.example", "http://HOST http://evil.example", "http://HOST@evil.example"),
            *("http://HOST.evil.example", "http://\xad", "http://HOST:x", "http://localhost:9999", "http://evil.example"),
        )),
        *({"host": host} for host in (
            *("", "evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "evil@localhost", "[::1"),
            *("localhost/.evil.test", "localhost?x", "local host", "localhost#a"),
        )),
        *({"sec-fetch-site": site} for site in ("cross-site", "same-site")),
        [("origin", "http://HOST"), ("origin", "http://evil.example")],
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    ],
)  # fmt: skip
def test_foreign_pages_and_names_are_refused_without_keys(client, headers):
    own = client.base_url.netloc
    pairs = headers.items() if isinstance(headers, dict) else headers
    sent = [(name.encode(), value.encode("latin-1").replace(b"HOST", own)) for name, value in pairs]
    answer = client.post(CHAT, json=asked(max_tokens=1), headers=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) in ((403, "foreign_page"), (403, "unknown_host"))


@pytest.mark.slow
def test_only_a_trusted_proxy_names_the_client(tiny_base, store, tmp_path):
    def client_of(trusted):
        log = tmp_path / f"{len(trusted)}.jsonl"
        with served(made_service(tiny_base, store, trusted_proxies=trusted, access_log=str(log))) as url:
            httpx.get(f"{url}/v1/models", headers={"x-forwarded-for": "198.51.100.1"})
        return json.loads(log.read_text().splitlines()[-1])["caller"]

    assert client_of(()) == client_of(("203.0.113.0/24",)) == "127.0.0.1"
    assert client_of(("203.0.113.0/24", "127.0.0.0/8")) == "198.51.100.1"


@pytest.mark.parametrize("proxy", ["*", "", "proxy.example", "300.1.1.1"])
def test_a_trusted_proxy_is_an_address(tiny_base, store, proxy):
    with pytest.raises(UsageError, match="neither an address nor a network"):
        made_service(tiny_base, store, trusted_proxies=(proxy,))
