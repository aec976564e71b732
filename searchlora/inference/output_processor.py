"""Output processing: turns the tokens of a work item into a completion, whole or while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from searchlora.inference.engine import Completion, TokenLogprob, token_logprob
from searchlora.inference.sampling import LogprobsById
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.prompts import Renderer

#: See `LocalEngine.submit_answers`.
OnToken: TypeAlias = Callable[[int, str, tuple[TokenLogprob, ...] | None], None]


class OutputProcessor:
    """The counterpart of `InputProcessor`; `token_bytes` returns the bytes of a token."""

    def __init__(self, renderer: Renderer, token_bytes: Callable[[int], bytes]) -> None:
        self._renderer, self._token_bytes = renderer, token_bytes

    def completion(self, request: GenerateRequest, ids: Sequence[int]) -> Completion:
        """The completion of an answer that has ended, given its tokens."""
        at_stop_token = self._ends_with_stop_token(ids)
        at_stop_string = request.text is not None and request.text.stopped
        text = request.text.whole if request.text else self._renderer.decode(ids[:-1] if at_stop_token else ids)
        return Completion(
            text=text,
            finish="stop" if at_stop_token or at_stop_string else "length",
            prompt_tokens=len(request.ids),
            completion_tokens=len(ids),
            logprobs=self._logprobs(request, len(ids) - at_stop_token, text if at_stop_string else None),
            cached_tokens=request.cached_tokens,
        )

    def report(self, request: GenerateRequest, answer: int, on_token: OnToken, ids: Sequence[int]) -> None:
        """Call `on_token` with an answer so far, given its tokens; at its end with what `completion` returns."""
        assert request.text is not None
        at_stop_token = self._ends_with_stop_token(ids)
        if at_stop_token or request.text.stopped or len(ids) == request.max_new_tokens:
            completion = self.completion(request, ids)
            on_token(answer, completion.text, completion.logprobs)
        else:
            text = request.text.visible
            on_token(answer, text, self._logprobs(request, len(ids), text))

    def _ends_with_stop_token(self, ids: Sequence[int]) -> bool:
        return ids[-1] == self._renderer.stop_id

    def _logprobs(self, request: GenerateRequest, count: int, text: str | None) -> tuple[TokenLogprob, ...] | None:
        """Log-probabilities of the first tokens of an answer, or of those of a beginning of its text."""
        sampler = request.sampler
        if sampler is None or sampler.sampling.logprobs is None:
            return None
        if text is not None and request.text is not None:
            count = request.text.tokens_of(text)
        made = request.logprobs  # a streamed answer asks after each token: what was there before is not made again
        made += [self._token_logprob(logprobs) for logprobs in sampler.logprobs[len(made) : count]]
        return tuple(made[:count])

    def _token_logprob(self, logprobs: LogprobsById) -> TokenLogprob:
        top = (token_logprob(self._token_bytes(token), logprob) for token, logprob in logprobs.top)
        return token_logprob(self._token_bytes(logprobs.token), logprobs.logprob, top)
