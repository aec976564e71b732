"""More adapters than slots: answers are those of each adapter alone, and slots are changed without reading files."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from searchlora.errors import EngineBusy, EngineError
from searchlora.inference.batched.adapter_cache import AdapterCache, PackedAdapter
from searchlora.inference.local import LocalEngine
from tests.factories import edit_weights, random_adapter_folder
from tests.inference.scheduling.requests import asked, hold

ADAPTERS, SLOTS = 64, 4


@pytest.fixture(scope="module")
def folders(tiny_base, tmp_path_factory):
    """64 adapters with weights of their own; a rank of 2 or 4."""
    place = tmp_path_factory.mktemp("many")
    made = [random_adapter_folder(tiny_base, place / f"r{rank}", 0, (f"lora.r={rank}",))[0] for rank in (2, 4)]
    folders = {}
    for number in range(ADAPTERS):
        folder = folders[f"a{number}"] = Path(shutil.copytree(made[number % 2], place / str(number)))
        generator = torch.Generator().manual_seed(number)
        edit_weights(
            folder,
            lambda tensors, chance=generator: {
                name: 0.3 * torch.randn(tensor.shape, generator=chance) for name, tensor in tensors.items()
            },
        )
    return folders


def engine_of(base, folders, **settings):
    """An engine that knows the adapters by their names; none is loaded."""
    engine = LocalEngine(base, precision="fp32", **{"max_loras": SLOTS, **settings})
    engine._folders.update(folders)
    return engine


@pytest.fixture(scope="module")
def wanted(tiny_base, folders):
    """The answer of each adapter, alone in an engine that holds all."""
    engine = engine_of(tiny_base, folders, max_loras=ADAPTERS, adapter_cache_bytes=0)
    answers = {name: engine.generate([asked("tent", name, 6)])[0].text for name in folders}
    assert len(set(answers.values())) > ADAPTERS // 2
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("cache", [0, 40_000, 2 << 30], ids=["no cache", "a small cache", "a cache for all"])
@pytest.mark.parametrize("native", [True, False], ids=["compiled kernels", "PyTorch"])
def test_each_answer_is_that_of_its_adapter(tiny_base, folders, wanted, cache, native, monkeypatch):
    if not native:
        monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    engine = engine_of(tiny_base, folders, adapter_cache_bytes=cache)
    generator = torch.Generator().manual_seed(0)
    shares = 1 / torch.arange(1, ADAPTERS + 1)
    turns = torch.multinomial(shares, 240, replacement=True, generator=generator).tolist()
    futures = [
        (f"a{turn}", engine.submit(asked("tent", f"a{turn}", 6), client=number % 24))
        for number, turn in enumerate([*range(ADAPTERS), *turns])
    ]
    assert [name for name, future in futures if future.result(120).text != wanted[name]] == []
    stats = engine.stats()
    assert len(stats.loaded) <= SLOTS and stats.slot_evictions >= ADAPTERS - SLOTS
    engine.close()


def test_an_adapter_that_was_evicted_is_not_read_again(tiny_base, folders, wanted, monkeypatch):
    engine = engine_of(tiny_base, folders)
    slots, read = engine._core._adapters, []
    monkeypatch.setattr(slots._cache, "_read", lambda name: read.append(name) or slots._read(name))
    names = [f"a{number}" for number in range(SLOTS + 2)]
    for _ in range(3):
        for name in names:
            assert engine.generate([asked("tent", name, 6)])[0].text == wanted[name]
    assert sorted(read) == sorted(names)
    assert engine.stats().slot_evictions > SLOTS
    engine.close()


def test_rows_go_on_while_an_adapter_is_read(tiny_base, folders, monkeypatch):
    engine = engine_of(tiny_base, folders)
    slots, may_read = engine._core._adapters, threading.Event()

    def read(name):
        assert name != "a1" or may_read.wait(60)
        return slots._read(name)

    monkeypatch.setattr(slots._cache, "_read", read)
    free = hold(engine)
    running = engine.submit(asked("tent", "a0", 200), client="one")
    free.set()
    while not engine.stats().generating:
        pass
    waits = engine.submit(asked("tent", "a1", 2), client="two")
    other = engine.submit(asked("tent", "a0", 2), client="three")
    assert other.result(60) and running.result(60)
    assert not waits.done()
    may_read.set()
    assert waits.result(60)
    engine.close()


def test_adapters_of_queued_requests_are_evicted_last(tiny_base, folders, monkeypatch):
    engine = engine_of(tiny_base, folders)
    slots = engine._core._adapters
    for name in ("a0", "a1", "a2", "a3"):
        engine.load_folder(name, folders[name])
    monkeypatch.setattr(slots._cache, "is_expected", lambda name: name in {"a0", "a1"})
    engine.load_folder("a4", folders["a4"])
    assert set(engine.stats().loaded) == {"a0", "a1", "a3", "a4"}
    engine.close()


def test_a_name_that_gets_other_weights_does_not_answer_with_the_kept_ones(tiny_base, folders, wanted):
    engine = engine_of(tiny_base, folders, max_loras=1)
    engine.load_folder("a0", folders["a0"])
    engine.load_folder("a1", folders["a1"])  # a0 is kept without a slot
    engine.load_folder("a0", folders["a7"])
    assert engine.generate([asked("tent", "a0", 6)])[0].text == wanted["a7"]
    engine.close()


def test_requests_that_come_while_a_name_changes_are_answered_with_its_new_weights(tiny_base, folders, wanted):
    engine, queued = engine_of(tiny_base, {"a0": folders["a0"]}), []

    def change():
        queued.append(engine.submit(asked("tent", "a0", 6), client="one"))
        until_read(engine._core._adapters._cache)
        engine._folders["a0"] = folders["a7"]
        return lambda: None

    engine._core.replace("a0", change)
    assert queued[0].result(60).text == wanted["a7"]
    engine.close()


def test_a_change_that_fails_leaves_no_weights_of_it(tiny_base, folders, wanted):
    engine = engine_of(tiny_base, folders, max_loras=1)
    running = engine.submit(asked("tent", "a1", 200), client="one")
    while not engine.stats().generating:
        pass
    with pytest.raises(EngineBusy):
        engine.load_folder("a0", folders["a7"])  # read, but without a slot
    running.cancel()
    assert engine.generate([asked("tent", "a0", 6)])[0].text == wanted["a0"]
    engine.close()


# The cache alone


def packed(size: int) -> PackedAdapter:
    return PackedAdapter((), size)


def test_kept_adapters_are_bounded_in_bytes_and_the_oldest_is_dropped():
    read: list[str] = []
    adapters = AdapterCache(lambda name: read.append(name) or packed(40), 100, 8)
    for name in ("a", "b", "c"):
        adapters.keep(name, packed(40))
    adapters.keep("large", packed(101))
    for name in ("b", "c"):
        adapters.take(name)
    assert read == []
    adapters.take("a")
    adapters.take("large")
    assert read == ["a", "large"]
    assert adapters._bytes == 0


def waiting() -> Future[None]:
    """The result of a request for an adapter."""
    return Future()


@contextmanager
def held_reading(size: int = 10):
    """A cache whose thread reads `slow` until the event is set, and what it has begun to read."""
    may_read, begun = threading.Event(), []

    def read(name):
        begun.append(name)
        assert name != "slow" or may_read.wait(30)
        return packed(size)

    adapters = AdapterCache(read, 100, 8)
    adapters.expect("slow", result := waiting(), is_loaded=False)
    while not begun:
        pass
    yield adapters, may_read, begun, result
    may_read.set()


def until_read(adapters: AdapterCache) -> None:
    """Wait for what is being read ahead, by one more job of the thread that reads."""
    adapters._reader.submit(int).result(30)


def test_an_error_of_reading_ahead_is_raised_once_and_outlives_no_request():
    tries: list[str] = []

    def read(name):
        tries.append(name)
        raise EngineError("not today")

    adapters = AdapterCache(read, 100, 8)
    result = waiting()
    adapters.expect("a", result, is_loaded=False)
    with pytest.raises(EngineError, match="not today"):
        adapters.take("a")
    assert tries == ["a"]
    adapters.expect("b", result, is_loaded=False)
    until_read(adapters)
    result.set_result(None)
    assert not adapters._reading and not adapters._expected and tries == ["a", "b"]


def test_an_error_of_a_reading_that_nobody_waits_for_reaches_no_later_request():
    may_read, tries = threading.Event(), []

    def read(name):
        tries.append(name)
        if len(tries) == 1:
            assert may_read.wait(30)
            raise EngineError("not today")
        return packed(10)

    adapters = AdapterCache(read, 100, 8)
    adapters.expect("a", result := waiting(), is_loaded=False)
    while not tries:
        pass
    result.cancel()
    may_read.set()
    until_read(adapters)
    assert adapters.take("a") == packed(10)


def test_what_is_read_for_requests_that_were_withdrawn_is_kept():
    with held_reading() as (adapters, may_read, _, result):
        result.cancel()
        assert adapters.reading == {"slow"}
        may_read.set()
        until_read(adapters)
        assert list(adapters._kept) == ["slow"] and adapters._bytes == 10 and not adapters._expected
        adapters.drop("slow")
        assert adapters._bytes == 0


def test_what_is_dropped_while_it_is_read_is_not_kept():
    with held_reading() as (adapters, may_read, begun, _):
        adapters.drop("slow")
        may_read.set()
        adapters.expect("next", waiting(), is_loaded=False)
        until_read(adapters)
        assert list(adapters._kept) == ["next"] and begun == ["slow", "next"]


def test_who_takes_an_adapter_does_not_wait_for_others_to_be_read():
    with held_reading() as (adapters, _, begun, _result):
        adapters.expect("a", waiting(), is_loaded=False)
        assert adapters.take("a") == packed(10) and begun == ["slow", "a"]
        assert adapters.reading == {"slow"}


def test_what_is_read_ahead_is_bounded_in_bytes_and_drops_nothing_that_is_expected():
    read: list[str] = []
    adapters = AdapterCache(lambda name: read.append(name) or packed(40), 100, 8)
    adapters.keep("old", packed(40))
    for name in ("a", "b", "c", "d"):
        adapters.expect(name, waiting(), is_loaded=False)
        until_read(adapters)
    assert read == ["a", "b"] and list(adapters._kept) == ["a", "b"] and adapters._bytes == 80
    adapters.keep("large", packed(100))
    adapters.expect("e", waiting(), is_loaded=False)
    until_read(adapters)
    assert list(adapters._kept) == ["a", "b"]
