"""Sampling follows the model's distribution and its filters, whatever else is in the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from searchlora.errors import RequestRefused
from searchlora.inference.sampling import Sampling, TokenSampler, sample, token_logprobs

VOCABULARY = 512


def logits_of(seed=0, vocabulary=VOCABULARY, spread=3.0):
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def reference(logits, sampling):
    """The filtered distribution, computed in the plainest way."""
    p = torch.softmax(logits.double() / sampling.temperature, -1).numpy()
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    kept = p[order] / (p[order].sum() if sampling.top_k else 1)
    if sampling.top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(kept), sampling.top_p)) + 1]
    order = order[p[order] >= sampling.min_p * p.max()]
    result = np.zeros_like(p)
    result[order] = p[order]
    return result / result.sum()


def chi_square(counts, expected):
    """p of the chi-square test; tokens with an expected count below 5 are joined."""
    large = expected >= 5
    observed = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    if wanted[-1] < 5:
        observed, wanted = np.append(observed[:-2], observed[-2:].sum()), np.append(wanted[:-2], wanted[-2:].sum())
    return stats.chisquare(observed, wanted).pvalue


FILTERS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=2.0),
    Sampling(temperature=1.0, top_k=7),
    Sampling(temperature=1.5, top_k=300),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_10_000_draws_follow_the_distribution_in_a_mixed_batch(sampling):
    logits, draws, rows = logits_of(), 10_000, 50
    counts = np.zeros(VOCABULARY)
    ours = [TokenSampler(Sampling(**{**vars(sampling), "seed": seed})) for seed in range(rows - 2)]
    others = [TokenSampler(Sampling(temperature=0.9, seed=1)), TokenSampler(Sampling(temperature=0.7, top_p=0.5))]
    batch = torch.stack([logits] * (rows - 2) + [logits_of(1), logits_of(2)])
    drawn = 0
    while drawn < draws:
        for token in sample(batch.clone(), [*ours, *others])[: rows - 2]:
            counts[token] += 1
            drawn += 1
    expected = reference(logits, sampling)
    assert counts[expected == 0].sum() == 0
    assert chi_square(counts, expected * drawn) > 0.001


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    vocabulary=st.sampled_from([7, 256, 1000, 4096]),
    temperature=st.floats(0.05, 2.0),
    top_k=st.integers(0, 300),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_only_tokens_that_the_filters_keep_are_drawn(seed, spread, vocabulary, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = logits_of(seed % 1000, vocabulary, spread)
    logits[torch.arange(vocabulary) % 3 == 1] = -math.inf  # as a grammar leaves them
    (token,) = sample(logits[None].clone(), [TokenSampler(Sampling(**{**vars(sampling), "seed": seed}))])
    scaled = (logits.double() / temperature).numpy()
    assert scaled[token] > -math.inf
    order = np.argsort(-scaled, kind="stable")
    better = int((scaled > scaled[token] + 1e-4).sum())
    if top_k:
        assert better < top_k
    p = np.exp(scaled - scaled.max())
    kept = order[:top_k] if top_k else order
    mass_before = p[kept][scaled[kept] > scaled[token] + 1e-4].sum() / p[kept].sum()
    assert mass_before <= top_p + 1e-6
    assert p[token] >= min_p * (1 - 1e-4)


def test_the_same_seed_gives_the_same_tokens_in_any_batch():
    steps = [logits_of(seed) for seed in range(40)]

    def answer(batch_before, batch_after, place):
        sampler = TokenSampler(Sampling(temperature=1.0, top_p=0.95, seed=11))
        others = [TokenSampler(Sampling(temperature=1.0, top_k=n + 1)) for n in range(batch_before + batch_after)]
        tokens = []
        for n, logits in enumerate(steps):
            noise = [logits_of(100 + n + row) for row in range(batch_before + batch_after)]
            batch = torch.stack([*noise[:batch_before], logits, *noise[batch_before:]])
            samplers = [*others[:batch_before], sampler, *others[batch_before:]]
            tokens.append(sample(batch, samplers)[place])
        return tokens

    alone = answer(0, 0, 0)
    assert answer(3, 2, 3) == answer(0, 7, 0) == alone
    assert len(set(alone)) > 20


def test_seeds_and_answers_have_numbers_of_their_own():
    def numbers(seed, answer=0):
        sampler = TokenSampler(Sampling(temperature=1.0, seed=seed), answer)
        return [sampler.uniform() for _ in range(5)]

    assert numbers(1) == numbers(1)
    assert len({tuple(numbers(seed, answer)) for seed in (0, 1, 12) for answer in (0, 1, 2)}) == 9
    assert numbers(None) != numbers(None)
    assert all(0 <= number < 1 for number in numbers(-5))


def test_penalties_are_subtracted_per_token_and_per_occurrence():
    sampler = TokenSampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25))
    logits = torch.zeros(6)
    sampler.penalise(logits)
    assert logits.tolist() == [0] * 6
    for token in (2, 2, 4):
        sampler.add(token)
    sampler.penalise(logits)
    assert logits.tolist() == [0, 0, -1.0, 0, -0.75, 0]


def test_log_probabilities_are_those_of_the_model():
    logits = torch.stack([logits_of(1), logits_of(2)])
    expected = torch.log_softmax(logits, -1)
    first, second = token_logprobs(logits, [5, 9], [3, 0])
    assert first.token == 5 and first.logprob == pytest.approx(float(expected[0, 5]), abs=1e-5)
    best = expected[0].topk(3)
    assert [token for token, _ in first.top] == best.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert second.top == () and second.logprob == pytest.approx(float(expected[1, 9]), abs=1e-5)


@pytest.mark.parametrize("u", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_the_ends_of_the_distribution_can_be_drawn(u, monkeypatch):
    monkeypatch.setattr(TokenSampler, "uniform", lambda _: u)
    logits = torch.full((1, 512), -math.inf)
    logits[0, 3], logits[0, 300] = 0.0, 0.0
    expected = {0.0: 3, 0.5: 300}.get(u, 300)
    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.99), Sampling(1.0, top_k=5)):
        assert sample(logits.clone(), [TokenSampler(sampling)]) == [expected]


def test_rows_without_finite_logits_do_not_fail_the_others():
    batch = torch.stack([torch.full((512,), math.nan), torch.full((512,), -math.inf), logits_of()])
    samplers = [TokenSampler(Sampling(temperature=1.0, seed=n, top_k=k)) for n, k in enumerate((0, 3, 0))]
    assert sample(batch, samplers)[2] == sample(batch[2:], [TokenSampler(Sampling(temperature=1.0, seed=2))])[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("presence_penalty", 3),
        ("frequency_penalty", -2.5),
        ("logprobs", 21),
        ("logprobs", -1),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(RequestRefused, match=f"{field} = .* is out of range"):
        Sampling(**{field: value})
