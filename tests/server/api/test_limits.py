"""Authentication, size limits, time-outs and back-pressure."""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from searchlora.server.api.serve import make_server
from tests.server.api.serving import asked, made_service, served

CHAT = "/v1/chat/completions"


def long(tokens, **more):
    """An answer that takes a while: the grammar lets it not end before."""
    return asked(max_tokens=tokens, structured_outputs={"regex": f"[a-z]{{{tokens}}}"}, **more)


@contextmanager
def serving(base, store, **settings):
    service = made_service(base, store, **settings)
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield service, client


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_configured_api_key_is_required(tiny_base, store):
    with serving(tiny_base, store, api_keys=("first-key", "schlüssel")) as (_, client):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "first-key"},
            {"authorization": "Basic first-key"},
            {"authorization": "Bearer first-key2"},
            {"authorization": "Bearer"},
            {"authorization": b"Bearer \xff\xfe"},
        ):
            for path in ("/v1/models", "/metrics", "/nothing"):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), headers
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post(CHAT, json=asked(), headers=headers).status_code == 401
        assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        for key in (b"first-key", "schlüssel".encode()):
            assert client.post(CHAT, json=asked(), headers={"authorization": b"Bearer " + key}).status_code == 200


def test_too_long_bodies_prompts_and_answers_are_errors(tiny_base, store):
    with serving(tiny_base, store, max_body=2000, max_prompt=100, max_answer=16) as (_, client):
        assert client.post(CHAT, content=b"x" * 2001).status_code == 413
        chunks = (b"x" * 500 for _ in range(1000))
        assert client.post(CHAT, content=chunks).status_code == 413
        content = json.dumps(asked(max_tokens=2)).encode()
        split = iter([content[:40], content[40:]])
        assert client.post(CHAT, content=split, headers={"content-type": "application/json"}).status_code == 200
        answer = client.post(CHAT, json=asked("x" * 100))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "takes 100" in answer.json()["error"]["message"]
        for field in ("max_tokens", "max_completion_tokens"):
            answer = client.post(CHAT, json=asked(max_tokens=None) | {field: 17})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        whole = client.post(CHAT, json=asked(max_tokens=None)).json()
        assert whole["usage"]["completion_tokens"] <= 16


def test_names_of_the_server_are_accepted_and_bodies_that_are_no_json_are_not(tiny_base, store):
    with serving(tiny_base, store, allowed_hosts=("Box.example",)) as (_, client):
        for host in ("localhost:8000", "box.example", "192.168.1.5"):
            assert client.post(CHAT, json=asked(), headers={"host": host}).status_code == 200
        # What a page may send without asking first is no JSON.
        for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
            answer = client.post(CHAT, content=json.dumps(asked()), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
            assert "Content-Type: application/json" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_a_full_queue_is_503_and_recovers(tiny_base, store):
    with serving(tiny_base, store, max_num_seqs=1, waiting=1, max_answer=4000) as (service, client):
        with client.stream("POST", CHAT, json=long(3000, stream=True)) as stream:
            assert stream.status_code == 200
            lines = stream.iter_lines()  # keep a reference: the client disconnects when it is garbage-collected
            next(lines)
            waits = threading.Thread(target=lambda: httpx.post(f"{client.base_url}{CHAT}", json=asked(), timeout=30))
            waits.start()
            until(lambda: service.engine.stats().waiting == 1)
            for more in ({}, {"stream": True}):
                answer = client.post(CHAT, json=asked(**more))
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
                assert answer.headers["retry-after"] == "1"
            scored = {"model": "one", "messages": asked()["messages"], "choices": ["a", "b"]}
            assert client.post("/v1/score", json=scored).status_code == 503
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200
        waits.join()
        assert client.get("/readyz").status_code == 200
        assert client.post(CHAT, json=asked()).status_code == 200
        assert "searchlora_engine_requests_refused_total 3.0" in client.get("/metrics").text


@pytest.mark.slow
def test_a_timed_out_answer_is_504_or_ends_the_stream_with_the_reason(tiny_base, store):
    with serving(tiny_base, store, timeout=0.3, max_answer=4000) as (service, client):
        answer = client.post(CHAT, json=long(3000))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        with client.stream("POST", CHAT, json=long(3000, stream=True)) as stream:
            events = [line for line in stream.iter_lines() if line]
        assert stream.status_code == 200
        assert "deadline_exceeded" in events[-1]
        assert len(events) > 2
        assert client.post(CHAT, json=asked()).status_code == 200
        until(lambda: service.engine.stats().generating == 0)


def test_the_number_of_active_requests_is_bounded(tiny_base, store):
    with serving(tiny_base, store, max_active_requests=1, max_answer=4000) as (_, client):
        with client.stream("POST", CHAT, json=long(3000, stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            answer = client.get("/v1/models")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert client.get("/healthz").status_code == 200
        until(lambda: client.get("/v1/models").status_code == 200)


def test_batches_beyond_the_queue_are_refused_for_good(tiny_base, store):
    one = {"model": "one", "messages": [{"role": "user", "content": "tent"}], "choices": ["yes", "no"]}
    with serving(tiny_base, store, waiting=4) as (_, client):
        for path, body, says in (
            (CHAT, asked(n=5), "At most 4 answers"),
            ("/v1/completions", {"model": "tiny", "prompt": ["a"] * 5}, "At most 4 answers"),
            ("/v1/score", {"requests": [one] * 5}, "At most 4 requests"),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
            assert says in answer.json()["error"]["message"]
        assert client.post(CHAT, json=asked(n=4)).status_code == 200
        assert len(client.post("/v1/score", json={"requests": [one] * 4}).json()["results"]) == 4


def test_requests_beyond_the_grace_period_are_aborted(tiny_base, store):
    service = made_service(tiny_base, store, max_answer=4000, shutdown_timeout=0)
    started = time.monotonic()
    with httpx.Client(timeout=30) as client, served(service) as url:
        stream = client.send(client.build_request("POST", url + CHAT, json=long(3000, stream=True)), stream=True)
        lines = stream.iter_lines()
        next(lines)
    assert time.monotonic() - started < 3
    assert service.engine.stats().generating == 0


@pytest.mark.slow
def test_requests_aborted_before_their_answer_get_an_error(tiny_base, store, caplog):
    service, found = made_service(tiny_base, store, max_answer=4000, shutdown_timeout=0), []
    with served(service) as url:
        waits = threading.Thread(target=lambda: found.append(httpx.post(url + CHAT, json=long(3000), timeout=30)))
        waits.start()
        until(lambda: service.engine.stats().generating == 1)
    waits.join()
    assert (found[0].status_code, found[0].json()["error"]["code"]) == (503, "stopping")
    assert found[0].headers["retry-after"] == "1"
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.slow
def test_max_tokens_defaults_to_the_rest_of_the_context(tiny_base, store):
    with serving(tiny_base, store) as (service, client):
        context = service.engine.context
        empty = len(service.engine.renderer.prompt_ids([{"role": "user", "content": ""}]))
        for room in (1, 3):
            body = asked("x" * (context - empty - room), max_tokens=None, structured_outputs={"regex": "[a-z]{9}"})
            answer = client.post(CHAT, json=body).json()
            assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (room, "length")
        answer = client.post(CHAT, json=asked("x" * (context - empty), max_tokens=None))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_an_infinite_grace_period_is_accepted(tiny_base, store):
    config = make_server(made_service(tiny_base, store, shutdown_timeout=math.inf)).config
    assert config.timeout_graceful_shutdown is None


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnected_client_frees_the_rows_of_all_its_answers(tiny_base, store, stream):
    with serving(tiny_base, store, max_answer=4000) as (service, client):
        body = long(3000, n=12, temperature=1, stream=stream)  # more answers than rows
        if stream:
            with client.stream("POST", CHAT, json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body, timeout=0.5)
        until(lambda: service.engine.stats().generating == service.engine.stats().waiting == 0, seconds=2)
        assert client.post(CHAT, json=asked(n=2)).status_code == 200


@pytest.mark.slow
def test_many_answers_of_one_client_do_not_hold_up_others(tiny_base, store):
    with serving(tiny_base, store, max_num_seqs=4, api_keys=("many", "one"), max_answer=4000) as (_, client):
        many = {"authorization": "Bearer many"}
        busy = [
            ("/v1/chat/completions", long(400, n=40, temperature=1, stream=True)),
            ("/v1/completions", {"model": "tiny", "prompt": ["tent"] * 40, "max_tokens": 400, "stream": True}),
        ]
        for path, body in busy:
            with client.stream("POST", path, json=body, headers=many) as answer:
                lines = answer.iter_lines()
                next(lines)
                for _ in range(5):
                    reply = client.post(
                        CHAT, json=asked(max_tokens=2), headers={"authorization": "Bearer one"}, timeout=10
                    )
                    assert reply.status_code == 200
                assert '"finish_reason": null' in next(line for line in lines if line)  # the others are not done


def test_a_disconnect_within_the_body_is_counted_as_499(tiny_base, store):
    import socket

    with serving(tiny_base, store) as (_, client):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as leaves:
            head = "host: localhost\r\ncontent-type: application/json\r\ncontent-length: 500"
            leaves.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n\r\n{{".encode())
            time.sleep(0.2)
        counted = f'searchlora_requests_total{{path="{CHAT}",status="499"}} 1.0'
        until(lambda: counted in client.get("/metrics").text)
        assert 'status="400"' not in client.get("/metrics").text


def test_small_answers_are_sent_without_delay(client):
    took = []
    for _ in range(20):
        started = time.monotonic()
        client.get("/healthz")
        took.append(time.monotonic() - started)
    assert min(took) < 0.02  # the least of many: other processes on the machine only ever add
