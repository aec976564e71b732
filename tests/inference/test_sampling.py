"""Sampling follows the model's distribution and its filters, whatever else is in the batch."""

from __future__ import annotations

import math
import os
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from searchlora.cpu.kernels import kernels
from searchlora.errors import RequestRefused
from searchlora.inference.sampling import Sampling, TokenSampler, sample, token_logprobs

VOCABULARY = 512


def native(dtype=torch.float32):
    return kernels(torch.empty(0, dtype=dtype))


def by(kind, function, *arguments):
    """What a function returns with one of the two implementations."""
    with mock.patch.dict(os.environ, {"SEARCHLORA_NATIVE": "0"} if kind == "PyTorch" else {}):
        return function(*arguments)


def sample_with(kind, logits, samplers, rows=None):
    """Tokens by one of the two implementations."""
    return by(kind, sample, logits, samplers, rows)


KINDS = pytest.mark.parametrize(
    "kind",
    [pytest.param("compiled", marks=pytest.mark.skipif(native() is None, reason="no compiled kernels")), "PyTorch"],
)


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
    Sampling(temperature=1.0, top_k=40, top_p=0.7, min_p=0.2),
]


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_10_000_draws_follow_the_distribution_in_a_mixed_batch(sampling, kind):
    logits, draws, rows = logits_of(), 10_000, 50
    counts = np.zeros(VOCABULARY)
    ours = [TokenSampler(Sampling(**{**vars(sampling), "seed": seed})) for seed in range(rows - 2)]
    others = [TokenSampler(Sampling(temperature=0.9, seed=1)), TokenSampler(Sampling(temperature=0.7, top_p=0.5))]
    batch = torch.stack([logits] * (rows - 2) + [logits_of(1), logits_of(2)])
    drawn = 0
    while drawn < draws:
        for token in sample_with(kind, batch, [*ours, *others])[: rows - 2]:
            counts[token] += 1
            drawn += 1
    expected = reference(logits, sampling)
    assert counts[expected == 0].sum() == 0
    assert chi_square(counts, expected * drawn) > 0.001


@KINDS
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
def test_only_tokens_that_the_filters_keep_are_drawn(kind, seed, spread, vocabulary, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = logits_of(seed % 1000, vocabulary, spread)
    logits[torch.arange(vocabulary) % 3 == 1] = -math.inf  # as a grammar leaves them
    (token,) = sample_with(kind, logits[None], [TokenSampler(Sampling(**{**vars(sampling), "seed": seed}))])
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


@KINDS
def test_the_same_seed_gives_the_same_tokens_in_any_batch(kind):
    steps = [logits_of(seed) for seed in range(40)]

    def answer(batch_before, batch_after, place):
        sampler = TokenSampler(Sampling(temperature=1.0, top_p=0.95, seed=11))
        others = [TokenSampler(Sampling(temperature=1.0, top_k=n + 1)) for n in range(batch_before + batch_after)]
        tokens = []
        for n, logits in enumerate(steps):
            noise = [logits_of(100 + n + row) for row in range(batch_before + batch_after)]
            batch = torch.stack([*noise[:batch_before], logits, *noise[batch_before:]])
            samplers = [*others[:batch_before], sampler, *others[batch_before:]]
            tokens.append(sample_with(kind, batch, samplers)[place])
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


@KINDS
def test_log_probabilities_are_those_of_the_model(kind):
    logits = torch.stack([logits_of(1), logits_of(2)])
    expected = torch.log_softmax(logits, -1)
    first, second = by(kind, token_logprobs, logits, [5, 9], [3, 0])
    assert first.token == 5 and first.logprob == pytest.approx(float(expected[0, 5]), abs=1e-5)
    best = expected[0].topk(3)
    assert [token for token, _ in first.top] == best.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert second.top == () and second.logprob == pytest.approx(float(expected[1, 9]), abs=1e-5)


@KINDS
@pytest.mark.parametrize("u", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_the_ends_of_the_distribution_can_be_drawn(u, kind, monkeypatch):
    monkeypatch.setattr(TokenSampler, "uniform", lambda _: u)
    logits = torch.full((1, 512), -math.inf)
    logits[0, 3], logits[0, 300] = 0.0, 0.0
    expected = {0.0: 3, 0.5: 300}.get(u, 300)
    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.99), Sampling(1.0, top_k=5)):
        assert sample_with(kind, logits, [TokenSampler(sampling)]) == [expected]


@KINDS
def test_rows_without_finite_logits_do_not_fail_the_others(kind):
    bad = torch.stack([logits_of(n) for n in range(4)])
    bad[0] = math.nan
    bad[1] = -math.inf
    bad[2, 300] = math.nan
    bad[3, 5] = math.inf
    batch = torch.cat([bad, logits_of()[None]])
    samplers = [TokenSampler(Sampling(temperature=1.0, seed=n, top_k=k)) for n, k in enumerate((0, 3, 0, 4, 0))]
    alone = sample_with(kind, batch[4:], [TokenSampler(Sampling(temperature=1.0, seed=4))])
    assert sample_with(kind, batch, samplers) == [None, None, None, None, *alone]


@pytest.mark.slow
@pytest.mark.skipif(native() is None, reason="no compiled kernels")
@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    vocabulary=st.sampled_from([1, 7, 255, 256, 257, 1000, 4096]),
    temperature=st.floats(0.05, 2.0),
    top_k=st.integers(0, 300),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_compiled_kernel_draws_what_pytorch_draws(
    seed, spread, vocabulary, temperature, top_k, top_p, min_p, dtype
):
    """Up to rounding: a number from 0 to 1 may fall between the ends of one token in both sums."""
    logits = torch.stack([logits_of(seed % 1000 + n, vocabulary, spread) for n in range(6)]).to(dtype)
    logits[:, torch.arange(vocabulary) % 5 == 3] = -math.inf
    filters = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    kinds = [filters, {}, *({name: value} for name, value in filters.items())]
    settings = [Sampling(temperature=temperature, seed=seed, **kind) for kind in kinds]
    rows = [4, 1, 5, 0, 2]
    found, expected = (
        sample_with(kind, logits, [TokenSampler(each) for each in settings], rows) for kind in ("compiled", "PyTorch")
    )
    differing = [place for place in range(5) if found[place] != expected[place]]
    for place in differing:  # neighbours in the cumulated distribution, or at the edge of what a filter keeps
        assert is_near_an_edge(logits[rows[place]].float(), settings[place], found[place], expected[place])


def is_near_an_edge(logits, sampling, one, other):
    """Whether a relative change of 1e-4 in the filters and the random number can give each of two tokens."""
    u = TokenSampler(sampling).uniform()
    given = set()
    for scale in (1 - 1e-4, 1, 1 + 1e-4):
        for change in (-1e-4, 0, 1e-4):
            changed = Sampling(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=min(sampling.top_p * scale, 1.0),
                min_p=min(sampling.min_p * scale, 1.0),
            )
            cumulated = np.cumsum(reference(logits, changed))
            given.add(min(int(np.searchsorted(cumulated, u + change, side="right")), len(logits) - 1))
    return one in given and other in given


@pytest.mark.skipif(native() is None, reason="no compiled kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "most"), [(7, 7), (256, 20), (10_001, 1), (49_152, 20), (2_000, 2_000)])
def test_the_most_likely_tokens_of_the_compiled_kernel_are_sorted_by_logit_and_then_by_id(dtype, vocabulary, most):
    logits = torch.stack([logits_of(n, vocabulary).mul(4).round().div(4) for n in range(3)]).to(dtype)  # many are equal
    logits[1, ::3] = -math.inf
    chosen, ids, values = native(dtype).log_probabilities(logits, [0, 0, 1], most)
    for row, of_row in enumerate(logits.double()):
        expected = sorted(range(vocabulary), key=lambda token, of_row=of_row: (-of_row[token].item(), token))[:most]
        assert ids[row] == expected
        log_softmax = of_row.log_softmax(-1)
        assert values[row] == pytest.approx(log_softmax[expected].tolist(), abs=1e-5)
        assert chosen[row] == pytest.approx(log_softmax[[0, 0, 1][row]].item(), abs=1e-5)


@pytest.mark.skipif(native() is None, reason="no compiled kernels")
def test_a_row_without_a_distribution_has_no_log_probabilities():
    logits = torch.stack([torch.full((300,), value) for value in (math.nan, math.inf, -math.inf)])
    chosen, ids, values = native(torch.float32).log_probabilities(logits, [0, 1, 299], 2)
    assert all(map(math.isnan, [*chosen, *(value for row in values for value in row)]))
    assert ids == [[0, 0]] * 3


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
