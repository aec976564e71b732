"""Limits of slots, names and memory, and errors that name the position of a request."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from searchlora.errors import PipelineError, RequestRefused, UsageError
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import Grammar
from tests.inference.scheduling.requests import asked, hold


@pytest.mark.slow
def test_adapters_are_loaded_and_evicted_within_the_slots(either, folders):
    base = either.generate([asked(tokens=6)])
    for name in "yz":
        either.load_folder(name, folders[name])
    assert len(either.stats().loaded) == 2
    found = [either.generate([asked(adapter=name, tokens=6)])[0].text for name in "xyz"]
    assert len({*found, base[0].text}) == 4
    assert either.stats().slot_evictions > 0
    for name in "xyz":
        either.unload(name)
    assert either.generate([asked(tokens=6)]) == base


@pytest.mark.slow
def test_one_call_with_more_adapters_than_slots_loads_each_once(either, folders):
    for name in "yz":
        either.load_folder(name, folders[name])
    before = either.stats().slot_misses
    either.generate([asked(f"tent {n}", "xyz"[n % 3]) for n in range(12)])
    assert either.stats().slot_misses - before <= 3


def test_errors_name_the_position_of_the_request(either):
    digits, nothing = Grammar("regex", "[0-9]{4}"), Grammar("lark", 'start: start "a"')
    with pytest.raises(RequestRefused, match="request 3: generation cannot be constrained to this Lark grammar"):
        either.generate([asked(), asked(grammar=digits), asked(grammar=nothing)])
    with pytest.raises(RequestRefused, match="request 2: there is no grammar of kind 'nope'"):
        either.generate([asked(), asked(grammar=Grammar("nope", "a"))])
    with pytest.raises(RequestRefused, match="request 2: asks for no token"):
        either.generate([asked(), asked(tokens=0)])
    with pytest.raises(RequestRefused, match="request 1: a choice has no tokens"):
        either.score([Request(({"role": "user", "content": "?"},), choice_suffix="")], [["", "a"]])


def test_choices_that_exceed_a_pass_are_refused(tiny_base):
    engine = LocalEngine(tiny_base, batch_tokens=64)
    with pytest.raises(RequestRefused, match=r"request 1: its choices have \d+ tokens, more than the 64"):
        engine.score([asked()], [["a" * 40, "b" * 40]])


@pytest.mark.parametrize("limit", ["waiting", "waiting_per_client", "max_num_seqs"])
def test_a_limit_of_zero_is_an_error(tiny_base, limit):
    with pytest.raises((UsageError, PipelineError), match=r"can answer nothing|'max_num_seqs': input should be"):
        LocalEngine(tiny_base, **{limit: 0})


def test_a_folder_is_not_loaded_under_the_name_of_a_stored_version(engine, folders):
    with pytest.raises(UsageError, match="'one@1' is the name of a stored version"):
        engine.load_folder("one@1", folders["x"])


def test_a_folder_replaces_another_of_the_name_in_one_step(engine, folders):
    wanted = {name: engine.generate([asked("tent", name, 6)])[0] for name in "xy"}
    free = hold(engine)
    before = engine.submit(asked("tent", "x", 6))
    replacing = threading.Thread(target=lambda: engine.load_folder("x", folders["y"]))
    replacing.start()
    while engine.stats().waiting < 2:
        time.sleep(0.01)
    after = engine.submit(asked("tent", "x", 6))
    free.set()
    replacing.join(10)
    assert before.result(10) in wanted.values()
    assert after.result(10) in wanted.values()
    assert engine.generate([asked("tent", "x", 6)])[0] == wanted["y"]


def test_kv_cache_size_follows_the_active_rows():
    cache = KVCache(2)
    states = torch.ones(4, 1, 8, 2)
    cache.reserve(4, 8, tokens=512)
    cache.begin_pass(slice(0, 4), 0, 8)
    cache.update(states, states, 0)
    assert cache._parts[0].shape[2] * cache._parts[0].shape[4] <= 512
    cache.reserve(1, 500, tokens=512)  # one row is left, and writes long
    assert cache._parts[0].shape[2:5] == (1, 1, 512)
    assert float(cache._parts[0][0, 0, 0, 0, :8].sum()) == 16
    cache.reserve(4, 20, tokens=512)
    assert cache._parts[0].shape[2] * cache._parts[0].shape[4] <= 512
    assert float(cache._parts[0][0, 0, 0, 0, :8].sum()) == 16
