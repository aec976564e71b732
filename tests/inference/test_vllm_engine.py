"""The managed vLLM engine: how its server starts, grows and ends, and which adapters are refused.

A small program takes the place of vLLM; `python -m benchmarks.vllm_managed` runs the same engine with vLLM itself.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, LoadCheckFailed, PromptTooLong
from searchlora.inference.engine import Request
from searchlora.inference.engines import Engines
from searchlora.inference.remote import vllm_server
from searchlora.inference.remote.vllm_engine import VllmEngine
from searchlora.inference.settings import VllmSettings
from searchlora.recipe import load_recipe
from tests.inference.small_models import random_store

FAKE = Path(__file__).with_name("fake_vllm.py")
CHAT = ({"role": "user", "content": "tent"},)


@pytest.fixture
def python(tmp_path, monkeypatch) -> str:
    """The interpreter of an environment with the program that takes the place of vLLM."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(FAKE)])} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path))
    monkeypatch.setattr(vllm_server, "_SERVERS", WeakValueDictionary())
    return str(program)


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory) -> Store:
    return random_store(tiny_base, tmp_path_factory.mktemp("managed"), "one", "two")


def starts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]


def are_gone(pids: list[int], seconds: float = 30) -> bool:
    """Whether the processes end within this time; one that nobody has waited for has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_engines_share_a_server_that_ends_with_the_last_of_them(tiny_base, store, python, tmp_path):
    settings = VllmSettings(python=python, precision="fp32", tensor_parallel_size=2, args=("--seed=3",))
    assert Engines(store, settings).engine_id(tiny_base, "bf16") == "vllm 0.32.0, fp32, --seed=3"
    assert not (tmp_path / "starts.jsonl").exists()
    engine, other = (VllmEngine(settings, tiny_base, store) for _ in range(2))
    assert engine.engine_id == "vllm 0.32.0, fp32, --seed=3"
    assert len(engine.generate([Request(CHAT), Request(CHAT, "one")])) == 2
    (start,) = starts(tmp_path)
    expected = {"max-loras": "4", "max-lora-rank": "32", "dtype": "float32", "tensor-parallel-size": "2", "seed": "3"}
    assert expected.items() <= start["options"].items()
    assert start["options"]["host"] == "127.0.0.1"
    engine.close()
    assert is_alive(start["pids"][0])
    assert len(other.generate([Request(CHAT, "two")])) == 1
    other.close()
    assert are_gone(start["pids"])
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.generate([Request(CHAT)])


@pytest.mark.slow
def test_slots_are_released_for_further_adapters(tiny_base, store, python, tmp_path):
    engine = VllmEngine(VllmSettings(python=python), tiny_base, store)
    for turn in range(6):
        engine.load_folder(f"candidate {turn}", store.get("two@1").path)
        assert len(engine.generate([Request(CHAT, f"candidate {turn}"), Request(CHAT, "one")])) == 2
        loaded = [name for name, card in engine._models._cards.items() if card.get("parent")]
        assert f"candidate {turn}" in loaded and len(loaded) <= 3  # of four slots one stays empty
    assert engine.unload("one")
    assert not engine.unload("one")
    assert len(engine.generate([Request(CHAT, "one")])) == 1
    assert len(starts(tmp_path)) == 1


@pytest.mark.slow
def test_a_server_that_ends_is_an_error_with_the_end_of_its_log(tiny_base, python, tmp_path):
    (tmp_path / "fails").touch()
    settings = VllmSettings(python=python, retries=2)
    with pytest.raises(EngineError, match=r"vLLM did not start, exit status 1; the end of its log:\n.*no kernel for"):
        VllmEngine(settings, tiny_base)
    (tmp_path / "fails").unlink()
    engine = VllmEngine(settings, tiny_base)
    (tmp_path / "dies").touch()
    with pytest.raises(EngineError, match="vLLM ended, exit status 137"):
        engine.generate([Request(CHAT)])
    (tmp_path / "dies").unlink()
    assert len(VllmEngine(settings, tiny_base).generate([Request(CHAT)])) == 1
    engine.close()
    assert are_gone([pid for start in starts(tmp_path)[:2] for pid in start["pids"]])


@pytest.mark.slow
def test_a_server_is_not_asked_through_a_proxy(tiny_base, python, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    engine = VllmEngine(VllmSettings(python=python, start_timeout_s=20, retries=0), tiny_base)
    assert len(engine.generate([Request(CHAT)])) == 1


@pytest.mark.slow
def test_a_refused_request_does_not_wait_for_the_end_of_the_server(tiny_base, python, monkeypatch):
    monkeypatch.setattr(vllm_server.VllmServer, "failure", lambda _: pytest.fail("waits two seconds"))
    engine = VllmEngine(VllmSettings(python=python), tiny_base)
    with pytest.raises(PromptTooLong):
        engine.generate([Request(({"role": "user", "content": "tent " * 3000},))])


PARENT = """
import os, sys, time
from pathlib import Path
from searchlora.inference.remote.vllm_server import VllmServer
from searchlora.inference.settings import VllmSettings
from searchlora.recipe import load_recipe
from searchlora.models.resolve import BaseModel
server = VllmServer(VllmSettings(python=sys.argv[1]), BaseModel("tiny", Path(sys.argv[2])))
if os.fork() == 0:  # a fork of the parent holds its files open
    time.sleep(600)
(Path(sys.argv[2]) / "ready").touch()
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_parent_leaves_neither_vllm_nor_its_workers(python, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, python, str(tmp_path)], start_new_session=True)
    try:
        while not (tmp_path / "ready").exists():
            assert parent.poll() is None
            time.sleep(0.1)
        (start,) = starts(tmp_path)
        assert all(map(is_alive, start["pids"]))
        parent.kill()
        parent.wait()
        assert are_gone(start["pids"])
    finally:
        os.killpg(parent.pid, 9)  # the fork


def test_what_vllm_cannot_serve_is_refused_before_it_is_trained(python, tmp_path, monkeypatch):
    recipe = load_recipe({}, overrides=["lora.r=64"])
    VllmSettings(python=python, max_lora_rank=64).check_recipe(recipe, "recipe")
    with pytest.raises(LoadCheckFailed, match="rank 64 is above"):
        VllmSettings(python=python).check_recipe(recipe, "recipe")
    monkeypatch.delenv("SEARCHLORA_VLLM_PYTHON", raising=False)
    (tmp_path / "csv.py").write_text("1 / 0")  # a module of the working directory is not imported
    monkeypatch.chdir(tmp_path)
    for given, reason in ((None, "."), (str(tmp_path / "none"), "No such file"), (sys.executable, "KeyError: 'vllm'")):
        with pytest.raises(EngineError, match=f"is not the interpreter of an environment with vLLM .*{reason}"):
            VllmSettings(python=given).check_recipe(recipe, "recipe")
