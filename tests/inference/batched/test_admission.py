"""A client that asks much leaves rows and slots to others, and takes no more than its share while they wait."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from searchlora.inference.batched.admission import Admission
from searchlora.inference.batched.prefill import Prefiller
from searchlora.inference.batched.prefix_cache import PrefixCache
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.fair_queue import MAX_OVERTAKEN, FairQueue
from searchlora.inference.scheduling.requests import CallbackRequest, GenerateRequest, Limits, ScoreRequest
from tests.inference.small_models import batched, ids, small


def writing(client=None, tokens=8, length=5, adapter=None, interactive=True):
    return GenerateRequest(
        ids=ids(length),
        max_new_tokens=tokens,
        ignore_stop=True,
        client=client,
        adapter=adapter,
        interactive=interactive,
    )


class EmptyPrefiller:
    """Stands for a prefiller whose cache is empty."""

    chunk = 256

    def left_of(self, request):
        return len(request.ids)


def test_a_waiting_request_neither_keeps_its_prefix_in_the_cache_nor_looks_for_it_in_each_step(monkeypatch):
    cache = PrefixCache(100)
    old, recent, new = ids(40, 1), ids(40, 2), ids(40, 3)
    prefiller = Prefiller(SimpleNamespace(new_cache=lambda: None), cache, Limits(8, 4096, 4096, 64), Counts())
    cache.add(None, old, torch.empty(1))
    cache.add(None, recent, torch.empty(1))
    looked = []
    real = PrefixCache.match_length
    monkeypatch.setattr(PrefixCache, "match_length", lambda *given: looked.append(given) or real(*given))
    waiting = GenerateRequest(ids=(*old, 5, 6), max_new_tokens=4)
    for _ in range(3):
        admission = Admission(prefiller.limits, prefiller, 4, (), (), (), (), ["client"])
        assert admission._tokens_left(waiting) == 2
    assert len(looked) == 1
    cache.add(None, new, torch.empty(1))  # `old` was used least recently
    assert [cache.match_length(None, (*prefix, 5)) for prefix in (old, recent, new)] == [0, 40, 40]
    assert Admission(prefiller.limits, prefiller, 4, (), (), (), (), ["client"])._tokens_left(waiting) == 42


def admitted(lines, running=(), long=(), limits=None, slots=16, reading=()):
    """How many requests of each client are admitted beside running ones."""
    queue, found = FairQueue(), []
    for client, requests in lines.items():
        for request in requests:
            queue.push(request, client)
    in_use = {each.adapter for each in running if each.adapter}
    admission = Admission(
        limits or Limits(32, 65536, 8192, 64), EmptyPrefiller(), slots, in_use, reading, running, long, queue.clients
    )
    queue.admit(admission.fits, found, admission.may_take)
    return Counter(request.client for request in found)


def rows(client, count, **more):
    return [writing(client, **more) for _ in range(count)]


def test_one_caller_leaves_an_eighth_of_the_rows_to_others():
    assert admitted({"a": rows("a", 40)}) == {"a": 28}
    assert admitted({"b": rows("b", 40)}, rows("a", 28)) == {"b": 2}
    assert admitted({"c": rows("c", 40)}, [*rows("a", 28), *rows("b", 2)]) == {"c": 2}
    assert admitted({"a": rows("a", 40)}, rows("a", 28)) == {}
    few = Limits(4, 65536, 8192, 64)
    assert admitted({"a": rows("a", 40)}, limits=few) == {"a": 4}


def test_while_others_wait_a_caller_takes_no_more_than_its_share():
    assert admitted({"a": rows("a", 40), "b": rows("b", 40)}) == {"a": 14, "b": 14}
    assert admitted({"a": rows("a", 40), "b": rows("b", 40)}, rows("a", 20)) == {"b": 8}
    assert admitted({"a": rows("a", 40), "b": rows("b", 1)}, rows("a", 20)) == {"b": 1}


def test_a_call_of_many_in_the_process_has_all_rows():
    call = object()
    assert admitted({call: rows(call, 40, interactive=False)}) == {call: 32}


def test_rows_that_fill_the_kv_cache_leave_room_to_others():
    long = {"tokens": 9000}
    assert admitted({"a": rows("a", 40, **long)}) == {"a": 6}  # 7 rows of 9,005 tokens have room
    assert admitted({"b": rows("b", 40)}, rows("a", 6, **long)) == {"b": 1}


def test_one_caller_leaves_slots_to_the_adapters_of_others():
    running = [writing("a", adapter=f"a{n}") for n in range(14)]
    asked = {"a": [writing("a", adapter="more")]}
    assert admitted(asked, running) == {}
    assert admitted({"a": [writing("a", adapter="a3")]}, running) == {"a": 1}
    assert admitted({"b": [writing("b", adapter="b0")]}, running) == {"b": 1}


def test_long_prompts_of_one_caller_leave_the_way_free_for_others():
    long = {"length": 5000, "tokens": 1}
    assert admitted({"a": rows("a", 40, **long)}) == {"a": 2}  # of 32,768 tokens a quarter, and the one begun before
    running = rows("a", 2, **long)
    assert admitted({"a": rows("a", 9, **long), "b": rows("b", 9, **long)}, long=running) == {"b": 2}
    scored = [ScoreRequest(ids=ids(5000), choices=((5,),), interactive=True) for _ in range(9)]
    assert admitted({"c": scored}, long=running) == {"c": 2}
    others = [writing(name, **long) for name in "cdefghi"]
    assert admitted({"b": rows("b", 9, **long), "a": rows("a", 3)}, long=others) == {"a": 3}


def test_who_has_its_share_is_not_overtaken_and_holds_nobody_up():
    queue, greedy = FairQueue(), writing("greedy")
    queue.push(greedy, "greedy")
    for number in range(2 * MAX_OVERTAKEN):
        queue.push(writing(number), number)
        found = []
        queue.admit(lambda _: True, found, lambda request: request.client != "greedy")
        assert [request.client for request in found] == [number]
    assert greedy.overtaken == 0
    greedy.overtaken = MAX_OVERTAKEN
    queue.push(writing("other"), "other")
    found = []
    queue.admit(lambda _: True, found, lambda request: request.client != "greedy")
    assert [request.client for request in found] == ["other"]
    queue.admit(lambda _: True, found, lambda _: True)
    assert found[1] is greedy


@pytest.mark.slow
@pytest.mark.parametrize("length", [5, 300])
def test_a_caller_with_all_rows_does_not_let_another_wait(length):
    core = batched(small("llama", max_position_embeddings=1024), rows=16)
    order: list[str] = []
    held: list[Counter] = []
    begun = threading.Event()

    def note(_):
        held.append(Counter(request.client for request in core._runner.running))
        begun.set()

    greedy = [
        GenerateRequest(ids=ids(length, n), max_new_tokens=150, ignore_stop=True, on_token=note) for n in range(30)
    ]
    core.submit(greedy, "greedy")
    assert begun.wait(30)
    other = [GenerateRequest(ids=ids(5, n), max_new_tokens=3, ignore_stop=True) for n in range(6)]
    for request, name in [*((each, "greedy") for each in greedy), *((each, "other") for each in other)]:
        request.result.add_done_callback(lambda _, name=name: order.append(name))
    core.submit(other, "other")
    for request in (*greedy, *other):
        request.result.result(120)
    assert order[:6] == ["other"] * 6
    assert max(each["greedy"] for each in held) == 14
    core.finish([CallbackRequest(callback=lambda: None)])
