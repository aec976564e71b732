"""API keys with roles: what each may do on every route of the server, and keys that are withdrawn while it runs."""

from __future__ import annotations

import hmac
import json
import re

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from searchlora.errors import DataError, UsageError
from searchlora.server.api import keys
from searchlora.server.api.app import ROUTES, _is_open
from searchlora.server.api.errors import ErrorResponses
from searchlora.server.api.keys import ROLES, ApiKeys, add_key, may, remove_key, requires
from searchlora.server.api.middleware import RequestGuard
from searchlora.server.api.routing import ApiRequest, api_router
from tests.server.api.serving import asked, made_service, served

CHAT = "/v1/chat/completions"
GUARDED = [(method, route) for route in ROUTES if not _is_open(route.path_format) for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def key_of(folder):
    return {role: add_key(folder / "keys.yaml", f"{role}er", role) for role in ROLES}


@pytest.fixture(scope="module")
def client(tiny_base, store, folder, key_of):  # noqa: ARG001  # the file is made first
    settings = {"keys": folder / "keys.yaml", "api_keys": ("one-key-for-all",), "access_log": str(folder / "access")}
    with (
        served(made_service(tiny_base, store, **settings)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_every_route_has_a_role_or_needs_no_key():
    for route in ROUTES:
        role = getattr(route.endpoint, "role", None)
        assert _is_open(route.path_format) if role is None else role in ROLES, route.path_format


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "route"), GUARDED, ids=[f"{m} {route.path_format}" for m, route in GUARDED])
def test_a_key_may_do_what_its_role_allows(client, key_of, method, route, role):
    path = re.sub(r"{.*?}", "nothing", route.path_format)
    body = {"json": {}} if method == "POST" else {}
    answer = client.request(method, path, headers=bearer(key_of[role]), **body)
    needed = route.endpoint.role
    if may(role, needed):
        assert answer.status_code not in (401, 403, 500), answer.text
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "role_missing")
    assert f"'{needed}'" in error["message"] and f"'{role}'" in error["message"]


def test_a_refused_request_does_nothing(client, key_of):
    """The body is not even read as JSON, so a role says nothing of what the server has."""
    for content in (b"{", json.dumps({"adapter": "one"}).encode(), json.dumps({"adapter": "none"}).encode()):
        sent = {"content": content, "headers": bearer(key_of["grade"]) | {"content-type": "application/json"}}
        assert client.post("/v1/adapters/load", **sent).json()["error"]["code"] == "role_missing"


@pytest.mark.parametrize("key", ["-", "x", "one-key-for-al", "one-key-for-all2", "key 0", "reader", "0" * 64])
def test_an_unknown_key_is_401_on_every_guarded_route(client, key):
    for method, route in GUARDED:
        path = re.sub(r"{.*?}", "nothing", route.path_format)
        assert client.request(method, path, headers=bearer(key)).status_code == 401


def test_the_hash_in_the_file_is_no_key(client, folder):
    for digest in re.findall(r"sha256: (\w{64})", (folder / "keys.yaml").read_text()):
        assert client.get("/v1/models", headers=bearer(digest)).status_code == 401


def test_the_single_key_may_do_everything(client):
    answer = client.post("/v1/adapters/unload", json={"adapter": "one@1"}, headers=bearer("one-key-for-all"))
    assert answer.status_code == 200


def test_the_access_log_has_the_name_of_the_key(client, key_of, folder):
    assert client.post("/v1/adapters/load", json={"adapter": "two"}, headers=bearer(key_of["operate"])).is_success
    client.get("/healthz")
    log = (folder / "access").read_text()
    assert '"caller": "operateer"' in log and key_of["operate"] not in log


def test_a_key_can_be_withdrawn_and_added_while_the_server_runs(client, folder):
    file = folder / "keys.yaml"
    for _ in range(5):
        key = add_key(file, "temporary", "search")
        assert client.post(CHAT, json=asked(), headers=bearer(key)).status_code == 200
        remove_key(file, "temporary")
        assert client.post(CHAT, json=asked(), headers=bearer(key)).status_code == 401
    key = add_key(file, "temporary", "search")
    file.write_text(file.read_text().replace("role: search\n    sha256: " + digest(key), lowered(key)))
    assert client.post(CHAT, json=asked(), headers=bearer(key)).status_code == 403
    remove_key(file, "temporary")


def digest(key):
    return keys._digest(key.encode())


def lowered(key):
    return "role: read\n    sha256: " + digest(key)


def test_while_the_file_cannot_be_read_none_of_its_keys_is_accepted(client, key_of, folder, caplog):
    file = folder / "keys.yaml"
    content = file.read_text()
    for broken in ("keys: [", "keys: {a: {role: root, sha256: x}}", None):
        file.unlink() if broken is None else file.write_text(broken)
        assert client.get("/v1/models", headers=bearer(key_of["read"])).status_code == 401
        assert client.get("/v1/models", headers=bearer("one-key-for-all")).status_code == 200
    assert "no key of the file is accepted" in caplog.text
    file.write_text(content)
    assert client.get("/v1/models", headers=bearer(key_of["read"])).status_code == 200


def test_every_key_is_compared_in_constant_time(folder, key_of, monkeypatch):
    """As many comparisons, of texts of one length, for the first key, the last one, and none."""
    compared = []

    def counted(one, two):
        compared.append((len(one), len(two)))
        return hmac.compare_digest(one, two)

    ring = ApiKeys(("plain",), folder / "keys.yaml")
    count = len(ROLES) + 1
    monkeypatch.setattr(keys, "hmac", type("Counted", (), {"compare_digest": staticmethod(counted)}))
    for key in ("plain", key_of["operate"], "", "x" * 10_000):
        compared.clear()
        ring.find(key.encode())
        assert compared == [(64, 64)] * count


def test_a_route_without_a_role_needs_the_highest(folder, key_of):
    router = api_router()

    @router.get("/v1/unmarked")
    def unmarked(http: ApiRequest) -> str:
        return http.client_id

    @router.get("/v1/marked")
    @requires("read")
    async def marked(http: ApiRequest) -> str:
        return http.client_id

    app = FastAPI()
    app.state.threads = None
    app.include_router(router)
    app.add_middleware(RequestGuard, max_body_bytes=10, timeout=5, keys=ApiKeys(file=folder / "keys.yaml"))
    app.add_middleware(ErrorResponses)
    with TestClient(app) as client:
        assert client.get("/v1/unmarked", headers=bearer(key_of["grade"])).status_code == 403
        assert client.get("/v1/marked", headers=bearer(key_of["read"])).json() == "reader"


def test_a_file_of_keys_that_cannot_be_used_is_refused_at_the_start(tiny_base, store, tmp_path):
    for content, error in [(None, DataError), ("keys: {a: {role: root}}", UsageError), ("- a", UsageError)]:
        if content is not None:
            (tmp_path / "keys.yaml").write_text(content)
        with pytest.raises(error, match=r"keys\.yaml"):
            made_service(tiny_base, store, keys=tmp_path / "keys.yaml")


def test_the_command_prints_a_key_once_and_keeps_its_hash(cli, tmp_path):
    file = tmp_path / "folder" / "keys.yaml"
    key = cli("keys", "add", "shop", "--role", "search", "--file", file).out.strip()
    assert len(key) == 43 and key not in file.read_text() and digest(key) in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    again = cli("keys", "add", "shop", "--role", "read", "--file", file)
    assert again.code == 2 and "there is a key 'shop'" in again.err
    assert cli("keys", "add", "a b", "--role", "read", "--file", file).code == 2
    assert cli("keys", "list", "--file", file).out.startswith("shop: search, added 20")
    assert cli("keys", "remove", "shop", "--file", file).code == 0
    assert cli("keys", "remove", "shop", "--file", file).code == 2
    assert ApiKeys(file=file).find(key.encode()) is None and bool(ApiKeys(file=file))


def test_a_grade_of_a_person_needs_the_role_grade(tiny_base, store, folder, key_of):
    click = {"search": "x", "action": "click", "document": "d1"}
    grade = {"search": "x", "action": "grade", "document": "d1", "grade": 1, "rater": "anna"}
    service = made_service(tiny_base, store, keys=folder / "keys.yaml", events=str(folder / "events"))
    with served(service) as url:
        codes = [
            httpx.post(f"{url}/v1/events", json={"events": [event]}, headers=bearer(key_of[role])).status_code
            for role, event in (("search", click), ("search", grade), ("grade", grade))
        ]
    assert codes == [200, 403, 200]
