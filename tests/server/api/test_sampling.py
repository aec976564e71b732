"""Sampling parameters, several answers, stop strings and log-probabilities, through OpenAI's unmodified client."""

from __future__ import annotations

import math
from itertools import groupby

import pytest

from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling
from tests.server.api.serving import asked

CHAT = [{"role": "user", "content": "tent"}]


def chat(official, **more):
    return official.chat.completions.create(**{"model": "one", "messages": CHAT, "max_tokens": 12} | more)


def expected(service, answers=1, stop=(), tokens=12, **sampling):
    request = Request(tuple(CHAT), "one@1", tokens, sampling=Sampling(**sampling), stop=stop)
    return [future.result() for future in service.engine.submit_answers(request, answers)]


SAMPLING = {"temperature": 1.3, "top_p": 0.8, "seed": 5, "presence_penalty": 0.5, "frequency_penalty": -0.25}
VLLM = {"top_k": 40, "min_p": 0.01}


@pytest.mark.slow
def test_every_parameter_reaches_the_engine(official, service):
    (wanted,) = expected(service, **SAMPLING, **VLLM)
    assert chat(official, **SAMPLING, extra_body=VLLM).choices[0].message.content == wanted.text
    for name, value in SAMPLING.items():  # each of them changes the answer: none is lost
        neutral = {"temperature": 0.3, "top_p": 1, "seed": 6, "presence_penalty": 0, "frequency_penalty": 0}[name]
        (other,) = expected(service, **SAMPLING | {name: neutral})
        assert chat(official, **SAMPLING | {name: neutral}).choices[0].message.content == other.text
        assert value != neutral

    (stopped,) = expected(service, stop=("e", "a"))
    for stop in (["e", "a"], ["never", "e", "a"]):
        assert chat(official, stop=stop).choices[0].message.content == stopped.text


@pytest.mark.slow
def test_answers_are_greedy_unless_the_client_asks_for_more(official, service):
    (greedy,) = expected(service)
    for more in (
        {},
        {"temperature": 0},
        {"seed": 1},
        {"top_p": 0.5},
        {"temperature": None},
        {"temperature": 1, "top_p": 0},
    ):
        assert chat(official, **more).choices[0].message.content == greedy.text
    assert {chat(official, temperature=2.0, seed=seed).choices[0].message.content for seed in range(4)} != {greedy.text}


def test_several_answers_are_drawn_at_temperature_1(official, service):
    wanted = [each.text for each in expected(service, 5, temperature=1.0, seed=3)]
    answer = chat(official, n=5, seed=3)
    assert [choice.message.content for choice in answer.choices] == wanted
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4]
    assert len(set(wanted)) > 1
    alone = chat(official, n=1, temperature=1, seed=3)
    assert alone.choices[0].message.content == wanted[0]
    # A prompt counts once, however many answers it has.
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert answer.usage.completion_tokens == sum(
        each.completion_tokens for each in expected(service, 5, temperature=1.0, seed=3)
    )


def test_streamed_answers_are_interleaved_by_index(official, service):
    wanted = expected(service, 4, temperature=1.0, seed=7)
    chunks = list(chat(official, n=4, seed=7, stream=True, stream_options={"include_usage": True}))
    texts, finish, roles = [""] * 4, [None] * 4, [0] * 4
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        assert finish[choice.index] is None  # nothing after the end of an answer
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        finish[choice.index] = choice.finish_reason
    assert (texts, finish, roles) == ([each.text for each in wanted], [each.finish for each in wanted], [1] * 4)
    order = [chunk.choices[0].index for chunk in chunks[:-1]]
    assert len(list(groupby(order))) > 4, order  # the answers grow together
    usage = chunks[-1].usage
    assert usage.completion_tokens == sum(each.completion_tokens for each in wanted)
    assert usage.prompt_tokens == wanted[0].prompt_tokens


@pytest.mark.parametrize("top", [None, 0, 3])
def test_log_probabilities_of_chats(official, service, top):
    (wanted,) = expected(service, temperature=1.0, seed=2, logprobs=top or 0)
    more = {"temperature": 1, "seed": 2, "logprobs": True} | ({} if top is None else {"top_logprobs": top})
    choice = chat(official, **more).choices[0]
    assert [each.token for each in choice.logprobs.content] == [each.text for each in wanted.logprobs]
    assert [each.logprob for each in choice.logprobs.content] == pytest.approx(
        [each.logprob for each in wanted.logprobs], abs=1e-4
    )
    assert b"".join(bytes(each.bytes) for each in choice.logprobs.content).decode("utf-8", "replace") == wanted.text
    assert all(len(each.top_logprobs) == (top or 0) for each in choice.logprobs.content)
    assert all(math.exp(each.logprob) <= 1 for each in choice.logprobs.content)
    streamed = [
        token
        for chunk in chat(official, **more, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [each.token for each in streamed] == [each.token for each in choice.logprobs.content]
    assert chat(official).choices[0].logprobs is None


def test_described_tools_change_nothing(official, service):
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
    (wanted,) = expected(service)
    for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        answer = chat(official, tools=tools, parallel_tool_calls=True, **choice)
        assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (wanted.text, None)


@pytest.mark.slow
def test_more_answers_than_a_client_may_have_are_refused(client, service):
    answer = client.post("/v1/chat/completions", json=asked(n=128))
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 128
    assert service.engine.stats().generating == 0
