"""`searchlora serve` as a subprocess: start, errors at start, shutdown."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks.servers import is_ready
from searchlora.cli.app import app
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import public_name
from searchlora.recipe import MAX_RANK
from tests.child_scripts import COMMAND, Script
from tests.server.api.serving import asked

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
        reported = process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1", reported)
        assert found, process.communicate()
        with httpx.Client(base_url=found[1], headers={"authorization": "Bearer second"}, timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served(base, store, *arguments):
    """The same in a process that need not import the libraries."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--base", base.path, "--store", store.root, "--port", port, "--precision", "fp32", *arguments]
    script = Script(COMMAND, *words, environment={"SEARCHLORA_API_KEY": "first second"})
    try:
        assert is_ready(script, f"http://127.0.0.1:{port}/readyz"), script.stderr
        headers = {"authorization": "Bearer second"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            yield client
    finally:
        script.kill()


@pytest.mark.slow
def test_sigterm_finishes_requests_in_progress(tiny_base, store):
    with running(tiny_base, store, "--load", "two@production", "--max-prompt", "100") as (process, client):
        assert client.get("/v1/models", headers={"authorization": "Bearer third"}).status_code == 401
        assert client.post("/v1/chat/completions", json=asked("x" * 100)).status_code == 400
        assert "searchlora_adapters_loaded 1.0" in client.get("/metrics").text
        with client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
            lines = (line for line in stream.iter_lines() if line)
            first = next(lines).removeprefix("data: ")
            process.send_signal(signal.SIGTERM)
            rest = [line.removeprefix("data: ") for line in lines]
        assert rest[-1] == "[DONE]"
        *pieces, last = (json.loads(each)["choices"][0] for each in [first, *rest[:-1]])
        assert last["finish_reason"] == "stop"
        assert len("".join(piece["delta"]["content"] for piece in pieces)) == 999
        out, err = process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in out + err
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")


@pytest.mark.slow
def test_caller_limits_and_trusted_proxies_are_options(tiny_base, store):
    limits = ("--per-caller", "2", "--per-minute", "2", "--trusted-proxy", "127.0.0.0/8")
    with served(tiny_base, store, *limits) as client:
        one = {"model": "one", "messages": [{"role": "user", "content": "x"}], "choices": ["a"]}
        answer = client.post("/v1/score", json={"requests": [one] * 3})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_requests")
        long_prompt = client.post("/v1/chat/completions", json=asked("x" * 9000))
        assert (long_prompt.status_code, long_prompt.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert client.post("/v1/score", json=one).json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.slow
def test_limits_of_the_engine_are_options(tiny_base, store, monkeypatch):
    """The rank of the store's adapters is 4."""
    limits = ("--max-rank", "3", "--adapter-bytes", "1000000", "--batch-invariant", "--waiting-per-caller", "1")
    with served(tiny_base, store, *limits) as client:
        answer = client.post("/v1/chat/completions", json=asked())
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_refused")
        assert "rank" in answer.json()["error"]["message"]
        one = {"model": public_name(str(tiny_base.path)), "messages": asked()["messages"], "choices": ["a"]}
        answer = client.post("/v1/score", json={"requests": [one] * 2})
        assert answer.status_code == 503
        assert "no more than 1 of one client" in answer.json()["error"]["message"]
    given = {}
    monkeypatch.setattr("searchlora.server.api.serve.make_service", lambda *_, **more: given.update(more) or 1 / 0)
    for arguments, wanted in ((limits, (3, 1_000_000, True, 1)), ((), (MAX_RANK, 4 << 30, False, None))):
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(app, ["serve", "--port", "0", *arguments], catch_exceptions=False)
        local = given["engine"]
        known = (local.max_rank, local.adapter_bytes, local.batch_invariant, given["waiting_per_caller"])
        assert known == wanted


def test_topics_and_judgments_are_given_together_or_with_a_folder_for_grades(tmp_path, monkeypatch, refused):
    given = {}
    monkeypatch.setattr("searchlora.server.api.serve.make_service", lambda *_, **more: given.update(more) or 1 / 0)
    topics, qrels = tmp_path / "topics.jsonl", tmp_path / "qrels.txt"
    topics.write_text('{"id": "t1", "query": "red couch"}\n', encoding="utf-8")
    qrels.write_text("t1 0 d1 2\n", encoding="utf-8")
    for options in (["--topics", topics], ["--qrels", qrels]):
        assert "topics and judgments measure together" in refused("serve", *map(str, options))
    for more, collects in (([], False), (["--grades", tmp_path / "grades"], True)):
        with pytest.raises(ZeroDivisionError):
            words = ["serve", "--port", "0", "--topics", topics, "--qrels", qrels, *more]
            CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert (given["grades"].collects, set(given["grades"].judged()[0])) == (collects, {"t1"})
        given["grades"].close()


def test_parameters_of_pipelines_and_the_cache_are_passed_on(tmp_path, monkeypatch, refused):
    given = {}
    with monkeypatch.context() as patched:
        patched.setattr("searchlora.server.api.serve.make_service", lambda *_, **more: given.update(more) or 1 / 0)
        words = [
            "serve",
            "--port",
            "0",
            "--pipeline",
            "product_search",
            "--set",
            "judge=shop-judge",
            "--set",
            "depth=5",
        ]
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(
                app, [*words, "--cache", str(tmp_path / "answers"), "--cache-mb", "3"], catch_exceptions=False
            )
    assert given["overrides"] == ["judge=shop-judge", "depth=5"]
    assert (given["cache"].file, given["cache"].max_bytes) == (tmp_path / "answers", 3 << 20)
    assert "sets no parameter" in refused("serve", "--port", "0", "--pipeline", "product_search", "--set", "jugde=x")
    assert "Give --pipeline, too." in refused("serve", "--port", "0", "--set", "judge=x")


def test_settings_of_the_engine_are_those_of_every_verb(tmp_path, monkeypatch, refused):
    """`--engine` takes the settings that other verbs take; options of the command line are laid over them."""
    given = {}
    monkeypatch.setattr("searchlora.server.api.serve.make_service", lambda *_, **more: given.update(more) or 1 / 0)

    def serve(*arguments):
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(app, ["serve", "--port", "0", *map(str, arguments)], catch_exceptions=False)
        return given["engine"]

    assert serve() == LocalSettings(precision="bf16", batch_invariant=False)
    (tmp_path / "engine.yaml").write_text("quantization: nf4\nbatch_rows: 7\n")
    for settings in ("{quantization: nf4, batch_rows: 7}", tmp_path / "engine.yaml"):
        expected = LocalSettings(quantization="nf4", batch_rows=7, batch_invariant=False)
        assert serve("--engine", settings) == expected
        assert serve("--engine", settings, "--batch-rows", "9") == expected.model_copy(update={"batch_rows": 9})
    assert serve("--engine", "{batch_invariant: true}").batch_invariant
    assert "a server computes in its own process" in refused("serve", "--engine", "{url: 'http://a'}")
    assert "'rows'" in refused("serve", "--engine", "{rows: 7}")


@pytest.mark.slow
def test_invalid_options_are_reported_before_loading(refused, tiny_base, tmp_path):
    for arguments, words in (
        (("--base", tmp_path / "none"), "there is no base model"),
        (("--base", tiny_base.path, "--load", "../one"), "is not"),
        (("--base", tiny_base.path, "--load", "one"), "there is no adapter 'one'"),
        (("--base", tiny_base.path, "--encoder", "none"), "there is no base model 'none'"),
        (("--base", tiny_base.path, "--host", "203.0.113.1"), "cannot be used"),
        (("--base", tiny_base.path, "--trusted-proxy", "proxy.example"), "neither an address nor a network"),
    ):
        assert words in refused("serve", "--store", tmp_path / "store", "--port", "0", *arguments)


@pytest.mark.parametrize(
    ("env", "arguments", "words"),
    [
        ("", (), "SEARCHLORA_API_KEY is set and holds no key"),
        ("  ", (), "SEARCHLORA_API_KEY is set and holds no key"),
        (None, ("--api-key", ""), "an API key is empty, or begins or ends with a blank"),
        (None, ("--api-key", "good", "--api-key", " "), "an API key is empty, or begins or ends with a blank"),
    ],
)
def test_an_unusable_api_key_is_refused(refused, monkeypatch, env, arguments, words):
    monkeypatch.delenv("SEARCHLORA_API_KEY", raising=False)
    if env is not None:
        monkeypatch.setenv("SEARCHLORA_API_KEY", env)
    assert words in refused("serve", "--port", "0", *arguments)


@pytest.mark.slow
def test_the_open_file_limit_is_raised_and_bounds_requests():
    code = (
        "import resource; from searchlora.server.api.serve import max_connections;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 600));"
        "print(max_connections(), resource.getrlimit(resource.RLIMIT_NOFILE));"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); print(max_connections())"
    )
    reported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reported.stdout.split("\n")[:2] == ["472 (600, 600)", "1"]
