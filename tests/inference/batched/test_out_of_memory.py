"""Memory that runs out: smaller batches give the same answers, and nothing is lost."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from searchlora.errors import EngineError
from searchlora.inference import out_of_memory
from searchlora.inference.batched import kv_cache
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest
from tests.inference.small_models import batched, ids, small

ERRORS = {
    "GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": lambda: torch.empty(1 << 60),  # PyTorch's own error
    "Python": lambda: MemoryError(),
}


def run_out(kind):
    raise ERRORS[kind]()


def requests():
    generated = [GenerateRequest(ids=ids(5 + seed, seed), max_new_tokens=4 + seed % 3) for seed in range(9)]
    choices = tuple((token, 2) for token in range(40, 46))
    scored = [ScoreRequest(ids=ids(12, seed), choices=choices) for seed in range(20, 27)]
    return [*generated, *scored]


def results(core):
    queued = requests()
    core.finish(queued)
    return [request.result.result() for request in queued]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("most", [1, 3])
def test_a_pass_that_runs_out_of_memory_is_computed_in_halves(monkeypatch, caplog, kind, most):
    model = small("llama", num_hidden_layers=1)
    wanted = results(batched(small("llama", num_hidden_layers=1), rows=8, batch_invariant=True))
    core = batched(model, rows=8, batch_invariant=True)
    forward = core._runner._prefiller.forward
    real, computed, failed = forward.hidden_states, [], []

    def hidden_states(tokens, *arguments):
        if len(tokens) > most:
            failed.append(len(tokens))
            run_out(kind)
        computed.append(len(tokens))
        return real(tokens, *arguments)

    monkeypatch.setattr(forward, "hidden_states", hidden_states)
    assert results(core) == wanted
    assert most / 2 < max(computed) <= most and 0 < len(failed) < 9
    assert [record.levelname for record in caplog.records if "Memory ran out" in record.message] == ["WARNING"]
    before = len(failed)
    assert results(core) == wanted
    assert len(failed) == before, "what did not fit is not tried again at once"


def test_limits_rise_again_after_a_shortage(monkeypatch):
    wanted = results(batched(small("llama", num_hidden_layers=1), rows=8, batch_invariant=True))
    core = batched(small("llama", num_hidden_layers=1), rows=8, batch_invariant=True)
    forward, most, computed = core._runner._prefiller.forward, [2], []
    real = forward.hidden_states

    def hidden_states(tokens, *arguments):
        if len(tokens) > most[0]:
            run_out("CPU")
        computed.append(len(tokens))
        return real(tokens, *arguments)

    monkeypatch.setattr(forward, "hidden_states", hidden_states)
    assert results(core) == wanted
    assert max(computed) == 2
    most[0] = 8
    monkeypatch.setattr(out_of_memory, "RETRY_S", 0.0, raising=False)
    core._runner._smaller.warn_and_free(8)
    assert results(core) == wanted
    assert max(computed) == 8


@pytest.mark.slow
def test_a_row_that_has_no_room_in_the_cache_waits_for_others_to_end(monkeypatch):
    wanted = results(batched(small("llama", num_hidden_layers=1), batch_invariant=True))
    core = batched(small("llama", num_hidden_layers=1), batch_invariant=True)
    real = kv_cache._resized

    def resized(data, rows, columns):
        if rows > 2:
            run_out("CPU")
        return real(data, rows, columns)

    monkeypatch.setattr(kv_cache, "_resized", resized)
    assert results(core) == wanted


@pytest.mark.slow
def test_a_single_row_that_does_not_fit_fails_alone(monkeypatch):
    core = batched(small("llama", num_hidden_layers=1), rows=4)
    forward = core._runner._prefiller.forward
    real = forward.hidden_states

    def hidden_states(tokens, positions, *arguments):
        if int(positions.max()) >= 20:
            run_out("GPU")
        return real(tokens, positions, *arguments)

    monkeypatch.setattr(forward, "hidden_states", hidden_states)
    short, growing, long = (
        GenerateRequest(ids=ids(count), max_new_tokens=8, ignore_stop=True) for count in (5, 15, 30)
    )
    core.finish([short, growing, long])
    assert len(short.result.result()) == 8
    with pytest.raises(EngineError, match="does not fit into memory"):
        growing.result.result()
    with pytest.raises(EngineError, match=r"does not fit into memory \(CUDA.*lower cache_tokens or batch_tokens"):
        long.result.result()


def test_a_cache_grows_without_being_there_twice(monkeypatch):
    cache, real, peak = kv_cache.KVCache(32), kv_cache._resized, []

    def resized(data, rows, columns):
        new = real(data, rows, columns)
        peak.append(new.nbytes + sum(part.nbytes for part in cache._parts))
        return new

    monkeypatch.setattr(kv_cache, "_resized", resized)
    for rows in (2, 4, 8):
        cache.reserve(rows, 64, 64 * rows)
        cache.paste_columns(rows - 1, torch.full((32, 2, 2, 5, 8), float(rows)))
    whole = sum(part.nbytes for part in cache._parts)
    assert max(peak) < 1.2 * whole
    assert [float(cache.copy_columns(row, slice(5)).mean()) for row in (1, 3, 7)] == [2, 4, 8]


def test_the_default_cache_takes_a_third_of_the_free_memory_at_most(monkeypatch, caplog):
    monkeypatch.setattr("searchlora.models.memory.available_memory", lambda: 3 << 20)
    of_token = 2 * 2 * 2 * 8 * 4  # bytes: two layers, keys and values, two heads of eight numbers in fp32
    wanted = {None: (1 << 20) // of_token, 65_536: 65_536, 50_000: 50_000}
    with caplog.at_level("INFO"):
        for given, tokens in wanted.items():
            core = batched(small("llama"), cache_tokens=given, batch_invariant=True)
            assert core._runner._limits.cache_tokens == tokens
        monkeypatch.setattr("searchlora.models.memory.available_memory", lambda: 0)
        batched(small("llama"), cache_tokens=None)
    shown = [(record.levelname, record.args[0]) for record in caplog.records if "KV cache" in record.message]
    assert shown == [("INFO", 4096), ("WARNING", 1)]


def adapter(folder, base="llama"):
    """The folder of a random adapter of a small model."""
    get_peft_model(small(base), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def test_a_prompt_that_cannot_be_kept_is_computed_once_and_its_adapter_is_released_once(monkeypatch, tmp_path):
    core = batched(small("llama"), lambda _: nullcontext(adapter(tmp_path)))
    monkeypatch.setattr(core._runner._batch, "copy_columns", lambda *_: run_out("GPU"))
    same = [GenerateRequest(ids=ids(12), adapter="a", max_new_tokens=4, keep_prefix=True) for _ in range(3)]
    core.finish(same)
    (answer,) = {tuple(request.result.result()) for request in same}
    assert core.stats().generated_tokens == 3 * len(answer)
    assert core._adapters.in_use == frozenset()
