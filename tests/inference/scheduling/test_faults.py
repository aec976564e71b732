"""Faults in the scheduler: failures of one client or request do not affect others."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest
import torch

from searchlora.cpu import backend
from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError, UnusableAnswer, concerns_all
from searchlora.inference.batched.lora_layers import LoraWeights, TorchSlots, map_rows
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.fair_queue import MAX_OVERTAKEN, FairQueue
from searchlora.inference.scheduling.requests import CallbackRequest, GenerateRequest, ScoreRequest
from tests.inference.scheduling.requests import asked, hold
from tests.inference.small_models import sequential, small


def take(lines, fits):
    taken = []
    lines.admit(fits, taken)
    return taken


def test_a_request_overtaken_too_often_blocks_the_queue_until_it_fits():
    lines, large = FairQueue(), GenerateRequest(ids=(1, 2, 3), max_new_tokens=1)
    lines.push(large, "large")
    callback = CallbackRequest(callback=lambda: None)
    for number in range(MAX_OVERTAKEN):
        lines.push(GenerateRequest(ids=(number,), max_new_tokens=1), number)
        assert len(take(lines, lambda request: len(request.ids) == 1)) == 1
    lines.push(GenerateRequest(ids=(1,), max_new_tokens=1), "small")
    lines.push(callback, "callback")
    assert take(lines, lambda request: len(request.ids) == 1) == [callback]  # a callback needs no memory
    found = take(lines, lambda _: True)
    assert found[0] is large
    assert len(found) == 2


def test_a_full_batch_does_not_count_as_overtaking():
    lines = FairQueue()
    for client in range(40):
        for _ in range(3):
            lines.push(GenerateRequest(ids=(client,), max_new_tokens=1), client)
    for _ in range(3 * MAX_OVERTAKEN):
        assert take(lines, lambda _: False) == []
    room = [32]

    def fits(_):
        room[0] -= 1
        return room[0] >= 0

    assert len({request.ids for request in take(lines, fits)}) == 32


def test_an_interrupt_fails_running_requests_and_frees_their_memory(engine, monkeypatch):
    forward = engine._core._runner._prefiller.forward
    free = hold(engine)
    other = engine._core
    queued = [
        ScoreRequest(ids=(5, 6, 7), adapter="x", choices=((3, 2), (4, 2))),
        GenerateRequest(ids=(5, 6), adapter="y", max_new_tokens=3),
    ]
    real = forward.hidden_states

    def interrupted(*_):
        monkeypatch.setattr(forward, "hidden_states", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(forward, "hidden_states", interrupted)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    other.submit(queued, "other")
    free.set()
    for request in queued:
        with pytest.raises(EngineError, match="interrupted"):
            request.result.result(10)
    assert engine.generate([asked("tent", "x")])
    assert engine.unload("x")
    assert engine.unload("y")


def test_a_failing_callback_fails_only_its_request(engine):
    def on_event(_: str) -> None:
        raise ValueError("no")

    free = hold(engine)
    good, bad = engine.submit(asked("tent", "x", 9)), engine.submit(asked("rope", "x", 9), on_token=on_event)
    free.set()
    with pytest.raises(ValueError, match="no"):
        bad.result(10)
    assert good.result(10) == engine.generate([asked("tent", "x", 9)])[0]


def test_a_call_from_a_callback_is_refused(engine):
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


def test_a_thread_that_cannot_start_is_an_error_and_requests_are_kept(engine, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineBusy, match="no thread can be started"):
            engine.submit(asked())
        assert engine.stats().waiting == 0
        assert engine.generate([asked()])  # the client's own thread computes
    assert engine.submit(asked()).result(10)


def test_a_refused_adapter_is_checked_once_per_pass(engine, monkeypatch):
    looked = []

    def fetch(name):
        looked.append(name)
        raise EngineError("not today", where=name)

    monkeypatch.setattr(engine._core._adapters, "_fetch", fetch)
    engine._folders["z"] = None
    free = hold(engine)
    futures = [engine.submit(asked("tent", "z")) for _ in range(4)]
    free.set()
    for future in futures:
        with pytest.raises(EngineError, match="not today"):
            future.result(30)
    assert looked == ["z"]


class Allocator:
    """Stands for the tensor that slots are allocated like; memory runs out at one allocation."""

    def __init__(self, like: torch.Tensor, fails_at: int) -> None:
        self.dtype, self._like, self._left = like.dtype, like, fails_at

    def new_zeros(self, *shape: int) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            raise MemoryError("no room")
        return self._like.new_zeros(*shape)


@pytest.mark.parametrize("kind", ["compiled kernels", "PyTorch"])
@pytest.mark.parametrize("fails_at", [0, 1])
def test_slots_are_unchanged_if_loading_runs_out_of_memory(kind, fails_at):
    spans = [slice(0, 8), slice(8, 12)]
    like = torch.empty(0)
    made = TorchSlots(6, spans, like) if kind == "PyTorch" else backend.lora_slots(6, spans, like)
    if made is None:
        pytest.skip("no compiled kernels here")
    changes = [LoraWeights(torch.randn(2, 6), torch.randn(span.stop - span.start, 2)) for span in spans]
    wide = [LoraWeights(torch.randn(16, 6), torch.randn(span.stop - span.start, 16)) for span in spans]
    made.put(1, made.pack(changes))
    x, routing = torch.randn(1, 1, 6), map_rows([1])
    wanted = made.add(x, torch.zeros(1, 1, 12), routing)
    made._like = Allocator(like, fails_at)
    with pytest.raises(MemoryError):
        made.put(2, made.pack(wide))
    assert made.add(x, torch.zeros(1, 1, 12), routing).equal(wanted)
    made._like = like
    for weights in (wide, changes, wide):
        made.put(2, made.pack(weights))
        assert made.add(x, torch.zeros(1, 1, 12), routing).equal(wanted)
    made.clear(2)
    assert made.add(x, torch.zeros(1, 1, 12), routing).equal(wanted)


@pytest.mark.slow
def test_cancelled_rows_leave_the_batch_while_generating(either):
    pieces: list[str] = []
    first = threading.Event()

    def on_event(text: str) -> None:
        pieces.append(text)
        first.set()

    future = either.submit(asked("tent", tokens=3000), on_token=on_event)
    assert first.wait(30)
    assert future.cancel()
    assert either.generate([asked("rope")])[0].completion_tokens > 0
    assert len(pieces) < 3000
    with pytest.raises(DeadlineExceeded):
        either.submit(asked("tent", tokens=3000), seconds=0.2, on_token=lambda _: time.sleep(0.3)).result(30)
    assert either.stats().decode_steps > 0
    for _ in range(100):
        if not either.stats().generating:
            break
        time.sleep(0.05)
    assert either.stats().generating == 0


@pytest.mark.slow
def test_long_prompts_and_long_answers_are_not_batched_together():
    model = small("opt", max_position_embeddings=32)
    core = sequential(model, rows=4, context=32)
    queued = [
        GenerateRequest(ids=tuple(range(3, 29)), max_new_tokens=4),
        GenerateRequest(ids=(5, 6), max_new_tokens=28),
    ]
    core.finish(queued)
    together = [request.result.result() for request in queued]
    alone = [GenerateRequest(ids=request.ids, max_new_tokens=request.max_new_tokens) for request in queued]
    for request in alone:
        core.finish([request])
    assert together == [request.result.result() for request in alone]


def test_failed_allocations_are_retried(tiny_base, folders, monkeypatch):
    engine = LocalEngine(tiny_base, precision="fp32")
    group = engine._core._adapters._layers.groups[-1]
    real = type(group).put

    def full(self, *given):
        if self is group:
            raise MemoryError("full")
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(type(group), "put", full)
        with pytest.raises(MemoryError):
            engine.load_folder("z", folders["z"])
    assert "z" not in engine._folders
    engine.load_folder("z", folders["z"])
    assert engine.generate([asked("tent", "z")])


def test_expired_and_cancelled_requests_in_the_queue_block_nobody(either):
    free = hold(either)
    given_up = [either.submit(asked()) for _ in range(7)]
    late = either.submit(asked(), seconds=0.01)
    with pytest.raises(EngineBusy):
        either.submit(asked())
    for future in given_up:
        assert future.cancel()
    time.sleep(0.02)
    kept = either.submit(asked())  # the queue has space again
    free.set()
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert kept.result(10)
    done, _ = concurrent.futures.wait(given_up, timeout=5)
    assert len(done) == len(given_up)


@pytest.mark.slow
def test_a_call_is_served_while_others_keep_the_queue_full(engine):
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                engine.submit(asked("boot", tokens=2), client=threading.get_ident())
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


def test_a_prompt_with_nan_activations_fails_alone(tiny_base):
    engine = LocalEngine(tiny_base, precision="fp32", max_num_seqs=4)
    requests = [asked("a much longer question about tents " * 3), asked("rope"), asked("boot")]
    wanted, scored = engine.generate(requests), engine.score(requests, [["a", "b"]] * 3)
    embedding = engine._core._runner._prefiller.forward._backbone.get_input_embeddings()
    (token,) = set(engine.renderer.prompt_ids(asked("~").messages)) - set(
        engine.renderer.prompt_ids(asked("a").messages)
    )
    embedding.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)  # not the head's
    embedding.weight[token] = float("nan")
    futures = [engine.submit(each) for each in (asked("~"), *requests)]
    with pytest.raises(UnusableAnswer, match="the base model: computes no finite numbers for this prompt") as raised:
        futures[0].result(10)
    assert not concerns_all(raised.value)
    assert [future.result(10) for future in futures[1:]] == wanted
    found = engine.submit_scores([(each, ["a", "b"], None) for each in (asked("~"), *requests)])
    with pytest.raises(EngineError, match="computes no finite numbers"):
        found[0].result(10)
    for future, one in zip(found[1:], scored, strict=True):
        assert future.result(10).log_probabilities == pytest.approx(one.log_probabilities, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_logits_that_are_not_finite_are_an_error_and_never_a_best_choice(either, value):
    """The hidden states are finite; one row of the output layer is not."""
    wanted = either.score([asked(adapter="x")], [["a", "b"]])
    runner = either._core._runner
    model = runner._adapters.model if hasattr(runner, "_adapters") else None
    weight = runner._prefiller.forward._head.tensors()[0] if model is None else model.get_output_embeddings().weight
    (token,) = set(either.renderer.prompt_ids(asked("~").messages)) - set(
        either.renderer.prompt_ids(asked("a").messages)
    )
    # A compiled kernel holds blocks of columns, (blocks, in, columns of a block, numbers side by side).
    of_token = weight[token] if weight.dim() == 2 else weight[token // weight.shape[2], :, token % weight.shape[2]]
    before = of_token.clone()
    for adapter, name in ((None, "the base model"), ("x", "x")):
        of_token.fill_(float(value))
        with pytest.raises(EngineError, match=f"{name}: computes no finite numbers"):
            either.score([asked(adapter=adapter)], [["a", "b"]])
        with pytest.raises(EngineError, match=f"{name}: computes no finite numbers"):
            either.score([asked(adapter=adapter)], [["a" * n for n in range(1, 30)]], prune_margin=8)
        if model is None:
            with pytest.raises(EngineError, match=f"{name}: computes no finite numbers"):
                either.generate([asked(adapter=adapter)])
        of_token.copy_(before)
        assert either.score([asked(adapter="x")], [["a", "b"]]) == wanted


def test_callbacks_run_without_the_lock(engine):
    """It may wait for a thread that asks the engine."""
    free = hold(engine)
    futures = [engine.submit(asked(), seconds=0.01) for _ in range(8)]
    time.sleep(0.05)
    asked_beside: list[object] = []

    def beside() -> None:
        asked_beside.append(engine.submit(asked(), client="beside"))

    def on_event(_: object) -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(5)

    futures[0].add_done_callback(on_event)
    kept = engine.submit(asked(), client="other")
    assert asked_beside
    free.set()
    assert kept.result(10)


def test_a_large_call_does_not_exclude_others(engine):
    free = hold(engine)
    found: list[object] = []
    call = threading.Thread(target=lambda: found.append(engine.generate([asked(f"tent {n}") for n in range(20)])))
    call.start()
    while engine.stats().waiting < 4:
        time.sleep(0.01)
    futures = [engine.submit(asked(), client="other") for _ in range(4)]
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


@pytest.mark.slow
def test_a_closing_engine_finishes_running_calls(either):
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
