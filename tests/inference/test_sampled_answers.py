"""Sampled answers: seeds, several answers to one request, stop strings, log-probabilities, penalties and grammars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchlora.errors import RequestRefused
from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling
from searchlora.outputs import Grammar


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


def test_the_same_seed_gives_the_same_answer_in_any_batch_and_order(either):
    alone = [either.generate([request])[0] for request in MIXED]
    assert either.generate(MIXED) == alone
    assert either.generate(MIXED[::-1])[::-1] == alone
    assert len({each.text for each in alone}) == len(MIXED)


def test_several_answers_differ_and_are_repeatable(either):
    request = asked("tent", "x", temperature=1.0, seed=7)
    futures = either.submit_answers(request, 6, caller="one")
    texts = [future.result(60).text for future in futures]
    assert len(set(texts)) == 6
    again = [future.result(60).text for future in either.submit_answers(request, 6)]
    assert again == texts
    assert either.submit(request).result(60).text == texts[0] == either.generate([request])[0].text
    other = [future.result(60).text for future in either.submit_answers(replace(request, sampling=Sampling(1.0)), 2)]
    assert not set(other) & set(texts)


def test_no_answers_are_refused(either):
    with pytest.raises(RequestRefused, match="asks for 0 answers"):
        either.submit_answers(asked(), 0)
    with pytest.raises(RequestRefused, match="a stop string is empty"):
        asked(stop=("a", ""))


def test_an_answer_ends_at_a_stop_string(either):
    request = asked("tent", tokens=40)
    whole = either.generate([request])[0]
    stop = whole.text[5:8]
    cut = whole.text[: whole.text.index(stop)]
    pieces = []
    streamed = either.submit(replace(request, stop=("never that", stop)), on_token=pieces.append).result(60)
    assert streamed == either.generate([replace(request, stop=(stop,))])[0]
    assert (streamed.text, streamed.finish) == (cut, "stop")
    assert streamed.completion_tokens < whole.completion_tokens
    assert pieces[-1] == cut
    assert all(cut.startswith(piece) for piece in pieces)


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
