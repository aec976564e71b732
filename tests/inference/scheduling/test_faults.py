"""What one caller does, or what breaks in the middle, is nobody else's loss."""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError, RequestRefused, UsageError
from searchlora.inference.batched.key_values import KeyValues
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.lines import PATIENCE, Lines
from searchlora.inference.scheduling.work import Work
from searchlora.outputs import Grammar
from tests.made import made_folder


@pytest.fixture(scope="module")
def folders(tiny_base, tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    found = {name: made_folder(tiny_base, place / name, seed)[0] for seed, name in enumerate("xyz")}
    found["broken"] = place / "broken"
    shutil.copytree(found["x"], found["broken"])
    weights = load_file(found["broken"] / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, found["broken"] / "adapter_model.safetensors")
    return found


@pytest.fixture(params=["batched", "one adapter"])
def either(request, tiny_base, folders, monkeypatch):
    """An engine of each kind."""
    if request.param == "one adapter":
        monkeypatch.setattr("searchlora.inference.batched.forward.fits", lambda _: False)
    engine = LocalEngine(tiny_base, precision="fp32", batch_rows=4, adapters=2, waiting=8)
    engine.load_folder("x", folders["x"])
    yield engine
    engine.close(5)


@pytest.fixture
def engine(tiny_base, folders):
    engine = LocalEngine(tiny_base, precision="fp32", batch_rows=4, adapters=3, waiting=8)
    for name in "xy":
        engine.load_folder(name, folders[name])
    yield engine
    engine.close(5)


def asked(text: str = "tent", adapter: str | None = None, tokens: int = 4, grammar: Grammar | None = None) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens, grammar)


def hold(engine):
    """Keep the engine busy until the event is set."""
    begun, free = threading.Event(), threading.Event()

    def errand():
        begun.set()
        free.wait(20)

    engine._core.submit([Work(errand=errand)], "hold")
    begun.wait(10)
    return free


def take(lines, fits):
    taken = []
    lines.take(fits, taken)
    return taken


def test_who_is_passed_over_too_often_holds_up_the_others_until_it_fits():
    lines, large = Lines(), Work(ids=(1, 2, 3))
    lines.put(large, "large")
    errand = Work(errand=lambda: None)
    for number in range(PATIENCE):
        lines.put(Work(ids=(number,)), number)
        assert len(take(lines, lambda work: len(work.ids) == 1)) == 1
    lines.put(Work(ids=(1,)), "small")
    lines.put(errand, "errand")
    assert take(lines, lambda work: len(work.ids) == 1) == [errand]  # which needs no room
    found = take(lines, lambda _: True)
    assert found[0] is large
    assert len(found) == 2


def test_where_nothing_more_fits_nobody_is_passed_over():
    lines = Lines()
    for caller in range(40):
        for _ in range(3):
            lines.put(Work(ids=(caller,)), caller)
    for _ in range(3 * PATIENCE):
        assert take(lines, lambda _: False) == []
    room = [32]

    def fits(_):
        room[0] -= 1
        return room[0] >= 0

    assert len({work.ids for work in take(lines, fits)}) == 32


def test_an_adapter_gets_a_slot_under_steady_traffic_of_others(tiny_base, folders):
    engine = LocalEngine(tiny_base, precision="fp32", batch_rows=4, adapters=2)
    for name in "xyz":
        engine.load_folder(name, folders[name])
    stop = threading.Event()

    def traffic(name: str) -> None:
        under_way = [engine.submit(asked("boot", name, 12), caller=name) for _ in range(2)]
        while not stop.is_set():
            under_way.pop(0).result(30)
            under_way.append(engine.submit(asked("boot", name, 12), caller=name))

    threads = [threading.Thread(target=traffic, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    try:
        assert engine.submit(asked("tent", "z"), caller="z").result(60).completion_tokens > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_adapter_that_computes_no_numbers_fails_and_spoils_nobody(engine, folders):
    requests = [asked("a much longer question about tents " * 3, None, 12), asked("tent", "y", 12), asked("rope")]
    wanted, scored = engine.generate(requests), engine.score(requests[:2], [["a", "b"]] * 2)
    engine.load_folder("broken", folders["broken"])
    broken = asked("long " * 40, "broken", 8)
    for _ in range(2):
        futures = [engine.submit(each) for each in (broken, *requests, broken)]
        assert [future.result(30) for future in futures[1:-1]] == wanted
        for future in (futures[0], futures[-1]):
            with pytest.raises(EngineError, match="broken: computes no finite numbers"):
                future.result(30)
        with pytest.raises(EngineError, match="broken: computes no finite numbers"):
            engine.score([broken, requests[0]], [["a", "b"]] * 2)
        again = engine.score(requests[:2], [["a", "b"]] * 2)
        for one, other in zip(again, scored, strict=True):
            assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    assert engine.unload("broken")


def test_an_interrupt_fails_all_that_is_under_way_and_leaves_nothing_behind(engine, monkeypatch):
    forward = engine._core._machine._reader.forward
    free = hold(engine)
    other = engine._core
    works = [Work(ids=(5, 6, 7), adapter="x", answers=((3, 2), (4, 2))), Work(ids=(5, 6), adapter="y", most=3)]
    real = forward.hidden

    def interrupted(*_):
        monkeypatch.setattr(forward, "hidden", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(forward, "hidden", interrupted)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    other.submit(works, "other")
    free.set()
    for work in works:
        with pytest.raises(EngineError, match="interrupted"):
            work.result.result(10)
    assert engine.generate([asked("tent", "x")])
    assert engine.unload("x")
    assert engine.unload("y")


def test_a_listener_that_fails_fails_its_own_request_only(engine):
    def told(_: str) -> None:
        raise ValueError("no")

    free = hold(engine)
    good, bad = engine.submit(asked("tent", "x", 9)), engine.submit(asked("rope", "x", 9), told=told)
    free.set()
    with pytest.raises(ValueError, match="no"):
        bad.result(10)
    assert good.result(10) == engine.generate([asked("tent", "x", 9)])[0]


def test_the_engine_does_not_wait_for_itself(engine):
    found: list[object] = []

    def again(_: object) -> None:
        try:
            engine.generate([asked()])
        except EngineError as error:
            found.append(str(error))

    future = engine.submit(asked())
    future.add_done_callback(again)
    future.result(10)
    assert engine.generate([asked()])
    assert not found or "waits for the engine itself" in str(found[0])


def test_a_thread_that_cannot_be_started_is_told_and_nothing_is_lost(engine, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineBusy, match="no thread can be started"):
            engine.submit(asked())
        assert engine.stats().waiting == 0
        assert engine.generate([asked()])  # the caller's own thread computes
    assert engine.submit(asked()).result(10)


def test_room_that_cannot_be_made_is_asked_for_again(tiny_base, folders, monkeypatch):
    engine = LocalEngine(tiny_base, precision="fp32")
    group = engine._core._adapters._projections.groups[-1]
    real = type(group).make_room

    def full(self, *given):
        if self is group:
            raise MemoryError("full")
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(type(group), "make_room", full)
        with pytest.raises(MemoryError):
            engine.load_folder("z", folders["z"])
    assert "z" not in engine._by_hand
    engine.load_folder("z", folders["z"])
    assert engine.generate([asked("tent", "z")])


def test_what_is_late_or_given_up_fails_behind_others_and_keeps_nobody_out(either):
    free = hold(either)
    given_up = [either.submit(asked()) for _ in range(7)]
    late = either.submit(asked(), seconds=0.01)
    with pytest.raises(EngineBusy):
        either.submit(asked())
    for future in given_up:
        assert future.cancel()
    time.sleep(0.02)
    kept = either.submit(asked())  # there is room again
    free.set()
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert kept.result(10)
    done, _ = concurrent.futures.wait(given_up, timeout=5)
    assert len(done) == len(given_up)


def test_a_call_gets_its_turn_while_others_keep_the_queue_full(engine):
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                engine.submit(asked("boot", tokens=2), caller=threading.get_ident())
            except EngineBusy:
                time.sleep(0.001)

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found: list[object] = []
        call = threading.Thread(target=lambda: found.append(engine.generate([asked(f"tent {n}") for n in range(9)])))
        call.start()
        call.join(30)
        assert len(found[0]) == 9
        assert engine.load("x") == "x"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_prompt_that_is_read_as_no_numbers_fails_alone(tiny_base):
    engine = LocalEngine(tiny_base, precision="fp32", batch_rows=4)
    requests = [asked("a much longer question about tents " * 3), asked("rope"), asked("boot")]
    wanted, scored = engine.generate(requests), engine.score(requests, [["a", "b"]] * 3)
    embedding = engine._core._machine._reader.forward._backbone.get_input_embeddings()
    (token,) = set(engine.renderer.prompt_ids(asked("~").messages)) - set(
        engine.renderer.prompt_ids(asked("a").messages)
    )
    embedding.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)  # not the head's
    embedding.weight[token] = float("nan")
    futures = [engine.submit(each) for each in (asked("~"), *requests)]
    with pytest.raises(EngineError, match="the base model: computes no finite numbers for this prompt"):
        futures[0].result(10)
    assert [future.result(10) for future in futures[1:]] == wanted
    found = engine.submit_scores([(each, ["a", "b"], None) for each in (asked("~"), *requests)])
    with pytest.raises(EngineError, match="computes no finite numbers"):
        found[0].result(10)
    for future, one in zip(found[1:], scored, strict=True):
        assert future.result(10).log_probabilities == pytest.approx(one.log_probabilities, abs=1e-4)


def test_a_call_back_is_run_without_the_lock(engine):
    """It may wait for a thread that asks the engine."""
    free = hold(engine)
    futures = [engine.submit(asked(), seconds=0.01) for _ in range(8)]
    time.sleep(0.05)
    asked_beside: list[object] = []

    def beside() -> None:
        asked_beside.append(engine.submit(asked(), caller="beside"))

    def told(_: object) -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(5)

    futures[0].add_done_callback(told)
    kept = engine.submit(asked(), caller="other")
    assert asked_beside
    free.set()
    assert kept.result(10)


def test_a_large_call_leaves_room_for_others(engine):
    free = hold(engine)
    found: list[object] = []
    call = threading.Thread(target=lambda: found.append(engine.generate([asked(f"tent {n}") for n in range(20)])))
    call.start()
    while engine.stats().waiting < 4:
        time.sleep(0.01)
    futures = [engine.submit(asked(), caller="other") for _ in range(4)]
    free.set()
    assert all(future.result(20) for future in futures)
    call.join(20)
    assert len(found[0]) == 20


def test_a_closing_engine_fails_what_it_cannot_finish(either):
    free = hold(either)
    waiting = either.submit(asked())
    call = threading.Thread(target=lambda: either.close(0.1))
    call.start()
    call.join(5)
    with pytest.raises(EngineBusy, match="closed"):
        waiting.result(1)
    free.set()
    for ask in (lambda: either.generate([asked()]), lambda: either.submit(asked()), lambda: either.load("x")):
        with pytest.raises(EngineBusy, match="closed"):
            ask()


def test_a_call_that_has_begun_is_finished_by_a_closing_engine(either):
    found: list[object] = []
    free = hold(either)
    call = threading.Thread(target=lambda: found.append(either.generate([asked(f"tent {n}") for n in range(20)])))
    call.start()
    while not either.stats().waiting:
        time.sleep(0.01)
    closing = threading.Thread(target=lambda: either.close(30))
    closing.start()
    time.sleep(0.05)
    free.set()
    closing.join(30)
    call.join(5)
    assert len(found[0]) == 20


def test_adapters_come_and_go_within_their_slots(either, folders):
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


def test_one_call_over_more_adapters_than_slots_loads_each_once(either, folders):
    for name in "yz":
        either.load_folder(name, folders[name])
    before = either.stats().slot_misses
    either.generate([asked(f"tent {n}", "xyz"[n % 3]) for n in range(12)])
    assert either.stats().slot_misses - before <= 3


def test_a_request_is_named_by_its_place_in_the_call(either):
    digits, nothing = Grammar("regex", "[0-9]{4}"), Grammar("lark", 'start: start "a"')
    with pytest.raises(RequestRefused, match="request 3: generation cannot be constrained to this Lark grammar"):
        either.generate([asked(), asked(grammar=digits), asked(grammar=nothing)])
    with pytest.raises(RequestRefused, match="request 2: there is no grammar of kind 'nope'"):
        either.generate([asked(), asked(grammar=Grammar("nope", "a"))])
    with pytest.raises(RequestRefused, match="request 2: asks for no token"):
        either.generate([asked(), asked(tokens=0)])
    with pytest.raises(RequestRefused, match="request 1: a choice has no tokens"):
        either.score([Request(({"role": "user", "content": "?"},), ends="")], [["", "a"]])


def test_choices_that_have_no_room_in_a_pass_are_refused(tiny_base):
    engine = LocalEngine(tiny_base, batch_tokens=64)
    with pytest.raises(RequestRefused, match=r"request 1: its choices have \d+ tokens, more than the 64"):
        engine.score([asked()], [["a" * 40, "b" * 40]])


@pytest.mark.parametrize("limit", ["adapters", "waiting", "batch_rows", "batch_tokens", "cache_tokens"])
def test_an_engine_that_could_answer_nothing_is_not_made(tiny_base, limit):
    with pytest.raises(UsageError, match="= 0 can answer nothing"):
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


def test_keys_and_values_take_the_room_that_rows_in_use_need():
    cache = KeyValues(2)
    states = torch.ones(4, 1, 8, 2)
    cache.make_room(4, 8, tokens=512)
    cache.block(slice(0, 4), 0, 8)
    cache.update(states, states, 0)
    assert cache._all.shape[2] * cache._all.shape[4] <= 512
    cache.make_room(1, 500, tokens=512)  # one row is left, and writes long
    assert cache._all.shape[2:5] == (1, 1, 512)
    assert float(cache._all[0, 0, 0, 0, :8].sum()) == 16
    cache.make_room(4, 20, tokens=512)
    assert cache._all.shape[2] * cache._all.shape[4] <= 512
    assert float(cache._all[0, 0, 0, 0, :8].sum()) == 16
