"""Answers to one request share its prefill, whenever they begin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchlora.errors import EngineError
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling
from searchlora.inference.scheduling.requests import CallbackRequest
from tests.inference.scheduling.requests import hold

TEXT = "tent, " * 12


def asked(text=TEXT, adapter=None, tokens=8, seed=1) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens, sampling=Sampling(1.0, seed=seed))


def engine_of(base, *, chunk=256, **settings) -> LocalEngine:
    engine = LocalEngine(base, **{"precision": "fp32", **settings})
    engine._core._runner._prefiller.chunk = chunk
    return engine


def computed(engine) -> int:
    """Prompt tokens that were computed."""
    return engine.stats().prompt_tokens - engine.stats().cached_prompt_tokens


def texts(futures) -> list[str]:
    return [future.result(60).text for future in futures]


@pytest.fixture(scope="module")
def expected(tiny_base):
    engine = engine_of(tiny_base)
    return texts(engine.submit_answers(asked(), 9))


@pytest.mark.parametrize("chunk", [256, 16], ids=["one pass", "in chunks"])
@pytest.mark.parametrize("rows", [32, 2])
def test_the_prompt_is_computed_once(tiny_base, expected, rows, chunk):
    engine = engine_of(tiny_base, max_num_seqs=rows, chunk=chunk)
    futures = engine.submit_answers(asked(), 9)
    assert texts(futures) == expected
    prompt = futures[0].result().prompt_tokens
    assert prompt > 2 * 16
    assert computed(engine) == prompt + 8  # the last token's hidden state is computed for each answer


@pytest.mark.slow
def test_groups_and_other_requests_share_batches(tiny_base, expected):
    engine = engine_of(tiny_base, max_num_seqs=5, chunk=16)
    free = hold(engine)
    first = engine.submit_answers(asked(), 9, client="a")
    other = engine.submit_answers(asked("boot"), 3, client="b")
    single = [engine.submit(asked(seed=seed), client="c") for seed in (1, 2)]
    free.set()
    assert texts(first) == expected
    assert texts(single)[0] == expected[0]
    assert texts(other) == texts(engine_of(tiny_base).submit_answers(asked("boot"), 3))


@pytest.mark.slow
def test_the_other_answers_go_on_when_one_is_withdrawn(tiny_base, expected):
    for chunk in (256, 16):
        engine = engine_of(tiny_base, max_num_seqs=2, chunk=chunk)
        free = hold(engine)
        futures = engine.submit_answers(asked(), 9)
        assert all(futures[number].cancel() for number in (0, 4))
        free.set()
        assert texts(futures[1:4] + futures[5:]) == expected[1:4] + expected[5:]


def test_a_prompt_without_finite_numbers_fails_all_answers(tiny_base, folders):
    engine = engine_of(tiny_base, max_num_seqs=2)
    engine.load_folder("broken", folders["broken"])
    free = hold(engine)
    futures = [*engine.submit_answers(asked(adapter="broken"), 5), *engine.submit_answers(asked(), 2)]
    free.set()
    for future in futures[:5]:
        with pytest.raises(EngineError, match="computes no finite numbers"):
            future.result(60)
    assert len(texts(futures[5:])) == 2


def test_numbers_that_are_not_finite_in_an_adapter_reach_its_own_rows_only(tiny_base, folders):
    """In bf16, where a kernel computes rows of several adapters together."""
    engine = engine_of(tiny_base, precision="bf16", max_num_seqs=4)
    engine.load_folder("x", folders["x"])
    wanted = [texts([engine.submit(asked(adapter=adapter))]) for adapter in ("x", None)]
    for name in ("broken", "broken in B"):
        engine.load_folder(name, folders[name])
        free = hold(engine)
        broken, *others = [engine.submit(asked(adapter=adapter)) for adapter in (name, "x", None)]
        free.set()
        with pytest.raises(EngineError, match="computes no finite numbers"):
            broken.result(60)
        assert [texts([other]) for other in others] == wanted


def test_an_adapter_that_was_replaced_computes_the_prompt_again(tiny_base, folders):
    request = replace(asked(adapter="x", tokens=1), sampling=Sampling(1.0, seed=1, logprobs=0))
    other = engine_of(tiny_base)
    other.load_folder("x", folders["y"])
    wanted = [future.result(60) for future in other.submit_answers(request, 3)]
    engine = engine_of(tiny_base, max_num_seqs=1)
    engine.load_folder("x", folders["x"])

    def change() -> None:
        engine._core._adapters.unload("x")
        engine._folders["x"] = folders["y"]

    def on_token(answer: int, *_: object) -> None:
        if answer == 0:  # before the second answer begins
            engine._core.submit([CallbackRequest(callback=change)], "other")

    found = [future.result(60) for future in engine.submit_answers(request, 3, on_token=on_token)]
    assert found[0].logprobs != wanted[0].logprobs
    assert [each.logprobs for each in found[1:]] == [each.logprobs for each in wanted[1:]]


def test_prompts_that_the_cache_does_not_hold_are_computed_again(tiny_base, expected):
    engine = engine_of(tiny_base, max_num_seqs=2, prefix_tokens=0)
    futures = engine.submit_answers(asked(), 9)
    assert texts(futures) == expected
    assert computed(engine) == 9 * futures[0].result().prompt_tokens
