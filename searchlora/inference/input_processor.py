"""From requests to works: rendered, checked, and with the exact version of their adapter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from searchlora.errors import PromptTooLong, RequestRefused
from searchlora.inference.constrained import Constraints
from searchlora.inference.engine import Request
from searchlora.inference.scheduling.requests import Work
from searchlora.outputs import Grammar
from searchlora.prompts import Renderer


class Asking:
    """Makes works of requests for one engine.

    Args:
        pin: Gives the exact version of an adapter.
        context: Tokens that the model takes; None where its positions have no end.
        vocabulary: How many logits the model gives.
        most_choices: Tokens of one request's choices at most.
    """

    def __init__(
        self, renderer: Renderer, pin: Callable[[str], str], context: int | None, vocabulary: int, most_choices: int
    ) -> None:
        self.context = context
        self._renderer, self._pin = renderer, pin
        self._vocabulary, self._most_choices = vocabulary, most_choices

    def to_write(self, requests: Sequence[Request]) -> list[Work]:
        """Works that write. Raises as `LocalEngine.generate`, of all requests before any is computed."""
        for row, request in enumerate(requests):
            if request.max_new_tokens < 1:
                raise RequestRefused("asks for no token", where=f"request {row + 1}", fix="Ask for at least one.")
        prompts = self._prompts(requests)
        self._check_room(prompts, [request.max_new_tokens for request in requests])
        matchers = self._matchers([request.grammar for request in requests])
        return [
            Work(ids=prompt, adapter=adapter, most=request.max_new_tokens, matcher=matcher)
            for prompt, adapter, request, matcher in zip(
                prompts, self._pinned(requests), requests, matchers, strict=True
            )
        ]

    def to_score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], prune_margin: float | None
    ) -> list[Work]:
        """Works that score. Raises as `LocalEngine.score`, of all requests before any is computed."""
        prompts = self._prompts(requests)
        asked = [
            [(text, request.choice_suffix) for text in row] for request, row in zip(requests, choices, strict=True)
        ]
        ids = {each: tuple(self._renderer.completion_ids(*each)) for each in set(itertools.chain(*asked))}
        answers = [tuple(ids[each] for each in row) for row in asked]
        self._check_choices(answers)
        self._check_room(prompts, [max(map(len, options), default=0) for options in answers])
        return [
            Work(
                ids=prompt, adapter=adapter, answers=options, prune_margin=prune_margin, keep_prefix=request.keep_prefix
            )
            for prompt, adapter, options, request in zip(
                prompts, self._pinned(requests), answers, requests, strict=True
            )
        ]

    def _prompts(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return [tuple(self._renderer.prompt_ids(request.messages, request.answer_prefix)) for request in requests]

    def _pinned(self, requests: Sequence[Request]) -> list[str | None]:
        """Each reference is pinned once, so that all requests of a call see one version."""
        pinned = {name: self._pin(name) for name in {request.adapter for request in requests} if name is not None}
        return [pinned[request.adapter] if request.adapter else None for request in requests]

    def _check_room(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> None:
        """Beyond its context a model answers nonsense without saying so, or breaks in the middle of a batch."""
        if self.context is None:  # positions without an end
            return
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if len(prompt) + answer > self.context:
                raise PromptTooLong(row, len(prompt), answer, self.context)

    def _check_choices(self, answers: Sequence[Sequence[Sequence[int]]]) -> None:
        """A choice without tokens would win always; those of one request are computed in one pass."""
        most = self._most_choices
        for row, options in enumerate(answers):
            where = f"request {row + 1}"
            if not all(options):
                raise RequestRefused("a choice has no tokens, nor anything that ends it", where=where)
            if sum(map(len, options)) > most:
                raise RequestRefused(
                    f"its choices have {sum(map(len, options))} tokens, more than the {most} that are scored at once",
                    where=where,
                    fix="Score them in several requests, or make 'batch_tokens' larger.",
                )

    def _matchers(self, grammars: Sequence[Grammar | None]) -> list[Any | None]:
        return self._constraints.matchers(grammars) if any(grammars) else [None] * len(grammars)

    @cached_property
    def _constraints(self) -> Constraints:
        return Constraints(self._renderer.tokenizer, self._vocabulary, self._renderer.stop_id)
