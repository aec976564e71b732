"""Killed servers: nothing acknowledged is lost, and no alias is between two states, while versions share it."""

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
from searchlora.task import load_task
from tests.factories import random_adapter

#: Kills of the test; `SEARCHLORA_KILLS=20` for many.
KILLS = int(os.environ.get("SEARCHLORA_KILLS", "3"))

_SERVE = """
import sys
from searchlora.cli import main
sys.argv = ["searchlora", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_killed_servers_lose_nothing_that_they_acknowledged(tiny_base, corpus_of_search, tmp_path):
    """Clicks that were acknowledged are there after kill -9, and searches but for those of the last second."""
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
    acknowledged, searches = set(), set()
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
                store.split("rewriter", "production", {1: 0.5, 2: 0.5}, main=1)
                until = time.monotonic() + rng.uniform(1.5, 3)
                while time.monotonic() < until:
                    click = {"search": searched(client), "action": "click", "document": "d1"}
                    response = client.post("/v1/events", json={"events": [click]})
                    assert response.json()["recorded"] == 1
                    acknowledged.add(click["search"])
                server.send_signal(signal.SIGKILL)
        assert Store(store.root).alias_history("rewriter").weights("production") == {1: 0.5, 2: 0.5}
    found = {event["id"]: rows for event, rows in EventLog(folder).searches()}
    assert {id_ for id_, rows in found.items() if rows} == acknowledged
    assert acknowledged | searches <= found.keys()


def searched(client) -> str:
    """The id of a search of a user of its own."""
    user = f"user {time.monotonic_ns()}"
    response = client.post("/v1/search", json={"pipeline": "shop", "query": "red couch", "user": user})
    assert response.status_code == 200, response.text
    id_: str = response.json()["id"]
    return id_
