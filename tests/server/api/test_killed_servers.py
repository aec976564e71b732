"""Killed servers: nothing acknowledged is lost, and no alias is between two states, with a rollout under way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import httpx
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.events.log import EventLog
from searchlora.experiments.rollout import RolloutPolicy, start_rollout
from searchlora.task import load_task
from tests.factories import random_adapter

#: Kills of the test; `SEARCHLORA_KILLS=20` for many.
KILLS = int(os.environ.get("SEARCHLORA_KILLS", "3"))

_SERVE = """
import sys
from searchlora.cli import main
from searchlora.server.api import rollout_watch
rollout_watch._INTERVAL_S = 0.05
sys.argv = ["searchlora", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_killed_servers_lose_nothing_that_they_acknowledged(tiny_base, corpus_of_search, tmp_path):
    """Clicks that were acknowledged are there after kill -9, and searches but for those of the last second.

    Rollouts go on, and begin anew when they are over: the alias has the versions and shares of one of its steps.
    """
    store, folder = Store(tmp_path / "store"), tmp_path / "events"
    for seed in range(2):
        random_adapter(store, "rewriter", load_task("rewriting").bound(None), tiny_base, tmp_path / f"{seed}", seed)
    store.alias("rewriter", "production", 1)
    stages = [{"adapter": {"name": "rewriter@production", "max_new_tokens": 2}}, {"bm25": {"k": 3}}]
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump({"name": "shop", "stages": stages}), encoding="utf-8")
    command = [
        *(sys.executable, "-c", _SERVE, "serve", "--base", str(tiny_base.path), "--precision", "fp32"),
        *("--store", str(store.root), "--pipeline", str(tmp_path / "shop.yaml"), "--max-loras", "2"),
        *("--corpus", str(corpus_of_search), "--port", "0", "--events", str(folder)),
    ]
    acknowledged, searches, steps = set(), set(), 0
    policy = RolloutPolicy(steps=[0.3, 0.6, 1], min_users=2, guardrails={"unserved": 0.5})
    rng = random.Random(1)
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            url = line[line.index("http://") :].split("/v1")[0]
            with httpx.Client(base_url=url, timeout=60) as client:
                before = [searched(client) for _ in range(3)]
                searches |= {*before}
                time.sleep(1)
                history = store.alias_history("rewriter")
                if history.rollout("production") is None:
                    target = history.current["production"]
                    start_rollout(store, f"rewriter@{3 - target}", "production", EventLog(folder), policy)
                until = time.monotonic() + rng.uniform(1.5, 3)
                while time.monotonic() < until:
                    click = {"search": searched(client), "action": "click", "document": "d1"}
                    response = client.post("/v1/events", json={"events": [click]})
                    assert response.json()["recorded"] == 1
                    acknowledged.add(click["search"])
                server.send_signal(signal.SIGKILL)
        check_alias(Store(store.root))
        steps = len(store.history("rewriter"))
    found = {event["id"]: rows for event, rows in EventLog(folder).searches()}
    assert {id_ for id_, rows in found.items() if rows} == acknowledged
    assert acknowledged | searches <= found.keys()
    assert steps > KILLS  # rollouts went on meanwhile


def searched(client) -> str:
    """The id of a search of a user of its own."""
    user = f"user {time.monotonic_ns()}"
    response = client.post("/v1/search", json={"pipeline": "shop", "query": "red couch", "user": user})
    assert response.status_code == 200, response.text
    id_: str = response.json()["id"]
    return id_


def check_alias(store) -> None:
    """The alias means what its last move says: a version, or two whose shares are those of a step."""
    history = store.alias_history("rewriter")
    move = history.last["production"]
    assert move.target in (1, 2)
    weights = history.weights("production")
    if move.rollout is not None and move.rollout.running:
        share = move.rollout.policy["steps"][move.rollout.step]
        assert weights == {move.target: pytest.approx(1 - share), move.rollout.candidate: share}
    else:
        assert weights is None
