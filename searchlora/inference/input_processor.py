"""Input processing: renders, tokenizes and checks requests, and pins the version of their adapters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from searchlora.errors import PromptTooLong, RequestRefused
from searchlora.inference.answer_text import AnswerText
from searchlora.inference.constrained import Constraints
from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling, TokenSampler
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest, TokenIds
from searchlora.outputs import Grammar
from searchlora.prompts import Renderer

if TYPE_CHECKING:
    from llguidance import LLMatcher


class InputProcessor:
    """Turns an engine's requests into the scheduler's work items."""

    def __init__(
        self,
        renderer: Renderer,
        pin: Callable[[str], str],
        context: int | None,
        vocabulary: int,
        max_choice_tokens: int,
        max_prompt_tokens: int,
        own: str | None = None,
    ) -> None:
        self._own = own
        self.context = context
        self._max_prompt_tokens = max_prompt_tokens
        self._renderer, self._pin = renderer, pin
        self._vocabulary, self._max_choice_tokens = vocabulary, max_choice_tokens

    def generate_requests(self, requests: Sequence[Request], *, streamed: bool = False) -> list[GenerateRequest]:
        """Work items that generate; `streamed`: the text is wanted token by token. Raises as `LocalEngine.generate`."""
        for row, request in enumerate(requests):
            if request.max_new_tokens < 1:
                raise RequestRefused("asks for no token", where=f"request {row + 1}", fix="Ask for at least one.")
        adapters = self._pinned(requests)
        prompts = self._prompts(requests, adapters)
        self._check_length(prompts, [request.max_new_tokens for request in requests])
        matchers = self._matchers([request.grammar for request in requests])
        if any(request.sampling.logprobs is not None for request in requests):
            self.token_bytes(0)  # makes the table of tokens here, not in the thread that computes
        return [
            GenerateRequest(
                ids=prompt,
                adapter=adapter,
                max_new_tokens=request.max_new_tokens,
                matcher=matcher,
                sampler=_sampler(request.sampling, 0),
                text=AnswerText(self.decode, request.stop) if streamed or request.stop else None,
            )
            for prompt, adapter, request, matcher in zip(prompts, adapters, requests, matchers, strict=True)
        ]

    def answers(self, request: Request, count: int, *, streamed: bool = False) -> list[GenerateRequest]:
        """Work items that generate several answers to one request; see `generate_requests`."""
        if count < 1:
            raise RequestRefused(f"asks for {count} answers", fix="Ask for at least one.")
        (first,) = self.generate_requests([request], streamed=streamed)
        if count == 1:
            return [first]
        return [
            replace(
                first,
                matcher=first.matcher and first.matcher.deep_copy(),
                sampler=_sampler(request.sampling, number),
                text=first.text and AnswerText(self.decode, request.stop),
                logprobs=[],
                keep_prefix=True,
                result=Future(),
            )
            for number in range(count)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens: as `Renderer.decode`, in a fraction of its time."""
        text: str = self._renderer.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; none for one that the tokenizer does not know."""
        return self._constraints.token_bytes(token)

    def score_requests(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], prune_margin: float | None
    ) -> list[ScoreRequest]:
        """Work items that score. Raises as `LocalEngine.score`."""
        adapters = self._pinned(requests)
        prompts = self._prompts(requests, adapters)
        texts = [
            [(text, request.choice_suffix) for text in row] for request, row in zip(requests, choices, strict=True)
        ]
        ids = {choice: tuple(self._renderer.completion_ids(*choice)) for choice in set(itertools.chain(*texts))}
        choice_ids = [tuple(ids[choice] for choice in row) for row in texts]
        self._check_choices(choice_ids)
        self._check_length(prompts, [max(map(len, row), default=0) for row in choice_ids])
        return [
            ScoreRequest(
                ids=prompt,
                adapter=adapter,
                choices=row,
                prune_margin=prune_margin,
                keep_prefix=request.keep_prefix,
            )
            for prompt, adapter, row, request in zip(prompts, adapters, choice_ids, requests, strict=True)
        ]

    def _prompts(self, requests: Sequence[Request], adapters: Sequence[str | None]) -> list[TokenIds]:
        for row, request in enumerate(requests):
            if unknown := [token for token in request.prompt_ids if not 0 <= token < self._vocabulary]:
                raise RequestRefused(
                    f"the model has no token {unknown[0]}",
                    where=f"request {row + 1}",
                    fix=f"Its token ids are below {self._vocabulary}.",
                )
        return [
            request.prompt_ids or tuple(self._renderer.prompt_ids(request.messages, request.answer_prefix, adapter))
            for request, adapter in zip(requests, adapters, strict=True)
        ]

    def _pinned(self, requests: Sequence[Request]) -> list[str | None]:
        """The adapter of each request. Each reference is pinned once, so a call uses one version."""
        pinned = {name: self._pin(name) for name in {request.adapter for request in requests} if name is not None}
        adapters = [pinned[request.adapter] if request.adapter else None for request in requests]
        return [None if adapter == self._own else adapter for adapter in adapters]

    def _check_length(self, prompts: Sequence[TokenIds], answers: Sequence[int]) -> None:
        """Beyond its context, a model generates nonsense without an error, or fails in the middle of a batch."""
        for row, prompt in enumerate(prompts):
            if len(prompt) > self._max_prompt_tokens:
                raise RequestRefused(
                    f"the prompt has {len(prompt)} tokens, more than the {self._max_prompt_tokens} that are computed",
                    where=f"request {row + 1}",
                    fix="Shorten the texts in the prompt, or make 'max_prompt_tokens' larger.",
                )
        if self.context is None:
            return
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if len(prompt) + answer > self.context:
                raise PromptTooLong(row, len(prompt), answer, self.context)

    def _check_choices(self, choices: Sequence[Sequence[TokenIds]]) -> None:
        """A choice without tokens would always win; the choices of one request are computed in one pass."""
        for row, options in enumerate(choices):
            where = f"request {row + 1}"
            if not all(options):
                raise RequestRefused("a choice has no tokens, nor anything that ends it", where=where)
            tokens = sum(map(len, options))
            if tokens > self._max_choice_tokens:
                raise RequestRefused(
                    f"its choices have {tokens} tokens, more than the {self._max_choice_tokens} that are scored "
                    "at once",
                    where=where,
                    fix="Score them in several requests, or make 'batch_tokens' larger.",
                )

    def _matchers(self, grammars: Sequence[Grammar | None]) -> list[LLMatcher | None]:
        return self._constraints.matchers(grammars) if any(grammars) else [None] * len(grammars)

    @cached_property
    def _constraints(self) -> Constraints:
        return Constraints(self._renderer.tokenizer, self._vocabulary, self._renderer.stop_id)


def _sampler(sampling: Sampling, answer: int) -> TokenSampler | None:
    """What chooses the tokens of an answer; None if the plain argmax does."""
    is_plain = sampling.is_greedy and not sampling.has_penalties and sampling.logprobs is None
    return None if is_plain else TokenSampler(sampling, answer)
