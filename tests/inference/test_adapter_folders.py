"""Files of adapters are hashed in the threads of clients, once, and loads read what was hashed."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from searchlora.adapters.peft_folder import WEIGHTS, read_weights
from searchlora.errors import TamperedAdapter
from searchlora.inference import adapter_folders
from searchlora.inference.local import LocalEngine
from tests.inference.scheduling.requests import asked
from tests.inference.small_models import local_engine, random_store


@pytest.fixture
def store(tiny_base, tmp_path):
    return random_store(tiny_base, tmp_path, "one", "two")


@pytest.fixture
def hashed(monkeypatch):
    """The adapters whose files were hashed, and the threads that did it."""
    calls: list[tuple[str, int]] = []
    real = adapter_folders.check_files

    def check_files(stored, base):
        calls.append((stored.reference, threading.get_ident()))
        real(stored, base)

    monkeypatch.setattr(adapter_folders, "check_files", check_files)
    return calls


def change(file: Path) -> None:
    """Change one byte in place, and set the time of modification back."""
    times = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        last = opened.read(1)
        opened.seek(-1, 2)
        opened.write(bytes([last[0] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.slow
def test_rows_do_not_wait_while_a_large_adapter_is_hashed(tiny_base, store, monkeypatch):
    started, go, calls = threading.Event(), threading.Event(), []
    real = adapter_folders.check_files

    def slow(stored, base):
        calls.append(stored.reference)
        started.set()
        assert go.wait(30)
        real(stored, base)

    monkeypatch.setattr(adapter_folders, "check_files", slow)
    engine = LocalEngine(tiny_base, store, precision="fp32")
    with ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(lambda: engine.submit(asked("tent", "one")).result(30)) for _ in range(4)]
        try:
            assert started.wait(10)
            assert engine.generate([asked("tent")]) and engine.submit(asked("rope")).result(10)
            assert not any(each.done() for each in waiting)
        finally:
            go.set()
        assert len({each.result(30).text for each in waiting}) == 1
    assert calls == ["one@1"]
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["generate", "submit", "score", "load"])
def test_files_are_hashed_in_the_callers_thread_and_once(tiny_base, store, hashed, ask):
    engine = LocalEngine(tiny_base, store, precision="fp32", max_loras=1)
    for name in ("one", "two", "one", "two"):
        if ask == "generate":
            engine.generate([asked("tent", name)] * 2)
        elif ask == "submit":
            engine.submit(asked("tent", name)).result(30)
        elif ask == "score":
            engine.submit_scores([(asked("tent", name), ["red", "green"], None)])[0].result(30)
        else:
            engine.load(name)
    assert engine.stats().slot_evictions == 3
    assert hashed == [("one@1", threading.get_ident()), ("two@1", threading.get_ident())]
    engine.close()


@pytest.mark.slow
def test_changed_files_are_hashed_again_at_the_next_load(tiny_base, store, hashed):
    engine = LocalEngine(tiny_base, store, precision="fp32", max_loras=1)
    before = engine.generate([asked("tent", "one")])
    engine.load("two")
    change(store.get("one").path / WEIGHTS)
    future = engine.submit(asked("tent", "one"))
    with pytest.raises(TamperedAdapter, match="was changed"):
        future.result(30)
    assert [name for name, _ in hashed][:3] == ["one@1", "two@1", "one@1"]
    change(store.get("one").path / WEIGHTS)
    assert engine.generate([asked("tent", "one")]) == before
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("sequential", [False, True])
def test_an_adapter_that_changes_while_it_is_read_is_refused(tiny_base, store, monkeypatch, sequential):
    from searchlora.inference import sequential as one_adapter
    from searchlora.inference.batched import lora_slots

    engine = local_engine("one adapter" if sequential else "batched", tiny_base, store=store)
    module, name = (one_adapter, "attach") if sequential else (lora_slots, "read_lora_weights")
    real = getattr(module, name)

    def meanwhile(*arguments):
        result = real(*arguments)
        change(store.get("one").path / WEIGHTS)
        return result

    monkeypatch.setattr(module, name, meanwhile)
    with pytest.raises(TamperedAdapter, match="was changed while it was loaded"):
        engine.generate([asked("tent", "one")])
    assert engine.stats().loaded == ()
    monkeypatch.setattr(module, name, real)
    change(store.get("one").path / WEIGHTS)
    assert engine.generate([asked("tent", "one")]) != engine.generate([asked("tent")])
    engine.close()


@pytest.mark.slow
def test_weights_are_read_into_memory(store):
    folder = store.get("one").path
    tensors = read_weights(folder)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    (folder / WEIGHTS).chmod(0o644)
    with (folder / WEIGHTS).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(b"\0" * (size - size // 2))
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())
