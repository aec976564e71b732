"""`searchlora serve` as its users run it, and as it is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.api.made import asked

SCRIPT = str(Path(sys.executable).with_name("searchlora"))
LONG = asked(max_tokens=1000, structured_outputs={"regex": "[a-z]{999}"}, stream=True)


@contextmanager
def running(base, store, *arguments):
    command = [SCRIPT, "serve", "--base", base.path, "--store", store.root, "--port", "0", "--precision", "fp32"]
    env = os.environ | {"PYTHONUNBUFFERED": "1", "SEARCHLORA_API_KEY": "first second"}
    process = subprocess.Popen(
        [*map(str, command), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        said = process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1", said)
        assert found, process.communicate()
        with httpx.Client(base_url=found[1], headers={"authorization": "Bearer second"}, timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def test_what_is_in_flight_is_finished_when_it_is_terminated(tiny_base, store):
    with running(tiny_base, store, "--load", "two@production", "--max-prompt", "100") as (process, client):
        assert client.get("/v1/models", headers={"authorization": "Bearer third"}).status_code == 401
        assert client.post("/v1/chat/completions", json=asked("x" * 100)).status_code == 400
        assert "searchlora_adapters_loaded 1.0" in client.get("/metrics").text
        with client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
            lines = (line for line in stream.iter_lines() if line)
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line.removeprefix("data: ") for line in lines]
        assert rest[-1] == "[DONE]"
        last = json.loads(rest[-2])["choices"][0]
        assert (last["finish_reason"], len(rest)) == ("stop", 1000)
        out, err = process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in out + err
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")


def test_what_cannot_be_served_is_said_before_anything_is(refused, tiny_base, tmp_path):
    for arguments, words in (
        (("--base", tmp_path / "none"), "there is no base model"),
        (("--base", tiny_base.path, "--load", "../one"), "is not"),
        (("--base", tiny_base.path, "--load", "one"), "there is no adapter 'one'"),
        (("--base", tiny_base.path, "--encoder", "none"), "there is no base model 'none'"),
        (("--base", tiny_base.path, "--host", "203.0.113.1"), "cannot be used"),
    ):
        assert words in refused("serve", "--store", tmp_path / "store", "--port", "0", *arguments)
