"""LoRA slots: bounded by bytes before weights are read, and memory is freed."""

from __future__ import annotations

import pytest

from searchlora.errors import EngineBusy, LoadCheckFailed
from searchlora.inference.batched import lora_slots
from searchlora.inference.local import LocalEngine
from tests.factories import random_adapter_folder
from tests.inference.scheduling.requests import asked, hold


@pytest.fixture(scope="module")
def folders(tiny_base, tmp_path_factory):
    place = tmp_path_factory.mktemp("slots")
    ranks = {"low": 4, "other": 4, "high": 64}
    return {
        name: random_adapter_folder(tiny_base, place / name, seed, (f"lora.r={rank}",))[0]
        for seed, (name, rank) in enumerate(ranks.items())
    }


@pytest.fixture(params=["compiled kernels", "PyTorch"])
def settings(request, monkeypatch):
    if request.param != "compiled kernels":
        monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    return {"precision": "fp32"}


def held(engine) -> int:
    """Bytes of A and B of all slots."""
    groups = engine._core._adapters._layers.groups
    return sum(tensor.nbytes for group in groups for tensor in group.slots.tensors())


def test_bytes_above_the_limit_are_refused_before_weights_are_read(tiny_base, folders, monkeypatch):
    engine = LocalEngine(tiny_base, adapter_bytes=1000)
    monkeypatch.setattr(lora_slots, "read_lora_weights", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(LoadCheckFailed, match=r"low: takes .* MiB, more than the 0 MiB for all adapters"):
        engine.load_folder("low", folders["low"])


@pytest.mark.slow
def test_adapters_that_do_not_fit_together_are_swapped(tiny_base, folders):
    engine = LocalEngine(tiny_base, precision="fp32")
    engine.load_folder("high", folders["high"])
    size = held(engine)
    engine.close()
    engine = LocalEngine(tiny_base, precision="fp32", adapter_bytes=size + 100)
    wanted = {}
    for name, folder in folders.items():
        engine.load_folder(name, folder)
        wanted[name] = engine.generate([asked("tent", name)])
        assert held(engine) <= size + 100
    assert engine.stats().loaded == ("high",)
    for name in folders:
        assert engine.generate([asked("tent", name)]) == wanted[name]
    free = hold(engine)
    long = engine.submit(asked("tent", "high", 400))
    other = engine.submit(asked("tent", "low"))
    free.set()
    assert long.result(60)
    with pytest.raises(EngineBusy, match="or the memory for adapters"):
        other.result(60)


def test_unloading_frees_memory(tiny_base, folders, settings):
    engine = LocalEngine(tiny_base, **settings)
    engine.load_folder("low", folders["low"])
    before = held(engine)
    engine.load_folder("high", folders["high"])
    assert held(engine) > 8 * before
    assert engine.unload("high")
    assert held(engine) == before
    assert engine.unload("low")
    assert held(engine) == 0


@pytest.mark.slow
def test_a_high_rank_does_not_widen_the_slots_of_others(tiny_base, folders, settings):
    engine = LocalEngine(tiny_base, **settings)
    engine.load_folder("high", folders["high"])
    alone = held(engine)
    engine.load_folder("low", folders["low"])
    engine.load_folder("other", folders["other"])
    assert held(engine) - alone < alone / 4
    requests = [asked(text, name, 8) for text in ("tent", "a boot for rain") for name in (None, *folders)]
    together = engine.generate(requests)
    assert [engine.generate([request])[0] for request in requests] == together
    assert len({each.text for each in together[:4]}) == 4


def test_memory_of_an_adapter_follows_from_its_weight_shapes(tiny_base, folders, settings):
    engine = LocalEngine(tiny_base, **settings)
    layers = engine._core._adapters._layers
    for name, folder in folders.items():
        engine.load_folder(name, folder)
        ranks = lora_slots.read_ranks(folder)
        assert set(ranks.values()) == {64 if name == "high" else 4}
        assert engine._core._adapters._packed[name].size == layers.size(ranks)
