"""API keys: what one that only reads may do on every route of the server, and keys that are withdrawn while it runs."""

from __future__ import annotations

import hmac
import json
import re

import httpx
import pytest

from searchlora.errors import DataError, UsageError
from searchlora.server.api import keys
from searchlora.server.api.app import ROUTES, _is_open
from searchlora.server.api.keys import WRITES, ApiKeys, sha256_of
from tests.server.api.serving import asked, made_service, new_key, served

CHAT = "/v1/chat/completions"
GUARDED = [(method, route) for route in ROUTES if not _is_open(route.path_format) for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.txt"


@pytest.fixture(scope="module")
def key_of(file):
    return {role: new_key(file, f"{role}er", role) for role in ("read", "write")}


@pytest.fixture(scope="module")
def client(tiny_base, store, file, key_of):  # noqa: ARG001  # the file is made first
    settings = {"keys": file, "api_keys": ("one-key-for-all",), "access_log": str(file.with_name("access"))}
    with (
        served(made_service(tiny_base, store, **settings)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_the_routes_that_need_a_key_that_writes():
    assert {route.path_format for route in ROUTES if route.openapi_extra == WRITES} == {
        "/v1/adapters/load",
        "/v1/adapters/unload",
        "/v1/judgments",
        "/v1/production",
        "/v1/production/rollback",
    }


@pytest.mark.parametrize(("method", "route"), GUARDED, ids=[f"{m} {route.path_format}" for m, route in GUARDED])
def test_a_key_may_do_what_its_role_allows(client, key_of, method, route):
    path = re.sub(r"{.*?}", "nothing", route.path_format)
    body = {"json": {}} if method == "POST" else {}
    for role, key in key_of.items():
        answer = client.request(method, path, headers=bearer(key), **body)
        if role == "read" and route.openapi_extra == WRITES:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role_missing")
        else:
            assert answer.status_code not in (401, 403, 500), answer.text
    for wrong in ("-", "one-key-for-al", "one-key-for-all2", "key 0", "reader", "0" * 64):
        assert client.request(method, path, headers=bearer(wrong)).status_code == 401


def test_a_refused_request_does_nothing(client, key_of):
    """The body is not even read as JSON, so a role says nothing of what the server has."""
    for content in (b"{", json.dumps({"adapter": "one"}).encode(), json.dumps({"adapter": "none"}).encode()):
        sent = {"content": content, "headers": bearer(key_of["read"]) | {"content-type": "application/json"}}
        assert client.post("/v1/adapters/load", **sent).json()["error"]["code"] == "role_missing"


def test_the_hash_in_the_file_is_no_key(client, file):
    for line in file.read_text().splitlines():
        assert client.get("/v1/models", headers=bearer(line.split()[2])).status_code == 401


def test_the_single_key_may_do_everything_and_the_access_log_has_names(client, key_of, file):
    for key in ("one-key-for-all", key_of["write"]):
        assert client.post("/v1/adapters/unload", json={"adapter": "one@1"}, headers=bearer(key)).is_success
    client.get("/healthz")
    log = file.with_name("access").read_text()
    assert '"caller": "writeer"' in log and '"caller": "key 0"' in log and key_of["write"] not in log


def test_a_key_can_be_withdrawn_and_added_while_the_server_runs(client, file):
    before = file.read_text()
    for _ in range(5):
        key = new_key(file, "temporary", "read")
        assert client.post(CHAT, json=asked(), headers=bearer(key)).status_code == 200
        file.write_text(before)
        assert client.post(CHAT, json=asked(), headers=bearer(key)).status_code == 401


def test_while_the_file_cannot_be_read_none_of_its_keys_is_accepted(client, key_of, file, caplog):
    content = file.read_text()
    for broken in ("shop read", f"shop root {'0' * 64}", None):
        file.unlink() if broken is None else file.write_text(f"{content}{broken}\n")
        assert client.get("/v1/models", headers=bearer(key_of["read"])).status_code == 401
        assert client.get("/v1/models", headers=bearer("one-key-for-all")).status_code == 200
    assert "no key of the file is accepted" in caplog.text
    file.write_text(content)
    assert client.get("/v1/models", headers=bearer(key_of["read"])).status_code == 200


def test_every_key_is_compared_in_constant_time(file, key_of, monkeypatch):
    """As many comparisons, of texts of one length, for the first key, the last one, and none."""
    compared = []

    def counted(one, two):
        compared.append((len(one), len(two)))
        return hmac.compare_digest(one, two)

    ring = ApiKeys(("plain",), file)
    monkeypatch.setattr(keys, "hmac", type("Counted", (), {"compare_digest": staticmethod(counted)}))
    for key in ("plain", key_of["write"], "", "x" * 10_000):
        compared.clear()
        ring.find(key.encode())
        assert compared == [(64, 64)] * 3


def test_a_file_of_keys_that_cannot_be_used_is_refused_at_the_start(tiny_base, store, tmp_path):
    for content, error in [(None, DataError), ("a root 0", UsageError)]:
        if content is not None:
            (tmp_path / "keys.txt").write_text(content)
        with pytest.raises(error, match=r"keys\.txt"):
            made_service(tiny_base, store, keys=tmp_path / "keys.txt", api_keys=("more",))


def test_the_command_prints_a_key_once_and_keeps_its_hash(cli, tmp_path):
    file = tmp_path / "keys.txt"
    key = cli("add-key", "shop", "--role", "read", "--file", file).out.strip()
    assert len(key) == 43 and file.read_text() == f"shop read {sha256_of(key.encode())}\n"
    for name in ("shop", "a b"):
        assert cli("add-key", name, "--role", "read", "--file", file).code == 2
    other = cli("add-key", "second", "--role", "write", "--file", file).out.strip()
    assert [ApiKeys(file=file).find(each.encode()).name for each in (key, other)] == ["shop", "second"]


def test_a_grade_of_a_person_needs_a_key_that_writes(tiny_base, store, file, key_of):
    click = {"search": "x", "action": "click", "document": "d1"}
    grade = {"search": "x", "action": "grade", "document": "d1", "grade": 1, "rater": "anna"}
    service = made_service(tiny_base, store, keys=file, events=str(file.with_name("events")))
    with served(service) as url:
        codes = [
            httpx.post(f"{url}/v1/events", json={"events": [event]}, headers=bearer(key_of[role])).status_code
            for role, event in (("read", click), ("read", grade), ("write", grade))
        ]
    assert codes == [200, 403, 200]
