"""Sampled answers: seeds, several answers to one request, stop strings, log-probabilities, penalties and grammars."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from searchlora.errors import DeadlineExceeded, RequestRefused
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling
from searchlora.models.resolve import resolve
from searchlora.outputs import Grammar
from tests.inference.scheduling.requests import hold


def asked(text="tent", adapter=None, tokens=12, grammar=None, stop=(), **sampling) -> Request:
    return Request(
        ({"role": "user", "content": text},), adapter, tokens, grammar, sampling=Sampling(**sampling), stop=stop
    )


WORDS = ("tent", "a boot for the rain", "stove", "rope rope rope rope rope", "lamp, and more lamp")
MIXED = [
    asked(WORDS[0], temperature=1.0, seed=1),
    asked(WORDS[1]),
    asked(WORDS[2], "x", temperature=0.8, top_p=0.9, seed=1),
    asked(WORDS[3], grammar=Grammar("regex", "[a-z]{3,9}"), temperature=1.0, seed=3),
    asked(WORDS[4], "x", temperature=1.5, top_k=40, min_p=0.01, seed=4, logprobs=2),
    asked(WORDS[0], presence_penalty=1.5, frequency_penalty=0.5),
    asked(WORDS[1], temperature=0.7, presence_penalty=1.0, seed=5),
]


@pytest.mark.slow
def test_several_answers_differ_and_are_repeatable(either):
    request = asked("tent", "x", temperature=1.0, seed=7)
    futures = either.submit_answers(request, 6, client="one")
    texts = [future.result(60).text for future in futures]
    assert len(set(texts)) == 6
    again = [future.result(60).text for future in either.submit_answers(request, 6)]
    assert again == texts
    assert either.submit(request).result(60).text == texts[0] == either.generate([request])[0].text
    other = [future.result(60).text for future in either.submit_answers(replace(request, sampling=Sampling(1.0)), 2)]
    assert not set(other) & set(texts)


@pytest.mark.slow
def test_with_a_real_base_seeds_give_the_same_answers_in_any_batch_in_bf16():
    base = resolve("smollm2-135m-instruct-q4_1")
    requests = [replace(each, adapter=None, max_new_tokens=8) for each in MIXED]
    first = LocalEngine(base)
    wanted = first.generate(requests)
    assert len({each.text for each in wanted}) >= len(MIXED) - 1
    few = LocalEngine(base, max_num_seqs=2, prefix_tokens=0)
    for order, engine in ((MIXED[::-1], few), (MIXED[3:] + MIXED[:3], first)):
        places = [MIXED.index(each) for each in order]
        assert engine.generate([requests[place] for place in places]) == [wanted[place] for place in places]
        assert engine.submit(requests[2]).result(60) == wanted[2]


@pytest.mark.slow
def test_a_withdrawn_and_a_late_answer_do_not_change_the_others(either):
    requests = [replace(each, max_new_tokens=60) for each in MIXED]
    wanted = [either.generate([request])[0] for request in requests]
    futures = []

    def withdraw(text):
        if len(text) > 3:
            futures[0].cancel()

    free = hold(either)
    futures += [either.submit(requests[0], on_token=withdraw)]
    # Its first token takes longer than it has, on any machine.
    late = either.submit(replace(requests[2], max_new_tokens=3000), seconds=0.4, on_token=lambda _: time.sleep(0.5))
    futures += [either.submit(request) for request in requests[1:]]
    free.set()
    assert [future.result(60) for future in futures[1:]] == wanted[1:]
    assert futures[0].cancelled()
    with pytest.raises(DeadlineExceeded):
        late.result(60)
    assert either.generate(requests[:1]) == wanted[:1]


def test_no_answers_are_refused(either):
    with pytest.raises(RequestRefused, match="asks for 0 answers"):
        either.submit_answers(asked(), 0)
    with pytest.raises(RequestRefused, match="a stop string is empty"):
        asked(stop=("a", ""))


@pytest.mark.slow
def test_an_answer_and_its_logprobs_end_at_a_stop_string(either):
    request = asked("tent", tokens=40, logprobs=1)
    whole = either.generate([request])[0]
    stop = whole.text[5:8]
    seen = []
    (future,) = either.submit_answers(
        replace(request, stop=("never that", stop)), 1, on_token=lambda _, *seen_now: seen.append(seen_now)
    )
    completion = future.result(60)
    assert completion == either.generate([replace(request, stop=(stop,))])[0]
    assert (completion.text, completion.finish) == (whole.text[: whole.text.index(stop)], "stop")
    assert completion.completion_tokens < whole.completion_tokens
    assert seen[-1] == (completion.text, completion.logprobs)
    for text, logprobs in seen:
        assert completion.text.startswith(text)
        assert completion.logprobs[: len(logprobs)] == logprobs
    assert b"".join(each.bytes for each in completion.logprobs).decode("utf-8", "replace") == completion.text


@pytest.mark.slow
def test_logprobs_are_streamed_with_the_text(either):
    request = asked("tent", "x", tokens=10, temperature=1.0, seed=2, logprobs=3)
    seen = [[], []]

    def on_token(answer, text, logprobs):
        seen[answer].append((text, logprobs))

    futures = either.submit_answers(request, 2, on_token=on_token)
    for future, pieces in zip(futures, seen, strict=True):
        completion = future.result(60)
        assert pieces[-1] == (completion.text, completion.logprobs)
        assert len(pieces) == completion.completion_tokens
        for text, logprobs in pieces:
            assert completion.text.startswith(text)
            assert completion.logprobs[: len(logprobs)] == logprobs
        stopped = completion.finish == "stop"
        assert len(completion.logprobs) == completion.completion_tokens - stopped
        content = b"".join(each.bytes for each in completion.logprobs)
        assert content.decode("utf-8", "replace") == completion.text
        for each in completion.logprobs:
            assert len(each.top) == 3
            assert each.top[0].logprob >= each.top[1].logprob >= each.top[2].logprob
            assert each.logprob <= each.top[0].logprob


@pytest.mark.slow
def test_streamed_logprobs_are_made_once(either, monkeypatch):
    made = []
    real = either._outputs._token_bytes
    monkeypatch.setattr(either._outputs, "_token_bytes", lambda token: made.append(token) or real(token))
    request = asked("tent", "x", tokens=30, temperature=1.0, seed=2, logprobs=1)
    completion = either.submit_answers(request, 1, on_token=lambda *_: None)[0].result(60)
    assert len(made) <= 1 + 2 * completion.completion_tokens
