"""Sampling parameters, several answers, stop strings and log-probabilities, through OpenAI's unmodified client."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import openai
import pytest

from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling
from tests.server.api.serving import asked

CHAT = [{"role": "user", "content": "tent"}]


@pytest.fixture(scope="module")
def official(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


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


@pytest.mark.slow
def test_a_stop_string_is_never_sent_in_part(official):
    letters = {"structured_outputs": {"regex": "[ab]{40}"}}
    fixed = {"temperature": 1, "seed": 11, "max_tokens": 40, "extra_body": letters}
    free = chat(official, **fixed).choices[0].message.content
    # The last place where a run of letters occurs for the first time: parts of it occur before.
    stop = max((free[start : start + 6] for start in range(35)), key=free.find)
    kept = free[: free.find(stop)]
    assert len(kept) > 10
    for stops in (stop, [stop], ["never occurs", stop]):
        whole = chat(official, **fixed, stop=stops).choices[0]
        assert (whole.message.content, whole.finish_reason) == (kept, "stop")
        chunks = list(chat(official, **fixed, stop=stops, stream=True))
        grown = [chunk.choices[0].delta.content or "" for chunk in chunks]
        grown = ["".join(grown[: end + 1]) for end in range(len(grown))]
        assert grown[-1] == kept
        assert all(kept.startswith(each) for each in grown)
        assert len(set(grown)) > 5  # it is streamed
        assert chunks[-1].choices[0].finish_reason == "stop"


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


def test_a_closed_set_of_answers_is_sampled_within_the_set(official):
    outputs = {"structured_outputs": {"choice": ["red", "blue", "green"]}}
    answers = chat(official, n=16, temperature=2, seed=1, extra_body=outputs).choices
    assert {each.message.content for each in answers} <= {"red", "blue", "green"}
    assert len({each.message.content for each in answers}) > 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer_whatever_shares_the_batch(official):
    def seeded(_=None):
        return chat(official, temperature=1, seed=42).choices[0].message.content

    alone = seeded()
    with ThreadPoolExecutor(12) as pool:
        others = [pool.submit(chat, official, temperature=2, n=3) for _ in range(6)]
        assert set(pool.map(seeded, range(6))) == {alone}
        assert all(len(other.result().choices) == 3 for other in others)


def test_described_tools_change_nothing(official, service):
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
    (wanted,) = expected(service)
    for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        answer = chat(official, tools=tools, parallel_tool_calls=True, **choice)
        assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (wanted.text, None)


@pytest.mark.slow
def test_more_answers_than_a_caller_may_have_are_refused(client, service):
    answer = client.post("/v1/chat/completions", json=asked(n=128))
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 128
    assert service.engine.stats().generating == 0
