"""Prefix cache: shared prefixes are detected, computed once, and give the same results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.inference.batched.prefix_cache import MIN_EXTENSION, PrefixCache, shared_prefixes
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine

SYSTEM = "Grade the passage for the query. " * 3


def test_shared_prefixes_are_computed_in_rounds():
    guideline, query, other = tuple(range(20)), tuple(range(100, 120)), tuple(range(200, 220))
    prompts = [(*guideline, *middle, *range(300 + n, 310)) for middle in (query, other) for n in range(3)]
    first, second = shared_prefixes(prompts)
    assert first == [guideline]
    assert sorted(second) == sorted([(*guideline, *query), (*guideline, *other)])
    assert shared_prefixes(prompts[:1]) == []
    assert shared_prefixes([]) == []
    assert shared_prefixes([prompts[0]] * 5) == []  # nothing but itself to share with


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60).map(tuple), max_size=12))
def test_each_cached_prefix_is_shared_and_extends_its_parent(prompts):
    seen = {()}
    for found in shared_prefixes(prompts):
        for prefix in found:
            assert sum(prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) for prompt in set(prompts)) >= 2
            longest = max((each for each in seen if prefix[: len(each)] == each), key=len)
            assert len(prefix) >= len(longest) + MIN_EXTENSION
        seen |= set(found)


def test_the_least_recently_used_prefix_is_evicted():
    kept = PrefixCache(budget=100)
    columns = torch.zeros(1)
    prompts = {start: tuple(range(start, start + 40)) for start in (0, 1000, 2000)}
    kept.add("a", prompts[0], columns)
    kept.add("a", prompts[1000], columns)
    assert kept.longest_match("a", (*prompts[0], 9))[0] == 40
    kept.add("a", prompts[2000], columns)
    assert kept.longest_match("a", (*prompts[1000], 9))[0] == 0
    assert kept.longest_match("a", (*prompts[0], 9))[0] == 40
    assert kept.longest_match("b", (*prompts[0], 9))[0] == 0  # another adapter computes other keys and values
    assert kept.longest_match("a", prompts[0])[0] == 0  # something is left to compute
    kept.remove_adapter("a")
    assert kept.longest_match("a", (*prompts[0], 9))[0] == 0


def pairs():
    texts = [f"query {query} passage {passage} {'x' * passage}" for query in range(4) for passage in range(12)]
    return [Request(({"role": "system", "content": SYSTEM}, {"role": "user", "content": text})) for text in texts]


@pytest.mark.slow
def test_a_shared_guideline_is_prefilled_once(tiny_base):
    reusing, plain = (LocalEngine(tiny_base, precision="fp32", prefix_tokens=count) for count in (16384, 0))
    choices = [["0", "1", "2", "3"]] * len(pairs())
    for one, other in zip(reusing.score(pairs(), choices), plain.score(pairs(), choices), strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    scored = reusing.stats()
    assert scored.cached_prompt_tokens > 0.6 * scored.prompt_tokens
    for request in pairs()[:5]:  # one after the other
        assert reusing.generate([request]) == plain.generate([request])
    assert reusing.stats().cached_prompt_tokens > scored.cached_prompt_tokens
    assert plain.stats().cached_prompt_tokens == 0


@pytest.mark.parametrize("begins", ["", "2\n"])
def test_a_prompt_scored_and_then_generated_is_prefilled_once(tiny_base, begins):
    reusing = LocalEngine(tiny_base, precision="fp32")
    plain = LocalEngine(tiny_base, precision="fp32", prefix_tokens=0)
    asked = [pairs()[place] for place in (3, 40, 17, 11)]  # of different lengths, with a beginning in common
    for each in (reusing, plain):
        each.score(
            [replace(request, keep_prefix=True, choice_suffix="\n") for request in asked],
            [["0", "1 or 2"]] * len(asked),
        )
    before = reusing.stats()
    wanted = [replace(request, answer_prefix=begins, max_new_tokens=12) for request in asked]
    assert reusing.generate(wanted) == plain.generate(wanted)
    after = reusing.stats()
    reused = after.cached_prompt_tokens - before.cached_prompt_tokens
    more = len(reusing.renderer.completion_ids(begins, choice_suffix=""))
    assert after.prompt_tokens - before.prompt_tokens - reused <= len(asked) * (1 + more)
    assert plain.stats().cached_prompt_tokens == 0
