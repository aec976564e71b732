"""Long prompts are computed in chunks between decode steps, and compute what they compute as a whole."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from searchlora.errors import DeadlineExceeded, EngineError
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest
from tests.inference.small_models import batched, full_scores, greedy, ids, small

CHUNK = 16

#: Models with a sliding window that is longer than a chunk and shorter than the prompts.
WINDOWED = {
    "mistral with a window": ("mistral", {"sliding_window": 20}),
    "gemma3": ("gemma3_text", {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]}),
}


def core(model, fetch=lambda _: None, **settings):
    made = batched(model, fetch, **settings)
    made._runner._prefiller.chunk = CHUNK
    return made


@dataclass
class Pass:
    """What one forward pass computed."""

    rows: int
    new: int
    mask: int

    @property
    def is_decode(self) -> bool:
        return self.new == 1


def recorded(core, monkeypatch, before=lambda _: None, costs=lambda _: 0.0) -> list[Pass]:
    """The passes of a core; its clock counts what they cost."""
    forward = core._runner._prefiller.forward
    real, passes, clock = forward.hidden_states, [], [0.0]

    def hidden_states(tokens, positions, visible, *arguments):
        passes.append(Pass(*tokens.shape, visible.numel()))
        clock[0] += costs(tokens.shape[1])
        before(passes)
        return real(tokens, positions, visible, *arguments)

    monkeypatch.setattr(forward, "hidden_states", hidden_states)
    monkeypatch.setattr("searchlora.inference.batched.model_runner.time.monotonic", lambda: clock[0])
    return passes


@pytest.mark.slow
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "gemma", *WINDOWED])
def test_chunks_compute_what_the_model_computes_with_the_adapter_of_each_row(name, invariant, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    name, settings = WINDOWED.get(name, (name, {}))
    for number, targets in enumerate(["all-linear", {"gpt2": ["c_attn"]}.get(name, ["q_proj", "v_proj"])]):
        made = get_peft_model(small(name, **settings), LoraConfig(r=3 + number, lora_alpha=8, target_modules=targets))
        generator = torch.Generator().manual_seed(number)
        for parameter in (value for key, value in made.named_parameters() if "lora_" in key):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        made.save_pretrained(tmp_path / f"a{number}")
    alone = {each: PeftModel.from_pretrained(small(name, **settings), tmp_path / each).eval() for each in ("a0", "a1")}
    alone[None] = small(name, **settings)
    lengths = [CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5, 150, 7, 199]
    rows = [(ids(n, n), ("a0", None, "a1")[place % 3]) for place, n in enumerate(lengths)]
    choices = (ids(4, 1), ids(2, 2), (*ids(3, 1), 2))
    writing = [GenerateRequest(ids=prompt, adapter=each, max_new_tokens=6) for prompt, each in rows]
    scoring = [ScoreRequest(ids=prompt, adapter=each, choices=choices) for prompt, each in rows]
    shared = core(small(name, **settings), lambda each: tmp_path / each, batch_invariant=invariant)
    shared.finish([*writing, *scoring])
    for (prompt, adapter), written, scored in zip(rows, writing, scoring, strict=True):
        model = alone[adapter]
        assert written.result.result() == greedy(model, prompt, 6)
        (wanted,) = full_scores(model, [prompt], [choices])
        assert scored.result.result().log_probabilities == pytest.approx(wanted, abs=1e-4)


def test_rows_decode_between_chunks_and_no_mask_is_larger_than_a_chunk_of_the_length(monkeypatch):
    shared = core(small("llama"))
    passes = recorded(shared, monkeypatch)
    short = [GenerateRequest(ids=ids(5, n), max_new_tokens=8, ignore_stop=True) for n in range(4)]
    long = GenerateRequest(ids=ids(240), max_new_tokens=4, ignore_stop=True)
    order: list[str] = []
    for request, name in [*((each, "short") for each in short), (long, "long")]:
        request.result.add_done_callback(lambda _, name=name: order.append(name))
    shared.submit([*short, long], "one")
    for request in (*short, long):
        request.result.result(30)
    assert order == ["short"] * 4 + ["long"]
    chunks = [place for place, each in enumerate(passes) if each.new == CHUNK and each.rows == 1]
    assert len(chunks) == 240 // CHUNK
    while_short_decode = [each for each in passes[: chunks[6] + 1] if each.is_decode]
    assert len(while_short_decode) >= 6  # one step at least between two chunks
    assert max(each.mask for each in passes) <= (CHUNK + 4) * 256


def test_after_a_chunk_rows_decode_for_as_long_as_it_took(monkeypatch):
    shared = core(small("llama"))
    passes = recorded(shared, monkeypatch, costs=lambda new: 10.0 if new == CHUNK else 3.0)
    short = GenerateRequest(ids=ids(5), max_new_tokens=40, ignore_stop=True)
    long = GenerateRequest(ids=ids(240), max_new_tokens=4, ignore_stop=True)
    shared.submit([short, long], "one")
    assert len(short.result.result(30)) == 40
    chunks = [place for place, each in enumerate(passes) if each.new == CHUNK]
    between = [end - start - 1 for start, end in pairwise(chunks[1:9])]
    assert between == [4] * 7
    long.result.result(30)


def test_nobody_is_waited_for_in_a_call_of_many(monkeypatch):
    shared = core(small("llama"))
    passes = recorded(shared, monkeypatch, costs=lambda new: 10.0 if new == CHUNK else 3.0)
    shared.finish([GenerateRequest(ids=ids(5), max_new_tokens=40), GenerateRequest(ids=ids(120), max_new_tokens=2)])
    chunks = [place for place, each in enumerate(passes) if each.new == CHUNK]
    assert max(end - start for start, end in pairwise(chunks)) <= 2


@pytest.mark.parametrize("kind", ["generate", "score"])
@pytest.mark.parametrize("way", ["cancelled", "late"])
def test_a_long_prompt_ends_between_two_chunks(monkeypatch, kind, way):
    shared = core(small("llama"))
    more = {"max_new_tokens": 4} if kind == "generate" else {"choices": ((5, 2), (6, 2))}
    request = (GenerateRequest if kind == "generate" else ScoreRequest)(ids=ids(240), **more)

    def end(passes):
        if len(passes) == 3 and way == "cancelled":
            request.result.cancel()
        elif len(passes) == 3:
            request.deadline = -1.0

    passes = recorded(shared, monkeypatch, end)
    shared.submit([request], "one")
    with pytest.raises(CancelledError if way == "cancelled" else DeadlineExceeded):
        request.result.result(30)
    after = GenerateRequest(ids=ids(5), max_new_tokens=2)
    shared.finish([after])
    assert sum(each.new == CHUNK for each in passes) == 3
    assert not shared._runner.running
    assert shared._runner._long._progress == {} and not shared._runner._long._queues


def test_callers_take_turns_and_a_short_one_is_not_held_up_by_a_long_one(monkeypatch):
    shared = core(small("llama"))
    recorded(shared, monkeypatch)
    order: list[str] = []
    requests = {
        "long": GenerateRequest(ids=ids(240), max_new_tokens=1),
        "less": ScoreRequest(ids=ids(60), choices=((5,),)),
    }
    for name, request in requests.items():
        request.result.add_done_callback(lambda _, name=name: order.append(name))
        shared.submit([request], name)
    for request in requests.values():
        request.result.result(30)
    assert order == ["less", "long"]


def test_a_prefix_that_long_prompts_share_is_computed_once(monkeypatch):
    shared = core(small("llama"))
    passes = recorded(shared, monkeypatch)
    head = ids(100)
    requests = [ScoreRequest(ids=(*head, *ids(30, n)), choices=((5, 2), (6, 2))) for n in range(1, 7)]
    shared.finish(requests)
    computed = sum(each.rows * each.new for each in passes)
    assert computed < 100 + 6 * (30 + CHUNK + 4)
    counts = shared.stats()
    assert counts.prompt_tokens == 6 * 130
    assert counts.prompt_tokens - counts.cached_prompt_tokens <= 100 + 6 * (30 + CHUNK)
    alone = core(small("llama"), prefix_tokens=0)
    for request in requests:
        again = ScoreRequest(ids=request.ids, choices=request.choices)
        alone.finish([again])
        found, wanted = request.result.result(), again.result.result()
        assert found.log_probabilities == pytest.approx(wanted.log_probabilities, abs=1e-4)


def test_a_computed_prompt_waits_for_room_in_the_batch_and_gets_it():
    shared = core(small("llama"), cache_tokens=256)
    long = GenerateRequest(ids=ids(200), max_new_tokens=4)
    short = [GenerateRequest(ids=ids(5, n), max_new_tokens=9 + n, ignore_stop=True) for n in range(12)]
    shared.submit([*short[:6], long, *short[6:]], "one")
    assert long.result.result(30) == greedy(small("llama"), long.ids, 4)
    assert all(len(request.result.result(30)) == 9 + n for n, request in enumerate(short))


@pytest.mark.parametrize("error", [MemoryError("no room"), "not finite"])
def test_a_chunk_that_fails_fails_its_own_request_only(monkeypatch, error):
    shared = core(small("llama"))
    if error == "not finite":
        embedding = shared._runner._prefiller.forward._backbone.get_input_embeddings()
        embedding.weight.data[251] = float("nan")
    forward = shared._runner._prefiller.forward
    real = forward.hidden_states

    def breaks(tokens, *more):
        if error != "not finite" and bool((tokens == 251).any()):
            raise error
        return real(tokens, *more)

    monkeypatch.setattr(forward, "hidden_states", breaks)
    bad = GenerateRequest(ids=(*ids(40), 251, *ids(100)), max_new_tokens=3)
    good = [GenerateRequest(ids=ids(n, n), max_new_tokens=20, ignore_stop=True) for n in (5, 90)]
    shared.submit([good[0], bad, good[1]], "one")
    with pytest.raises(EngineError, match="finite" if error == "not finite" else r"memory \(no room\)"):
        bad.result.result(30)
    assert [len(request.result.result(30)) for request in good] == [20, 20]
    assert not shared._runner.running


@pytest.mark.slow
@pytest.mark.parametrize("native", ["1", "0"])
def test_answers_to_long_prompts_do_not_depend_on_load_or_chunks(tiny_base, monkeypatch, native):
    monkeypatch.setenv("SEARCHLORA_NATIVE", native)
    requests = [
        Request(({"role": "user", "content": f"{n} " + "tent rain boot " * (1 + 11 * (n % 4))},), None, 5)
        for n in range(9)
    ]
    choices = [["red", "green", "a label of some length"]] * len(requests)
    found = []
    for chunk, size, rows in ((10_000, 1, 4), (64, 1, 4), (64, 9, 4), (48, 5, 2)):
        monkeypatch.setattr("searchlora.inference.batched.prefill.CHUNK", chunk)
        engine = LocalEngine(tiny_base, max_num_seqs=rows)
        answers = []
        for start in range(0, len(requests), size):
            some = requests[start : start + size]
            scored = engine.score(some, choices[: len(some)])
            answers += zip(engine.generate(some), [each.log_probabilities for each in scored], strict=True)
        found.append(answers)
    assert all(answers == found[0] for answers in found)


@pytest.mark.parametrize("invariant", [False, True])
def test_many_choices_are_scored_in_passes_with_small_masks(monkeypatch, invariant):
    monkeypatch.setattr("searchlora.inference.batched.choice_scoring._EXACT_NODES", 8)
    model = small("llama")
    shared = core(small("llama"), batch_invariant=invariant)
    passes = recorded(shared, monkeypatch)
    choices = tuple(ids(1 + n % 7, n) for n in range(30))
    requests = [ScoreRequest(ids=ids(n, n), choices=choices[: 30 - n]) for n in (5, 12)]
    shared.finish(requests)
    assert max(each.new for each in passes) <= CHUNK + 8
    wanted = full_scores(model, [request.ids for request in requests], [request.choices for request in requests])
    for request, scores in zip(requests, wanted, strict=True):
        assert request.result.result().log_probabilities == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("cache_tokens", [1, 7])
def test_a_long_prompt_is_computed_however_small_the_cache_is(cache_tokens):
    shared = core(small("llama"), cache_tokens=cache_tokens)
    until = time.monotonic() + 30
    writing = [GenerateRequest(ids=ids(40, n), max_new_tokens=3, deadline=until) for n in range(3)]
    scored = ScoreRequest(ids=ids(50), choices=((5, 2), (6, 2)), deadline=until)
    shared.submit([writing[0], scored], "one")
    shared.finish(writing[1:])
    wanted = [greedy(small("llama"), request.ids, 3) for request in writing]
    assert [request.result.result(30) for request in writing] == wanted
    assert len(scored.result.result(30).log_probabilities) == 2


@pytest.mark.parametrize("alone", [True, False])
def test_a_computed_prompt_without_memory_waits_for_rows_or_fails_alone(monkeypatch, alone):
    """The copy of its columns into the batch fails: always, or while another row decodes."""
    shared, real, failed = core(small("llama"), prefix_tokens=0), KVCache.copy_columns, []

    def copy_columns(cache, row, *columns):
        if columns[0].stop > 80 and (alone or shared._runner._batch.rows):
            failed.append(columns)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(cache, row, *columns)

    monkeypatch.setattr(KVCache, "copy_columns", copy_columns)
    # The first row decodes for so long that the prompt is computed before it has finished, however slow the machine is.
    lengths = ((120, 20), (60, 20), (5, 130))
    large, small_, row = (GenerateRequest(ids=ids(n), max_new_tokens=new, ignore_stop=True) for n, new in lengths)
    shared.submit([row, large, small_], "one")
    assert (len(row.result.result(30)), len(small_.result.result(30))) == (130, 20)
    if alone:
        with pytest.raises(EngineError, match="does not fit into memory"):
            large.result.result(30)
    else:
        assert len(large.result.result(30)) == 20
    assert failed and not shared._runner.running


@pytest.mark.parametrize("name", WINDOWED)
def test_with_a_window_answers_do_not_depend_on_load_or_chunks(name):
    prompts = [ids(n, n) for n in (5, 17, 40, 77, 40, 21)] + [(*ids(40, 40), *ids(9))]
    found = []
    for chunk, size in ((10_000, 1), (CHUNK, 1), (CHUNK, 7), (33, 3)):
        shared = core(small(WINDOWED[name][0], **WINDOWED[name][1]), batch_invariant=True)
        assert shared._runner._prefiller.forward._rotary is not None
        shared._runner._prefiller.chunk = chunk
        writing = [GenerateRequest(ids=prompt, max_new_tokens=5) for prompt in prompts]
        scoring = [ScoreRequest(ids=prompt, choices=((5, 6, 2), (7, 2))) for prompt in prompts]
        for start in range(0, len(prompts), size):
            shared.finish([*writing[start : start + size], *scoring[start : start + size]])
        found.append([request.result.result() for request in writing])
        found[-1] += [request.result.result().log_probabilities for request in scoring]
    assert all(answers == found[0] for answers in found)
