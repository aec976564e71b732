"""Retries, back-off and time-outs, against a real server that fails as it is told."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError
from searchlora.inference.remote import http
from searchlora.inference.remote.http import Refused, Server
from tests.inference.answering import Told, answering


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, which are not waited for."""
    waited: list[float] = []

    class Given(threading.Event):
        def wait(self, timeout=None):
            waited.append(timeout)
            return self.is_set()

    monkeypatch.setattr(http, "_NEVER", Given())
    return waited


def failing(times: int, told: Told):
    """Fails so many times, then answers."""
    left = [told] * times
    return lambda _: left.pop() if left else Told({"done": True})


@pytest.mark.parametrize(
    "told", [Told(status=0), Told(status=429), Told(status=500), Told(status=502), Told(status=503)]
)
def test_what_may_pass_is_tried_again(told):
    with answering(failing(3, told)) as server:
        assert Server(server.url, retries=3).get("/x") == {"done": True}
        assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_what_was_refused_is_not_tried_again(status):
    with answering(lambda _: Told({"error": {"message": "no such model"}}, status)) as server:
        with pytest.raises(
            Refused, match=rf"{server.url}/x: the server refuses with {status} \(no such model\)"
        ) as found:
            Server(server.url).get("/x")
        assert found.value.status == status
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        (Told({"error": "full"}, 429), EngineBusy, r"too busy \(429: full; asked up to 3 times\)"),
        (Told(b"later", 503), EngineBusy, r"too busy \(503: later"),
        (Told({"detail": "took too long"}, 504), DeadlineExceeded, r"not done in time \(504: took too long"),
        (Told({"detail": [{"msg": "odd"}]}, 500), EngineError, r"server fails \(500: \[\{\"msg\": \"odd\"\}\]"),
        (Told(b"", 502), EngineError, r"server fails \(502: Bad Gateway"),
        (Told(status=0), EngineError, r"cannot be reached \(.*asked up to 3 times\)"),
    ],
)
def test_what_stays_so_is_told_after_the_last_attempt(told, kind, says):
    with answering(lambda _: told) as server:
        with pytest.raises(EngineError, match=says) as found:
            Server(server.url, retries=2).post("/x", {})
        assert type(found.value) is kind
        assert len(server.asked) == 3


def test_waits_double_and_are_cut_by_chance(waits):
    with answering(lambda _: Told(status=503)) as server, pytest.raises(EngineBusy):
        Server(server.url, retries=8).get("/x")
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert len(waits) == 8
    assert all(most / 2 <= waited <= most for waited, most in zip(waits, longest, strict=True))
    assert len({waited / most for waited, most in zip(waits, longest, strict=True)}) == 8


def test_a_server_that_says_how_long_to_wait_is_believed(waits):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    for asked, expected in (("7", 7), ("0.1", 0.5), (soon, 20), ("soon", 0.5)):
        waits.clear()
        with answering(failing(1, Told(status=429, headers={"Retry-After": asked}))) as server:
            Server(server.url).get("/x")
        assert waits[0] == pytest.approx(expected, rel=0.51 if expected < 1 else 0.1)


def test_a_server_that_wants_too_long_a_wait_is_not_waited_for(waits):
    with answering(lambda _: Told(status=503, headers={"Retry-After": "3600"})) as server:
        with pytest.raises(EngineBusy):
            Server(server.url).get("/x")
        assert (len(server.asked), waits) == (1, [])


def test_nothing_is_tried_again_once_it_was_given_up():
    given_up = threading.Event()
    given_up.set()
    with answering(lambda _: Told(status=503)) as server:
        with pytest.raises(EngineBusy):
            Server(server.url).post("/x", {}, given_up)
        assert len(server.asked) == 1


def test_an_answer_that_does_not_come_in_time_is_not_asked_for_again():
    def late(_):
        time.sleep(0.6)
        return Told({})

    with answering(late) as server:
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            Server(server.url, timeout_s=0.2).get("/x")
        assert len(server.asked) == 1


def test_an_answer_that_comes_in_drops_has_no_more_time():
    import socket

    def drip(listening):
        connection, _ = listening.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(20):
            time.sleep(0.05)
            try:
                connection.sendall(b" ")
            except OSError:
                break
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            Server(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.2).get("/x")
        assert time.monotonic() - started < 0.9
        thread.join()


def test_a_server_that_is_not_there():
    with answering(lambda _: Told({})) as server:
        gone = server.url
    with pytest.raises(EngineError, match=r"cannot be reached .*Check the address, and that the server runs"):
        Server(gone, retries=1).get("/v1/models")


def test_the_key_is_sent_and_never_shown():
    with answering(lambda asked: Told({"error": {"message": f"bad {asked.headers['Authorization']}"}}, 401)) as server:
        with pytest.raises(Refused, match=r"bad Bearer \*\*\*\)\. Check the API key") as found:
            Server(server.url, api_key="sk-secret").get("/x")
        assert server.asked[0].headers["Authorization"] == "Bearer sk-secret"
        assert "secret" not in f"{found.value!r} {vars(found.value)}"


def test_no_redirect_is_followed():
    with answering(lambda _: Told(b"", 307, {"Location": "http://example.org/"})) as server:
        with pytest.raises(Refused, match=r"307 \(it sends on to http://example.org/"):
            Server(server.url).post("/x", {})
        assert len(server.asked) == 1


def test_an_answer_that_is_no_json():
    with answering(lambda _: Told(b"<html>\n hello")) as server:
        with pytest.raises(EngineError, match=r"does not answer with JSON \('<html> hello'\)"):
            Server(server.url).get("/x")
        Server(server.url).tell("/x", {})  # where only success counts


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://h/?a=1"])
def test_what_is_no_address(url):
    with pytest.raises(EngineError, match=r"is not .*Write it as in http://localhost:8000"):
        Server(url)


def test_an_address_holds_no_password_and_may_end_with_the_version():
    with pytest.raises(EngineError, match="holds a password") as found:
        Server("http://me:hunter2@host")
    assert "hunter2" not in str(found.value)
    assert {Server(f"http://host:1{end}").url for end in ("", "/", "/v1", "/v1/")} == {"http://host:1"}
