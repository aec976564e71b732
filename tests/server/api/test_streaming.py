"""Streamed answers: bounded buffering, and clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress

import httpx
import pytest
from starlette.requests import ClientDisconnect

from searchlora.inference.engine import Completion, TokenLogprob
from searchlora.server.api import disconnect
from searchlora.server.api.answer_stream import AnswerStream
from searchlora.server.api.serve import make_server
from searchlora.server.api.streams import streamed
from searchlora.server.http import bind
from tests.server.api.serving import asked, made_service


def read(answers, steps):
    """The deltas of a stream: each step is given the stream and the futures, and then one delta is read."""

    async def run():
        stream, futures = AnswerStream(answers), [Future() for _ in range(answers)]
        deltas, found = stream.deltas(futures), []
        for step in steps:
            step(stream, futures)
            found.append(await anext(deltas))
        return found + [each async for each in deltas]

    return asyncio.run(run())


def test_a_slow_reader_gets_only_the_newest_text():
    def writes(stream, _):
        for count in range(1, 500):
            stream.on_token(0, 0, "a" + "word " * count, None)
        assert [text for each in vars(stream).values() if isinstance(each, list) for text, _ in each] == [
            "a" + "word " * 499
        ]

    def ends(_, futures):
        futures[0].set_result(Completion("a" + "word " * 500, "stop", 1, 500))

    found = read(1, [lambda stream, _: stream.on_token(0, 0, "a", None), writes, ends])
    assert [each.text for each in found] == ["a", "word " * 499, "word "]
    assert [each.completion is not None for each in found] == [False, False, True]


def test_deltas_of_several_answers_are_interleaved():
    tokens = tuple(TokenLogprob(text, text.encode(), -1.0) for text in ("a", "b", "c"))

    def first(stream, _):
        stream.on_token(2, 1, "ab", tokens[:2])

    def second(stream, futures):
        stream.on_token(0, 1, "x", None)
        futures[3].set_result(Completion("abc", "length", 1, 3, tokens))

    def last(_, futures):
        for number in (0, 1, 2):
            futures[number].set_result(Completion("xy" if number == 1 else "", "stop", 1, 2))

    found = read(4, [first, second, lambda *_: None, last])
    assert [(each.answer, each.text) for each in found] == [(3, "ab"), (1, "x"), (3, "c"), (0, ""), (1, "y"), (2, "")]
    assert [each.logprobs for each in found] == [tokens[:2], None, tokens[2:], None, None, None]
    assert [each.completion.finish if each.completion else None for each in found[1:4]] == [None, "length", "stop"]


@pytest.mark.parametrize(("reported", "found"), [("a", ["a"]), ("", [])])
def test_text_before_a_failure_is_delivered_first(reported, found):
    async def run():
        stream, futures, texts = AnswerStream(2), [Future(), Future()], []
        deltas = stream.deltas(futures)
        stream.on_token(0, 0, reported, None)
        futures[0].set_exception(RuntimeError("broken"))
        with pytest.raises(RuntimeError, match="broken"):
            async for delta in deltas:
                texts.append(delta.text)
        return texts, futures[1].cancelled()

    assert asyncio.run(run()) == (found, True)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_dropped(tiny_base, store, monkeypatch):
    monkeypatch.setattr(disconnect, "_LAST_SECONDS", 0.3)
    service = made_service(tiny_base, store, timeout=1.0, max_active_requests=1, shutdown_timeout=1)
    monkeypatch.setattr(service.engine, "submit_answers", writes_much)
    with bind("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # connections inherit it
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            port = listening.getsockname()[1]
            with socket.socket() as stuck, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stuck.connect(("127.0.0.1", port))
                body = json.dumps(asked(stream=True)).encode()
                head = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
                stuck.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
                time.sleep(0.2)
                codes = [client.get("/v1/models").status_code]
                end = time.monotonic() + 5
                while codes[-1] != 200 and time.monotonic() < end:
                    time.sleep(0.1)
                    codes.append(client.get("/v1/models").status_code)
            assert (codes[0], codes[-1]) == (503, 200)
        finally:
            server.should_exit = True
            thread.join()


def writes_much(request, n, *, on_token, **more):
    """An engine's answer of many long pieces."""
    del request, n, more
    future: Future[Completion] = Future()

    def write():
        text = ""
        while not future.done() and len(text) < 20_000_000:
            text += "word " * 2000
            on_token(0, text, None)
            time.sleep(0.002)

    threading.Thread(target=write, daemon=True).start()
    return [future]


def test_a_client_that_is_gone_before_its_stream_begins_takes_up_nothing():
    async def events():
        yield "data: 1\n\n"

    async def gone(_):
        raise ConnectionError

    async def run(cleanup):
        await streamed(events(), lambda _: (), cleanup)({"type": "http", "asgi": {"spec_version": "2.4"}}, gone, gone)

    ended = []
    cleanup = ExitStack()
    cleanup.callback(ended.append, True)
    with suppress(OSError, ClientDisconnect):
        asyncio.run(run(cleanup))
    assert ended == [True]
