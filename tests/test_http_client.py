"""Retries, back-off and time-outs against a real server with scripted failures."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from searchlora import http_client
from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError
from searchlora.http_client import HttpClient, Refused, _Window
from searchlora.retrieval.http import HttpRetriever, engine_defaults
from searchlora.server_url import server_url
from tests.inference.http_server import Reply, answering


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, which are not waited for."""
    waited: list[float] = []

    class Given(threading.Event):
        def wait(self, timeout=None):
            waited.append(timeout)
            return self.is_set()

    monkeypatch.setattr(http_client, "_NEVER", Given())
    return waited


def failing(times: int, reply: Reply):
    """Fails so many times, then answers."""
    left = [reply] * times
    return lambda _: left.pop() if left else Reply({"done": True})


def test_a_proxy_is_not_asked_for_servers_on_this_machine(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(lambda _: Reply("server")) as server, answering(lambda _: Reply("proxy")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            assert HttpClient(url, api_key="secret").get("/x") == "server"
        assert HttpClient("http://shop.example").get("/x") == "proxy"


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status=status) for status in (0, 429, 500, 502, 503, 520, 529)),
        Reply(b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_transient_errors_are_retried(reply):
    with answering(failing(3, reply)) as server:
        assert HttpClient(server.url, retries=3).get("/x") == {"done": True}
        assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 499])
def test_refusals_are_not_retried(status):
    with answering(lambda _: Reply({"error": {"message": "no such model"}}, status)) as server:
        with pytest.raises(
            Refused, match=rf"{server.url}/x: the server refuses with {status} \(no such model\)"
        ) as found:
            HttpClient(server.url).get("/x")
        assert found.value.status == status
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (Reply({"error": "full"}, 429), EngineBusy, r"too busy \(429: full; asked up to 3 times\)"),
        (Reply(b"later", 503), EngineBusy, r"too busy \(503: later"),
        (Reply({"detail": [{"msg": "odd"}]}, 500), EngineError, r"server fails \(500: \[\{\"msg\": \"odd\"\}\]"),
        (Reply(b"", 502), EngineError, r"server fails \(502: Bad Gateway"),
        (Reply(b"", 529), EngineError, r"server fails \(529: no reason given"),
        (Reply(b"no", headers={"Content-Encoding": "gzip"}), EngineError, r"cannot be unpacked \(.*up to 3 times\)"),
        (Reply(status=0), EngineError, r"cannot be reached \(.*asked up to 3 times\).*Check the address"),
        (Reply({"error": {"message": "no\x1b[31m\nERROR\u202e"}}, 500), EngineError, r"\(500: no ?\S* ?ERROR"),
    ],
)
def test_persistent_errors_are_raised_after_the_last_attempt(reply, kind, says):
    with answering(lambda _: reply) as server:
        with pytest.raises(EngineError, match=says) as found:
            HttpClient(server.url, retries=2).post("/x", {})
        assert type(found.value) is kind and str(found.value).isprintable()
        assert len(server.asked) == 3


def test_back_off_doubles_with_jitter(waits):
    with answering(lambda _: Reply(status=503)) as server, pytest.raises(EngineBusy):
        HttpClient(server.url, retries=8).get("/x")
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert len(waits) == 8
    assert all(most / 2 <= waited <= most for waited, most in zip(waits, longest, strict=True))
    assert len({waited / most for waited, most in zip(waits, longest, strict=True)}) == 8


def test_retry_after_is_respected_with_jitter(waits):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    for header, seconds in (("7", 7), ("0.1", 0.1), (soon, 20), ("soon", 0)):
        waits.clear()
        with answering(failing(1, Reply(status=429, headers={"Retry-After": header}))) as server:
            HttpClient(server.url).get("/x")
        rounded = 2 if seconds == 20 else 0  # a date has whole seconds, and the request takes a part of one
        assert seconds + 0.25 - rounded <= waits[0] <= seconds + 0.5
    waits.clear()
    for _ in range(8):
        with answering(failing(1, Reply(status=503, headers={"Retry-After": "5"}))) as server:
            HttpClient(server.url).get("/x")
    assert len(set(waits)) == 8 and all(5 < waited < 6 for waited in waits)
    with answering(lambda _: Reply(status=503, headers={"Retry-After": "3600"})) as server:
        with pytest.raises(EngineBusy):  # beyond the limit
            HttpClient(server.url).get("/x")
        assert (len(server.asked), len(waits)) == (1, 8)


def test_no_request_is_sent_after_cancellation_or_by_a_closed_client():
    given_up = threading.Event()
    given_up.set()
    with answering(lambda _: Reply(status=503)) as server:
        client = HttpClient(server.url)
        with pytest.raises(EngineError, match="given up before it was asked"):
            client.post("/x", {}, cancelled=given_up)
        client.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            client.post("/x", {})
        assert server.asked == []


def test_timed_out_requests_are_not_retried():
    def late(_):
        time.sleep(0.6)
        return Reply({})

    with answering(late) as server:
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            HttpClient(server.url, timeout_s=0.2).get("/x")
        assert len(server.asked) == 1
    with answering(lambda _: Reply({"detail": "took too long"}, 504)) as server:
        with pytest.raises(DeadlineExceeded, match=r"504: took too long"):
            HttpClient(server.url, retries=2).post("/x", {})
        assert len(server.asked) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_values_without_a_json_form_are_not_sent(value):
    with answering(lambda _: Reply({})) as server:
        with pytest.raises(EngineError, match=r"/x, request 3: the request cannot be written as JSON"):
            HttpClient(server.url).post("/x", {"value": value}, request=2)
        assert server.asked == []


def send_slowly(first: bytes, then: bytes):
    """Sends bytes, then others again and again."""

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(first)
        for _ in range(100):
            time.sleep(0.02)
            connection.sendall(then)

    return serve


def read_slowly(connection: socket.socket) -> None:
    """Takes a little of the request again and again."""
    for _ in range(40):
        time.sleep(0.02)
        connection.recv(20_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "characters"),
    [
        (send_slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b" "), 1),
        (send_slowly(b"HTTP/1.1 200 OK\r\nX-Odd: ", b"x"), 1),
        (send_slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), 1),
        (read_slowly, 8_000_000),
    ],
    ids=["body", "header", "interim responses", "request"],
)
def test_no_slow_server_outlasts_the_time_limit(behaviour, characters):
    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            behaviour(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        client = HttpClient(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.post("/x", {"text": "x" * characters})
        assert time.monotonic() - started < 1.2
        thread.join()


@pytest.mark.slow
def test_the_time_limit_begins_when_a_connection_is_free():
    def late(_):
        time.sleep(0.4)
        return Reply({"done": True})

    with answering(late) as server, ThreadPoolExecutor(3) as threads:
        client = HttpClient(server.url, timeout_s=0.7, connections=1)
        assert list(threads.map(client.get, ["/x"] * 3)) == [{"done": True}] * 3


def test_connections_are_closed_with_the_last_reference():
    with answering(lambda _: Reply({})) as server:
        client = HttpClient(server.url)
        client.get("/x")
        inner = client._client
        del client
        end = time.monotonic() + 5
        while not inner.is_closed and time.monotonic() < end:
            time.sleep(0.01)
        assert inner.is_closed


def test_the_key_is_sent_and_never_shown():
    with answering(lambda asked: Reply({"error": {"message": f"bad {asked.headers['Authorization']}"}}, 401)) as server:
        with pytest.raises(Refused, match=r"bad Bearer \*\*\*\)\. Check the API key") as found:
            HttpClient(server.url, api_key="sk-secret").get("/x")
        assert server.asked[0].headers["Authorization"] == "Bearer sk-secret"
        assert "secret" not in f"{found.value!r} {vars(found.value)}"
    key = "sk-" + "A1b2C3d4" * 4  # of which a shortened message shows no part
    reply = Reply({"error": {"message": "x" * 485 + " " + key}}, 401)
    with answering(lambda _: reply) as server, pytest.raises(Refused) as found:
        HttpClient(server.url, api_key=key).get("/x")
    assert "sk-" not in str(found.value)


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-sécret"])
def test_a_key_invalid_in_a_header_is_refused_and_not_shown(key):
    with pytest.raises(EngineError, match="the API key begins or ends") as found:
        HttpClient("http://127.0.0.1:1", api_key=key)
    assert "secret" not in f"{found.value!r} {vars(found.value)}"


def test_redirects_are_not_followed():
    with answering(lambda _: Reply(b"", 307, {"Location": "http://example.org/"})) as server:
        with pytest.raises(Refused, match=r"307 \(it sends on to http://example.org/"):
            HttpClient(server.url).post("/x", {})
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"id": "d\\ud800"}', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        (b'{"id": "d\xed\xa0\x80"}', "half a character|with JSON"),
        (b"<html>\n hello", r"does not answer with JSON \('<html> hello'\)"),
    ],
    ids=["escape", "key", "bytes", "HTML"],
)
def test_a_response_with_half_a_character_or_without_json_is_an_error(body, says):
    with answering(lambda _: Reply(body)) as server:
        with pytest.raises(EngineError, match=says):
            HttpClient(server.url).get("/x")
        HttpClient(server.url).post_only("/x", {})  # where only success counts
    with answering(lambda _: Reply(b'{"id": "\\ud83d\\ude00"}')) as server:
        assert HttpClient(server.url).get("/x") == {"id": "\U0001f600"}


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_does_not_fill_the_memory(monkeypatch, packed):
    monkeypatch.setattr(http_client, "MAX_RESPONSE_BYTES", 100_000)
    content = b"[" + b" " * 5_000_000
    told = Reply(gzip.compress(content), headers={"Content-Encoding": "gzip"}) if packed else Reply(content)
    with answering(lambda _: told) as server, pytest.raises(EngineError, match="more than 100,000 bytes"):
        HttpClient(server.url).post("/x", {})
    assert len(server.asked) == 1


def test_nested_answers_and_odd_headers_are_errors_in_words(waits):
    for status, kind in ((200, EngineError), (400, Refused), (500, EngineError)):
        with answering(lambda _, status=status: Reply(b"[" * 100_000, status)) as server, pytest.raises(kind):
            HttpClient(server.url, retries=0).post("/x", {})
    for value in ("nan", "-nan", "Fri, 99 Foo 99999 99:99:99 +9999"):
        busy = Reply(status=503, headers={"Retry-After": value})
        with answering(failing(1, busy)) as server:
            assert HttpClient(server.url).post("/x", {}) == {"done": True}
    assert all(0 < wait < 1 for wait in waits)


# The number of requests in flight


def answered(window, seconds, *, refused=False, times=1):
    for _ in range(times):
        window._done(seconds, refused)


def places(window):
    """Requests that the window lets through when none is in flight."""
    return window._free._value


def test_the_window_grows_from_16_while_answers_take_an_eighth_of_the_time_limit():
    window, sizes = _Window(256, 8.0), []
    assert window.size == places(window) == 16
    while window.size < 256:
        answered(window, 1.0, times=window.size)
        sizes.append(window.size)
    assert sizes == [32, 64, 128, 256]
    answered(window, 0.1, times=50)
    assert window.size == 256
    assert (_Window(3, 8.0).size, _Window(1, 8.0).size) == (3, 1)


def test_the_window_holds_up_to_a_quarter_of_the_time_limit_shrinks_beyond_and_halves_after_a_refusal():
    window, sizes = _Window(256, 8.0), []
    for seconds, refused, times in (
        (0.1, False, 40),
        (1.5, False, 99),
        (2.5, False, 10),
        (0.1, True, 1),
        (2.5, False, 99),
    ):
        answered(window, seconds, refused=refused, times=times)
        sizes.append(window.size)
    assert sizes == [56, 56, 46, 23, 16]


def test_a_window_that_shrank_lets_no_more_through_than_its_size():
    """Places that are in use are given back only as far as the smaller window has room."""

    async def most_at_once():
        window, under_way, most = _Window(64, 8.0), 0, 0
        answered(window, 0.1, times=48)
        window._free = asyncio.Semaphore(64)
        release = asyncio.Event()

        async def first():
            async with window.request() as request:
                await release.wait()
                request.is_refused = True

        async def later():
            nonlocal under_way, most
            async with window.request():
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0)
                under_way -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(first())
            await asyncio.sleep(0)
            release.set()
            await asyncio.sleep(0)
            window._fast = -1.0  # so that it does not grow again
            for _ in range(200):
                group.create_task(later())
        return window.size, most

    size, most = asyncio.run(most_at_once())
    assert size == 16
    assert most <= 16


# An address of a server is parsed in one place: a malformed one is one error, whoever would ask it

MALFORMED = [
    *("http://[", "http://]", "http://[::1", "http://[zz]", "http://me:pw@[::1", "http://[::1]:70000", "http://[::1]x"),
    *("http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://127.0.0.1:0", "http://h:a", "http://h:\u0663"),
    *("", "http://h:1:2", "http:", "http://", "http:///x", "http://:80", "//h", "h:80", "ftp://h", "data:,x"),
    *("http://a b", "http://a\tb", "http://a\nb", "http://a\0b", "http://\ud800", "http://h/\udfff", "http://\u200b"),
    *("http://a..b", "http://.", "http://" + "a" * 64, "http://" + "a." * 200, "http://xn--a", "http://xn--\u0fff"),
    *("http://%00", "http://a%20b", "http://a\\b", "http://256.256.256.256", "http://\u2460", "http://h/" + "a" * 5000),
]  # fmt: skip
WELL_FORMED = [
    *("http://localhost", "https://search.example.org:9200/", "http://127.0.0.1:8000/v1", "http://[::1]:8000"),
    *("http://my_service:80", "http://bücher.example", "http://xn--bcher-kva.example", "http://h.", "HTTP://h"),
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_address_is_refused_wherever_it_is_given(url):
    with pytest.raises(EngineError, match=r"is not the address of a server|holds a password") as refused:
        server_url(url)
    assert len(str(refused.value)) < 1000 and "pw" not in str(refused.value)
    with pytest.raises(EngineError):
        HttpClient(url)
    with pytest.raises(EngineError):
        HttpRetriever(url, *engine_defaults("opensearch"))


@pytest.mark.parametrize("url", WELL_FORMED)
def test_a_well_formed_address_is_taken(url):
    assert server_url(url).hostname
    HttpClient(url).close()


def test_an_address_has_no_query_and_may_end_with_the_version_of_the_api():
    with pytest.raises(EngineError, match=r"is not .*Write it as in http://localhost:8000"):
        HttpClient("http://h/?a=1")
    assert {HttpClient(f"http://host:1{end}").url for end in ("", "/", "/v1", "/v1/")} == {"http://host:1"}


def test_the_address_of_each_search_engine_is_parsed_there():
    from searchlora.retrieval.milvus import Milvus
    from searchlora.retrieval.opensearch import OpenSearch
    from searchlora.retrieval.postgres import Postgres

    for url in MALFORMED:
        for engine in (OpenSearch, Milvus):
            with pytest.raises(EngineError):
                engine(url)
    for host in ("\ud800", "a..b", "a" * 64, ".", "\u200b", "h/\udfff", "xn--\u0fff", "a\0b"):
        with pytest.raises(EngineError, match="is not the address of a database"):
            Postgres(f"postgresql://{host}")
