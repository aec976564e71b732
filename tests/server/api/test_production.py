"""`/v1/production`: aliases and their weights, what users and checks say, and the way back."""

from __future__ import annotations

import httpx
import pytest

from searchlora.errors import StoreError
from tests.server.api.serving import new_key
from tests.server.in_production import ALIAS, in_production


@pytest.fixture
def running(tmp_path, tiny_base, corpus_of_search):
    with in_production(tmp_path, tiny_base, corpus_of_search) as running:
        yield running


@pytest.fixture
def client(running):
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def described(client):
    response = client.get("/v1/production")
    assert response.status_code == 200, response.text
    return response.json()


def test_everything_in_production_is_described_and_taken_back(client, running):
    found = described(client)
    (alias,) = found["aliases"]
    assert (alias["reference"], alias["pipelines"]) == (ALIAS, ["shop"])
    assert alias["weights"] == {"rewriter@1": 0.9, "rewriter@2": pytest.approx(0.1)}
    assert [move.split(" ", 1)[1].partition(" (by ")[0] for move in alias["moves"]] == [
        "production -> versions 1 (90%), 2 (10%) (before: 1)",
        "production -> version 1 (before: 3)",
        "production -> version 3",
    ]

    shop = found["pipelines"]["shop"]
    assert (shop["outcomes"], shop["searches"]) == ({"failed": 1}, 160)  # those of yesterday are left out
    assert shop["stages"]["rewriter@2"]["flags"]["invalid"] == 2
    assert (found["shadow"]["rewriter@3"]["n"], found["shadow"]["rewriter@3"]["changed"]["value"]) == (20, 1)
    (interleaved,) = found["interleaving"]
    assert (interleaved["decision"], interleaved["wins_b"], interleaved["wins_a"]) == ("B", 54, 6)
    assert interleaved["low"] > 0.5
    assert {"query": "gone", "searches": 1, "users": 1, "reasons": ["failed"]} in found["queue"]

    body = {"adapter": ALIAS, "moved": alias["moved"], "reason": "outputs do not parse"}
    done = client.post("/v1/production/rollback", json=body).json()
    assert (done["version"], running.store.target("rewriter", "production")) == (1, 1)
    assert running.store.history("rewriter")[-1].reason == "outputs do not parse"
    again = client.post("/v1/production/rollback", json=body)  # a second press, or a second operator
    assert (again.status_code, again.json()["error"]["code"]) == (409, "moved_meanwhile")
    (alias,) = described(client)["aliases"]
    assert alias["weights"] == {"rewriter@1": 1.0}
    client.post("/v1/production/rollback", json=body | {"moved": alias["moved"]})
    assert described(client)["aliases"][0]["weights"] == {"rewriter@3": 1.0}


def test_an_alias_that_moves_while_it_is_taken_back_is_no_failure_of_the_server(client, running, monkeypatch):
    def moved(*_, **__):
        raise StoreError("rewriter@production was moved meanwhile")

    monkeypatch.setattr(type(running.store), "rollback", moved)
    (alias,) = described(client)["aliases"]
    body = {"adapter": ALIAS, "moved": alias["moved"], "reason": "x"}
    answer = client.post("/v1/production/rollback", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "moved_meanwhile")


def test_what_cannot_be_taken_back_is_refused(client, running):
    body = {"adapter": "rewriter@candidate", "moved": 3, "reason": "x"}
    wrong = client.post("/v1/production/rollback", json=body)
    assert (wrong.status_code, "Followed: rewriter@production" in wrong.text) == (404, True)
    without = client.post("/v1/production/rollback", json={"adapter": ALIAS, "moved": 3, "reason": ""})
    assert without.status_code in (400, 422)
    assert running.store.alias_history("rewriter").weights("production") is not None


def test_only_a_key_that_writes_takes_back_and_the_history_says_who(tmp_path, tiny_base, corpus_of_search):
    file = tmp_path / "keys.txt"
    keys = {role: new_key(file, f"{role}-key", role) for role in ("read", "write")}
    with in_production(tmp_path, tiny_base, corpus_of_search, keys=file) as running:
        body = {"adapter": ALIAS, "moved": 3, "reason": "a complaint"}
        answers = {}
        for role, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            url = f"{running.url}/v1/production/rollback"
            answers[role] = httpx.post(url, json=body, headers=headers, timeout=60).status_code
        assert answers == {"read": 403, "write": 200}
        move = running.store.history("rewriter")[-1]
        assert (move.who, move.reason) == ("API key write-key", "a complaint")
