"""Streamed answers: bounded buffering, and clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import Future

import httpx
import pytest

from searchlora.inference.engine import Completion
from searchlora.server.api import disconnect
from searchlora.server.api.chat import TextStream
from searchlora.server.api.serve import make_server
from searchlora.server.http import bind
from tests.server.api.serving import asked, made_service


def test_a_slow_reader_gets_only_the_newest_text():
    async def read():
        pieces, future = TextStream(), Future()
        texts = pieces.deltas(future)
        pieces.on_token("a")
        found = [await anext(texts)]
        for count in range(1, 500):
            pieces.on_token("a" + "word " * count)
        await asyncio.sleep(0.01)
        held = [each for each in vars(pieces).values() if isinstance(each, str)]
        found.append(await anext(texts))
        future.set_result(Completion("a" + "word " * 500, "stop", 1, 500))
        found += [each async for each in texts]
        return held, found

    held, found = asyncio.run(read())
    assert held == ["a" + "word " * 499]
    assert found[:2] == ["a", "word " * 499]
    assert "".join(found) == "a" + "word " * 500


def test_incomplete_characters_are_held_back():
    async def read():
        pieces, future = TextStream(), Future()
        texts = pieces.deltas(future)
        found = []
        for text in ("a", "a\ufffd", "a\u00e9b"):
            pieces.on_token(text)
            found.append(await anext(texts))
        future.set_result(Completion("a\u00e9b", "stop", 1, 3))
        return found + [each async for each in texts]

    assert asyncio.run(read()) == ["a", "", "\u00e9b", ""]


@pytest.mark.parametrize(("reported", "found"), [("a", ["a"]), ("", [])])
def test_text_before_a_failure_is_delivered_first(reported, found):
    async def read():
        pieces, future, read = TextStream(), Future(), []
        texts = pieces.deltas(future)
        pieces.on_token(reported)
        future.set_exception(RuntimeError("broken"))
        with pytest.raises(RuntimeError, match="broken"):
            async for text in texts:
                read.append(text)
        return read

    assert asyncio.run(read()) == found


def test_a_client_that_does_not_read_is_dropped(tiny_base, store, monkeypatch):
    monkeypatch.setattr(disconnect, "_LAST_SECONDS", 0.3)
    service = made_service(tiny_base, store, timeout=1.0, max_active_requests=1)
    monkeypatch.setattr(service.engine, "submit", writes_much)
    with bind("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # connections inherit it
        server = make_server(service, grace=1)
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


def writes_much(request, *, on_token, **more):
    """An engine's answer of many long pieces."""
    del request, more
    future: Future[Completion] = Future()

    def write():
        text = ""
        while not future.done() and len(text) < 20_000_000:
            text += "word " * 2000
            on_token(text)
            time.sleep(0.002)

    threading.Thread(target=write, daemon=True).start()
    return future
