"""`searchlora serve` as a subprocess: start, errors at start, shutdown."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from searchlora.cli.app import app
from searchlora.inference.settings import LocalSettings
from searchlora.server.api.config import ServeConfig
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
        assert process.returncode == 0
        assert "Traceback" not in out + err
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")


@pytest.mark.slow
def test_a_draining_server_is_not_ready_and_goes_on_serving(tiny_base, store):
    with running(tiny_base, store, "--drain-time", "3") as (process, client):
        assert client.get("/readyz").is_success
        assert "connection" not in client.get("/v1/models").headers
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        while (ready := client.get("/readyz")).is_success:
            assert time.monotonic() - told < 1
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stopping")
        assert client.get("/healthz").is_success
        while (response := client.get("/v1/models")).headers.get("connection") != "close":
            assert time.monotonic() - told < 2
        assert response.is_success
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert time.monotonic() - told >= 3


@pytest.fixture
def configured(monkeypatch):
    """The settings with which a command would start a server."""
    seen = []
    monkeypatch.setattr("searchlora.server.api.serve.make_service", lambda config: seen.append(config) or 1 / 0)

    def run(*arguments):
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(app, ["serve", "--port", "0", *map(str, arguments)], catch_exceptions=False)
        return seen[-1]

    return run


def test_options_are_laid_over_the_file_and_the_file_over_defaults(configured, tmp_path, refused):
    (tmp_path / "serve.yaml").write_text("max_loras: 4\ntimeout: 5\npipelines: [product_search]\nhost: '::1'\n")
    default, changed = ServeConfig(port=0), configured("--config", tmp_path / "serve.yaml", "--timeout", "7")
    assert configured() == default
    assert default.local_engine.adapter_bytes == 4 << 30
    assert "cache_tokens" not in default.local_engine.model_fields_set  # the engine may choose a smaller one
    for given in ("50000", "65536"):
        assert "cache_tokens" in configured("--cache-tokens", given).local_engine.model_fields_set
    expected = {"max_loras": 4, "timeout": 7.0, "pipelines": ("product_search",), "host": "::1"}
    assert changed == replace(default, **expected)
    for content, says in (
        ("max_lora: 4", "'max_lora': unexpected keyword argument. Keys: base, "),
        ("max_loras: 0", "'max_loras' is 0. Give at least 1."),
        ("- 1", "settings are a mapping"),
        ("a: [", "is not YAML"),
        ("corpora: [a, b]", "there are 2 corpora for 0 pipelines"),
    ):
        (tmp_path / "serve.yaml").write_text(content)
        assert says in refused("serve", "--config", str(tmp_path / "serve.yaml"))


def test_topics_and_judgments_are_given_together_or_with_a_folder_for_grades(tmp_path, configured, refused):
    for options in (["--topics", "t"], ["--qrels", "q"]):
        assert "topics and judgments measure together" in refused("serve", *options)
        configured(*options, "--grades", tmp_path)


def test_parameters_of_pipelines_must_have_a_pipeline_that_takes_them(refused):
    assert "sets no parameter" in refused("serve", "--port", "0", "--pipeline", "product_search", "--set", "jugde=x")
    assert "Give --pipeline, too." in refused("serve", "--port", "0", "--set", "judge=x")


def test_settings_of_the_engine_are_those_of_every_verb(tmp_path, configured, refused):
    """`--engine` takes the settings that other verbs take; options of the command line are laid over them."""
    assert configured().local_engine == LocalSettings(precision="bf16", batch_invariant=False)
    (tmp_path / "engine.yaml").write_text("quantization: nf4\nmax_num_seqs: 7\n")
    (tmp_path / "serve.yaml").write_text("engine: {quantization: nf4, max_num_seqs: 7}\n")
    expected = LocalSettings(quantization="nf4", precision="bf16", max_num_seqs=7, batch_invariant=False)
    for given in (
        ("--engine", "{quantization: nf4, max_num_seqs: 7}"),
        ("--engine", tmp_path / "engine.yaml"),
        ("--config", tmp_path / "serve.yaml"),
    ):
        assert configured(*given).local_engine == expected
        rows = configured(*given, "--max-num-seqs", "9").local_engine
        assert rows == expected.model_copy(update={"max_num_seqs": 9})
    assert configured("--engine", "{batch_invariant: true}").local_engine.batch_invariant
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
