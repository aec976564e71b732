"""The access log: one line per request, which no request can forge."""

from __future__ import annotations

import json

import httpx
import pytest

from searchlora.errors import UsageError
from searchlora.server.api.access_log import access_logger
from tests.server.api.serving import asked, made_service, served

CHAT = "/v1/chat/completions"


def test_each_request_is_a_line(tiny_base, store, tmp_path):
    file = tmp_path / "access.jsonl"
    service = made_service(tiny_base, store, api_keys=("a-secret-key", "another"), access_log=str(file))
    key = {"authorization": "Bearer another"}
    with served(service) as url, httpx.Client(base_url=url, timeout=30, headers=key) as client:
        assert client.post(CHAT, json=asked()).status_code == 200
        assert client.post(CHAT, json=asked(stream=True)).status_code == 200
        assert client.get("/v1/models?secret=1", headers={"authorization": "Bearer a-secret-key"}).status_code == 200
        assert client.get("/v1/x%0a%7b%22caller%22%3a%22key 0%22%7d%0d%1b[2J\u2028").status_code == 404
        assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/" + "a" * 5000).status_code == 404
        assert client.get("/healthz").status_code == 200
    content = file.read_text(encoding="ascii")
    entries = [json.loads(line) for line in content.splitlines()]
    assert [(each["caller"], each["method"], each["path"][:20], each["status"]) for each in entries] == [
        ("key 1", "POST", CHAT, 200),
        ("key 1", "POST", CHAT, 200),
        ("key 0", "GET", "/v1/models", 200),
        ("key 1", "GET", '/v1/x\n{"caller":"key', 404),
        ("127.0.0.1", "GET", "/v1/models", 401),
        ("key 1", "GET", "/" + "a" * 19, 404),
        ("127.0.0.1", "GET", "/healthz", 200),
    ]
    assert all(each["seconds"] > 0 and each["time"] and len(each["path"]) <= 200 for each in entries)
    assert not any(word in content for word in ("a-secret-key", "another", "wrong", "secret", "\x1b"))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UsageError, match="--access-log"):
        access_logger(str(tmp_path / "missing" / "log"))
