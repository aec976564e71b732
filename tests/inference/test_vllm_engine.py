"""The managed vLLM engine: how its server starts, grows and ends, and which adapters are refused.

A small program takes the place of vLLM; `python -m benchmarks.vllm_managed` runs the same engine with vLLM itself.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, LoadCheckFailed, PromptTooLong
from searchlora.inference.engine import Request
from searchlora.inference.engines import Engines
from searchlora.inference.remote import vllm_server
from searchlora.inference.remote.vllm_engine import VllmEngine, servable_rank
from searchlora.inference.settings import VllmSettings
from searchlora.systems.compared import generating_systems
from tests.factories import first_word, random_adapter_folder, word_records
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
    """`one@1` and `two@1` of rank 4, `wide@1` of rank 20."""
    folder = tmp_path_factory.mktemp("managed")
    store = random_store(tiny_base, folder, "one", "two")
    made, recipe = random_adapter_folder(tiny_base, folder / "wide", 3, ("lora.r=20",))
    store_adapter(store, "wide", made, task=first_word(folder / "word"), recipe=recipe, base=tiny_base)
    return store


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
def test_the_server_has_slots_and_rank_for_the_adapters_and_ends_with_the_engine(tiny_base, store, python, tmp_path):
    settings = VllmSettings(python=python, precision="fp32", tensor_parallel_size=2, args=("--seed=3",))
    engine = VllmEngine(settings, tiny_base, store)
    assert engine.engine_id == "vllm 0.32.0, fp32, --seed=3"
    assert [engine.pin("one"), engine.pin("two")] == ["one@1", "two@1"]
    assert not (tmp_path / "starts.jsonl").exists()
    assert len(engine.generate([Request(CHAT), Request(CHAT, "one")])) == 2
    (first,) = starts(tmp_path)
    expected = {"max-loras": "3", "max-lora-rank": "8", "dtype": "float32", "tensor-parallel-size": "2", "seed": "3"}
    assert expected.items() <= first["options"].items()
    assert first["options"]["host"] == "127.0.0.1"
    engine.load_folder("candidate", store.get("two@1").path)  # a third adapter: twice the slots
    other = VllmEngine(settings, tiny_base, store)  # shares the server
    engine.generate([Request(CHAT, "candidate"), Request(CHAT, "two")])
    other.generate([Request(CHAT, "wide")])
    engine.generate([Request(CHAT, "candidate"), Request(CHAT, "one")])  # known to the server after its restart, too
    assert [(start["options"]["max-loras"], start["options"]["max-lora-rank"]) for start in starts(tmp_path)] == [
        ("3", "8"), ("6", "8"), ("6", "32")
    ]  # fmt: skip
    assert engine.unload("candidate")
    engine.close()
    assert is_alive(starts(tmp_path)[-1]["pids"][0])
    other.close()
    assert are_gone([pid for start in starts(tmp_path) for pid in start["pids"]])
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.generate([Request(CHAT)])


@pytest.mark.slow
def test_a_server_that_ends_is_an_error_with_the_end_of_its_log_and_starts_again(tiny_base, python, tmp_path):
    (tmp_path / "fails").touch()
    engine = VllmEngine(VllmSettings(python=python, retries=2), tiny_base)
    with pytest.raises(EngineError, match=r"vLLM did not start, exit status 1; the end of its log:\n.*no kernel for"):
        engine.generate([Request(CHAT)])
    (tmp_path / "fails").unlink()
    engine.generate([Request(CHAT)])
    (tmp_path / "dies").touch()
    with pytest.raises(EngineError, match="vLLM ended, exit status 137"):
        engine.generate([Request(CHAT)])
    (tmp_path / "dies").unlink()
    assert not engine.unload("candidate")  # which starts no server
    assert len(starts(tmp_path)) == 2
    with socket.create_server(("127.0.0.1", int(starts(tmp_path)[-1]["options"]["port"]))):
        engine.generate([Request(CHAT)])  # starts it again, at another port
    assert len(starts(tmp_path)) == 3
    engine.close()
    assert are_gone([pid for start in starts(tmp_path) for pid in start["pids"]])


@pytest.mark.slow
def test_a_server_is_not_asked_through_a_proxy(tiny_base, python, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    engine = VllmEngine(VllmSettings(python=python, start_timeout_s=20, retries=0), tiny_base)
    assert len(engine.generate([Request(CHAT)])) == 1


@pytest.mark.slow
def test_a_server_that_answers_without_the_key_is_not_asked(tiny_base, python, tmp_path):
    (tmp_path / "open").touch()
    engine = VllmEngine(VllmSettings(python=python, start_timeout_s=3), tiny_base)
    with pytest.raises(EngineError, match="vLLM was not ready after 3 s"):
        engine.generate([Request(CHAT)])
    assert are_gone(starts(tmp_path)[-1]["pids"])


@pytest.mark.slow
def test_a_refused_request_does_not_wait_for_the_end_of_the_server(tiny_base, python, monkeypatch):
    monkeypatch.setattr(vllm_server.VllmServer, "failure", lambda _: pytest.fail("waits a second"))
    engine = VllmEngine(VllmSettings(python=python), tiny_base)
    with pytest.raises(PromptTooLong):
        engine.generate([Request(({"role": "user", "content": "tent " * 3000},))])


@pytest.mark.slow
def test_the_adapters_of_a_measurement_are_known_before_its_first_request(store, python, tmp_path):
    engines = Engines(store, VllmSettings(python=python))
    adapters, rows = [store.get("one@1"), store.get("wide@1")], word_records(2)
    for system in generating_systems(first_word(tmp_path / "task"), rows, adapters, engines, unconstrained=False):
        system.run(rows)
    (start,) = starts(tmp_path)
    assert (start["options"]["max-loras"], start["options"]["max-lora-rank"]) == ("3", "32")


@pytest.mark.slow
def test_a_restart_does_not_load_the_earlier_folder_of_a_candidate(tiny_base, store, python, tmp_path):
    engine = VllmEngine(VllmSettings(python=python, retries=0), tiny_base, store)
    (earlier := tmp_path / "round 1").mkdir()
    shutil.copy(store.get("one@1").path / "adapter_config.json", earlier)
    engine.load_folder("candidate", earlier)
    shutil.rmtree(earlier)
    engine.pin("wide")
    engine.load_folder("candidate", store.get("two@1").path)
    assert len(engine.generate([Request(CHAT, "candidate"), Request(CHAT, "wide")])) == 2
    assert len(starts(tmp_path)) == 2


PARENT = """
import os, sys, time
from pathlib import Path
from searchlora.inference.remote.vllm_server import VllmServer
from searchlora.inference.settings import VllmSettings
from searchlora.models.resolve import BaseModel
server = VllmServer(VllmSettings(python=sys.argv[1]), BaseModel("tiny", Path(sys.argv[2])))
with server.running():
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


INTERRUPTED = """
import os, signal, subprocess, sys
from searchlora.inference.remote import vllm_supervisor
class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen = Interrupted
sys.exit(vllm_supervisor.main(os.getppid(), ["sleep", "600"]))
"""


def test_a_supervisor_that_is_told_to_end_while_it_starts_vllm_leaves_nothing():
    told = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert are_gone([int(told.stdout)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child that its parent has ended")
def test_vllm_ends_with_a_killed_supervisor(tiny_base, python, tmp_path):
    VllmEngine(VllmSettings(python=python), tiny_base).generate([Request(CHAT)])
    (start,) = starts(tmp_path)
    vllm, worker, supervisor = start["pids"]
    os.kill(supervisor, 9)
    assert are_gone([vllm])
    os.kill(worker, 9)  # vLLM itself ends its workers


@pytest.mark.parametrize(
    ("changes", "max_rank", "says"),
    [
        ({"r": 600}, None, "shop@1: 'r': rank 600 is above vLLM's maximum, 512"),
        ({"rank_pattern": {"q_proj": 640}}, None, "'rank_pattern.q_proj': rank 640 is above vLLM's maximum"),
        ({"r": 32}, 16, "'r': rank 32 is above 'max_lora_rank' of the engine, 16"),
    ],
)
def test_adapters_that_vllm_cannot_serve_are_refused(changes, max_rank, says):
    with pytest.raises(LoadCheckFailed, match=says):
        servable_rank({"r": 8, **changes}, "shop@1", max_rank)


def test_an_adapter_is_refused_before_the_server_starts(tiny_base, store, python, tmp_path):
    engine = VllmEngine(VllmSettings(python=python, max_lora_rank=16), tiny_base, store)
    with pytest.raises(LoadCheckFailed, match="wide@1: 'r': rank 20"):
        engine.generate([Request(CHAT), Request(CHAT, "wide")])
    assert not (tmp_path / "starts.jsonl").exists()


def test_an_environment_without_vllm_is_refused(tiny_base, tmp_path, monkeypatch):
    monkeypatch.delenv("SEARCHLORA_VLLM_PYTHON", raising=False)
    with pytest.raises(EngineError, match="'python': the interpreter of the environment with vLLM is not known"):
        VllmEngine(VllmSettings(), tiny_base)
    monkeypatch.setenv("SEARCHLORA_VLLM_PYTHON", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="'python': the interpreter cannot be started"):
        VllmEngine(VllmSettings(), tiny_base)
    (tmp_path / "csv.py").write_text("1 / 0")  # a module of the working directory is not imported
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"has no vLLM \(KeyError: 'vllm'\)"):
        VllmEngine(VllmSettings(python=sys.executable), tiny_base)
