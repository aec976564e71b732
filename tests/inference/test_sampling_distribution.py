"""Sampled answers of an engine are those of a plain loop over a transformers model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from searchlora.errors import EngineError
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling, TokenSampler
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.models.load import load_model
from tests.inference.small_models import local_engine
from tests.inference.test_sampling import logits_of, reference


def asked(text, tokens, sampling) -> Request:
    return Request(({"role": "user", "content": text},), None, tokens, sampling=sampling)


@pytest.fixture(scope="module")
def logits(tiny_base):
    """A function from token ids to the next token's logits, by transformers alone."""
    model = load_model(tiny_base, precision="fp32").eval()

    def compute(ids) -> torch.Tensor:
        with torch.inference_mode():
            found = model(torch.tensor([list(ids)])).logits[0, -1]
        return found.clone()

    return compute


@pytest.fixture(scope="module", params=["batched", "one adapter"])
def engine(request, tiny_base):
    engine = local_engine(request.param, tiny_base, batch_invariant=False)
    yield engine
    engine.close(5)


def plain_answer(logits, prompt, sampling, tokens, stop_id):
    """An answer by a plain loop: its tokens and their log-probabilities."""
    sampler, ids, logprobs = TokenSampler(sampling), list(prompt), []
    while len(ids) < len(prompt) + tokens and (len(ids) == len(prompt) or ids[-1] != stop_id):
        scores = logits(ids)
        of_model = torch.log_softmax(scores, -1)
        for token in set(ids[len(prompt) :]):
            count = ids[len(prompt) :].count(token)
            scores[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
        if sampling.is_greedy:
            token = int(scores.argmax())
        else:
            shares = np.cumsum(reference(scores, sampling))
            token = int(np.searchsorted(shares, sampler.uniform() * shares[-1], side="right"))
        ids.append(token)
        logprobs.append((float(of_model[token]), of_model.topk(3).values.tolist()))
    return ids[len(prompt) :], logprobs


ANSWERS = [
    Sampling(1.0, seed=1, logprobs=3),
    Sampling(0.7, top_k=30, top_p=0.9, seed=2, logprobs=3),
    Sampling(presence_penalty=1.5, frequency_penalty=1.0, logprobs=3),
    Sampling(1.2, frequency_penalty=2.0, seed=4, logprobs=3),
    Sampling(logprobs=3),
]


@pytest.mark.slow
def test_answers_and_their_log_probabilities_are_those_of_a_plain_loop(engine, logits):
    requests = [asked(text, 15, each) for each in ANSWERS for text in ("tent", "a boot for the rain")]
    prompts = [engine.renderer.prompt_ids(request.messages) for request in requests]
    queued = engine._inputs.generate_requests(requests)
    engine._core.finish(queued)
    completions = engine.generate(requests)
    for request, prompt, each, completion in zip(requests, prompts, queued, completions, strict=True):
        ids, logprobs = plain_answer(logits, prompt, request.sampling, 15, engine.renderer.stop_id)
        assert each.result.result() == ids
        assert completion.text == engine.renderer.decode(ids)
        for found, (logprob, best) in zip(completion.logprobs, logprobs, strict=False):
            assert found.logprob == pytest.approx(logprob, abs=1e-4)
            assert [top.logprob for top in found.top] == pytest.approx(best, abs=1e-4)


def test_rows_with_non_finite_logits_fail_alone():
    kinds = [None, Sampling(1.0, seed=1), Sampling(presence_penalty=1.0), Sampling(1.0, seed=2, logprobs=2)]

    def answers():
        return [
            AnswerState(GenerateRequest(ids=(1,), max_new_tokens=9, adapter="x", sampler=each and TokenSampler(each)))
            for each in kinds
        ]

    rows = torch.stack([logits_of(n) for n in range(4)])
    alone = answers()
    append_tokens(alone, rows.clone(), 2)
    bad = rows.clone()
    for row, value in enumerate((math.nan, -math.inf, math.inf, math.nan)):
        bad[row, 3 if value != -math.inf else slice(None)] = value
    mixed = [*answers(), *answers()]
    append_tokens(mixed, torch.cat([bad, rows]), 2)
    assert [each.ids for each in mixed[4:]] == [each.ids for each in alone]
    assert [each.error for each in mixed[4:]] == [None] * 4
    for answer in mixed[:4]:
        assert isinstance(answer.error, EngineError)
        assert "no finite numbers" in str(answer.error)
        assert answer.ended
