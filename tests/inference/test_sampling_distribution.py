"""Answers of an engine are drawn from the distribution of a plain transformers model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from searchlora.errors import EngineError
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling, TokenSampler
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.models.load import load_model
from searchlora.models.resolve import resolve
from searchlora.outputs import Grammar
from tests.inference.test_sampling import chi_square, logits_of, reference

DRAWS = 10_000


def asked(text="tent", tokens=1, grammar=None, **sampling) -> Request:
    return Request(({"role": "user", "content": text},), None, tokens, grammar, sampling=Sampling(**sampling))


def plain_logits(base):
    """A function from token ids to the next token's logits, by transformers alone."""
    model = load_model(base, precision="fp32").eval()

    def logits(ids) -> torch.Tensor:
        with torch.inference_mode():
            found = model(torch.tensor([list(ids)])).logits[0, -1]
        return found.clone()

    return logits


@pytest.fixture(scope="module")
def logits(tiny_base):
    return plain_logits(tiny_base)


@pytest.fixture(scope="module", params=["batched", "one adapter"])
def engine(request, tiny_base):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "one adapter":
            patch.setattr("searchlora.inference.batched.forward.is_supported", lambda _: False)
        engine = LocalEngine(tiny_base, precision="fp32", max_num_seqs=256, batch_invariant=False)
    yield engine
    engine.close(5)


def first_tokens(engine, request, count, others=()) -> list[int]:
    """First tokens of many answers to one request, in batches with other requests."""
    queued = engine._inputs.answers(request, count)
    engine._core.finish([*queued[: count // 2], *engine._inputs.generate_requests(others), *queued[count // 2 :]])
    return [each.result.result()[0] for each in queued]


OTHERS = [
    asked("stove", 20),
    asked("boot", 30, temperature=1.5, top_k=3),
    asked("rope", 20, Grammar("regex", "[a-z]{5,20}"), temperature=1.0),
    asked("lamp", 30, temperature=0.5, presence_penalty=1.0, logprobs=2),
] * 8

LETTERS = Grammar("regex", "[a-z]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "grammar", "others"),
    [
        (Sampling(1.0, seed=3), None, ()),
        (Sampling(1.0, seed=3), None, OTHERS),
        (Sampling(0.6, top_k=50, top_p=0.9, min_p=0.01, seed=5), None, OTHERS),
        (Sampling(1.2, seed=7), LETTERS, OTHERS),
    ],
    ids=["alone", "mixed", "filtered, mixed", "under a grammar, mixed"],
)
def test_10_000_answers_follow_the_models_distribution(engine, logits, sampling, grammar, others):
    draws = DRAWS if engine.shares_batches else 1500
    request = Request(({"role": "user", "content": "tent"},), None, 1, grammar, sampling=sampling)
    wanted = logits(engine.renderer.prompt_ids(request.messages))
    if grammar is not None:
        letters = engine.renderer.tokenizer("".join(map(chr, range(97, 123))), add_special_tokens=False)["input_ids"]
        wanted[[token for token in range(len(wanted)) if token not in letters]] = -math.inf
    expected = reference(wanted, sampling)
    counts = np.bincount(first_tokens(engine, request, draws, others), minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    assert (expected > 0).sum() > 8
    assert chi_square(counts, expected * draws) > 0.001


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


def assert_plain_answers(engine, logits, tokens, tolerance, samplings=ANSWERS, texts=("tent", "a boot for the rain")):
    requests = [asked(text, tokens, **vars(each)) for each in samplings for text in texts]
    prompts = [engine.renderer.prompt_ids(request.messages) for request in requests]
    queued = engine._inputs.generate_requests(requests)
    engine._core.finish(queued)
    completions = engine.generate(requests)
    for request, prompt, each, completion in zip(requests, prompts, queued, completions, strict=True):
        ids, logprobs = plain_answer(logits, prompt, request.sampling, tokens, engine.renderer.stop_id)
        assert each.result.result() == ids
        assert completion.text == engine.renderer.decode(ids)
        for found, (logprob, best) in zip(completion.logprobs, logprobs, strict=False):
            assert found.logprob == pytest.approx(logprob, abs=tolerance)
            assert [top.logprob for top in found.top] == pytest.approx(best, abs=tolerance)


@pytest.mark.slow
def test_answers_and_their_log_probabilities_are_those_of_a_plain_loop(engine, logits):
    assert_plain_answers(engine, logits, 15, 1e-4)


@pytest.mark.slow
def test_with_a_real_base_answers_are_those_of_a_plain_loop():
    base = resolve("smollm2-135m-instruct-q4_1")
    engine = LocalEngine(base, precision="fp32")
    assert_plain_answers(engine, plain_logits(base), 4, 1e-3, ANSWERS[1:4], ("tent",))


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
