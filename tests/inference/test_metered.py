"""An engine that counts tokens and answers equal requests once."""

from __future__ import annotations

from collections import Counter

import pytest

from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.metered import MeteredEngine


class Echo:
    """An engine that answers with the last message, and counts what it is asked."""

    engine_id, call_size = "echo", 2

    def __init__(self):
        self.asked = Counter()

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        self.asked.update(request.messages[-1]["content"] for request in requests)
        return [Completion(request.messages[-1]["content"], "stop", 10, 3) for request in requests]

    def score(self, requests, choices, *, prune_margin=None):
        del prune_margin
        self.asked.update(request.messages[-1]["content"] for request in requests)
        return [ChoiceScores(tuple(-float(len(each)) for each in of), 10, len(of)) for of in choices]


def asked(text, **more):
    return Request(({"role": "user", "content": text},), **more)


def test_equal_requests_are_answered_once_and_their_tokens_count_each_time():
    inner, answers = Echo(), {}
    first = MeteredEngine(inner, answers)
    assert [each.text for each in first.generate([asked("a"), asked("b"), asked("a")])] == ["a", "b", "a"]
    assert [each.text for each in first.generate([asked("b", keep_prefix=True)])] == ["b"]
    assert inner.asked == {"a": 1, "b": 1}
    assert (first.prompt_tokens, first.output_tokens, first.reused) == (40, 12, 0)
    second = MeteredEngine(inner, answers)
    assert [each.text for each in second.generate([asked("b"), asked("c")])] == ["b", "c"]
    assert (inner.asked, second.reused, second.prompt_tokens) == ({"a": 1, "b": 1, "c": 1}, 1, 20)


@pytest.mark.parametrize("more", [{"adapter": "x@1"}, {"max_new_tokens": 3}, {"answer_prefix": "p"}, {"stop": (".",)}])
def test_a_request_that_differs_is_another_request(more):
    inner, answers = Echo(), {}
    MeteredEngine(inner, answers).generate([asked("a")])
    other = MeteredEngine(inner, answers)
    other.generate([asked("a", **more)])
    assert (inner.asked["a"], other.reused) == (2, 0)


def test_scores_are_kept_by_their_choices():
    inner, answers = Echo(), {}
    engine = MeteredEngine(inner, answers)
    (one,) = engine.score([asked("a")], [["x", "yy"]], prune_margin=8.0)
    assert one.log_probabilities == (-1.0, -2.0)
    engine.score([asked("a"), asked("a")], [["x", "yy"], ["x"]], prune_margin=8.0)
    assert inner.asked["a"] == 2
    assert (engine.prompt_tokens, engine.output_tokens) == (30, 5)
    engine.generate([asked("a")])
    assert inner.asked["a"] == 3
