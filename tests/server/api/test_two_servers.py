"""Two servers of one store, as processes of their own: each sees where an alias was moved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from searchlora.adapters.store import Store
from tests.factories import first_word, random_adapter
from tests.server.api.serving import asked

#: Seconds in which a move must be seen.
SEEN_WITHIN_S = 5.0


@contextmanager
def running(base, place, cache):
    command = [sys.executable, "-m", "searchlora", "serve", "--base", str(base.path), "--store", place, "--port", "0"]
    env = os.environ | {"PYTHONUNBUFFERED": "1", "SEARCHLORA_CACHE": str(cache)}
    process = subprocess.Popen(
        [*command, "--precision", "fp32"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1", process.stdout.readline())
        assert found, process.communicate()
        with httpx.Client(base_url=found[1], timeout=120) as client:
            yield client
    finally:
        process.kill()
        process.communicate()


def answered(client) -> str:
    """The exact version that answers for the alias."""
    response = client.post("/v1/chat/completions", json=asked(model="rewriter@production"))
    assert response.status_code == 200, response.text
    return response.json()["model"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_an_alias_that_moves_is_seen_by_each_server(tmp_path, tiny_base, place, request):
    root = str(tmp_path / "store") if place == "folder" else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    store, task = Store(root), first_word(tmp_path / "task")
    for seed in (1, 2):
        random_adapter(store, "rewriter", task, tiny_base, tmp_path / str(seed), seed)
    store.alias("rewriter", "production", 1)
    with ExitStack() as stack:
        servers = [stack.enter_context(running(tiny_base, root, tmp_path / f"cache-{n}")) for n in range(2)]
        assert [answered(server) for server in servers] == ["rewriter@1"] * 2
        for target in (2, 1):
            for server in servers:
                answered(server)  # both have just looked
            store.alias("rewriter", "production", target)
            moved = time.monotonic()
            for server in servers:
                while (answer := answered(server)) != f"rewriter@{target}":
                    assert answer == f"rewriter@{3 - target}"
                    assert time.monotonic() - moved < SEEN_WITHIN_S
                    time.sleep(0.1)
                aliases = [
                    model["id"] for model in server.get("/v1/models").json()["data"] if "production" in model["id"]
                ]
                assert aliases == ["rewriter@production"]
