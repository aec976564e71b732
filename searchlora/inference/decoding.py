"""Next-token choice for each row of a batch: penalties, grammar mask, then argmax or sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from searchlora.errors import EngineError
from searchlora.inference.constrained import grammar_error, mask_logits
from searchlora.inference.engine import non_finite_error
from searchlora.inference.sampling import sample, token_logprobs
from searchlora.inference.scheduling.requests import GenerateRequest

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class Answer:
    """An answer that is being generated.

    Attributes:
        request: What it answers.
        ids: The tokens so far, the stop token included.
        error: Why it cannot go on.
        stopped: Whether it ended at the stop token or a stop string.
    """

    request: GenerateRequest
    ids: list[int] = field(default_factory=list)
    error: EngineError | None = None
    stopped: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more is generated."""
        return self.stopped or self.error is not None or len(self.ids) >= self.request.max_new_tokens

    def add(self, token: int, stop_id: int) -> None:
        """Append a token."""
        request = self.request
        self.ids.append(token)
        self.stopped = token == stop_id and not request.ignore_stop
        if self.stopped:
            return
        if request.matcher is not None:
            request.matcher.consume_token(token)
            if request.matcher.is_error():
                self.error = grammar_error(request.matcher)
        if request.sampler is not None:
            request.sampler.add(token)
        if request.text is not None:
            self.stopped = request.text.add(token)


def append_tokens(answers: Sequence[Answer], logits: torch.Tensor, stop_id: int) -> None:
    """Choose and append the next token of each answer. Answers whose logits are not finite get an error.

    Answers without a sampler are greedy; they share one `argmax`. The others are computed in fp32, apart from them.

    Args:
        answers: The answers.
        logits: The model's logits, shape (answers, vocabulary); changed in place.
        stop_id: The token that ends an answer.
    """
    special = [row for row, answer in enumerate(answers) if answer.request.sampler is not None]
    plain = [row for row, answer in enumerate(answers) if answer.request.sampler is None]
    tokens: dict[int, int | None] = {}
    if plain:
        tokens |= zip(plain, _most_likely([answers[row] for row in plain], _rows(logits, plain)), strict=True)
    if special:
        chosen = _with_samplers([answers[row] for row in special], _rows(logits, special).float())
        tokens |= zip(special, chosen, strict=True)
    for row, answer in enumerate(answers):
        token = tokens[row]
        if token is None:
            answer.error = non_finite_error(answer.request.adapter)
        else:
            answer.add(token, stop_id)


def _rows(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The logits of some rows; those of all are not copied."""
    return logits if len(rows) == len(logits) else logits[rows]


def _most_likely(answers: Sequence[Answer], logits: torch.Tensor) -> list[int | None]:
    """The most likely token that each answer's grammar allows; None if its logit is not finite."""
    for row, answer in enumerate(answers):
        if answer.request.matcher is not None:
            mask_logits(answer.request.matcher, logits[row])
    best = argmax(logits)
    finite = logits.gather(1, best[:, None])[:, 0].isfinite()  # NaN counts as the largest number
    return [token if is_finite else None for token, is_finite in zip(best.tolist(), finite.tolist(), strict=True)]


def _with_samplers(answers: Sequence[Answer], logits: torch.Tensor) -> list[int | None]:
    """The next tokens of answers with a sampler; their log-probabilities are noted in it."""
    samplers = [sampler for answer in answers if (sampler := answer.request.sampler) is not None]
    reporting = [row for row, sampler in enumerate(samplers) if sampler.sampling.logprobs is not None]
    original = logits[reporting]  # a copy: penalties and masks are applied in place
    for sampler, row in zip(samplers, logits, strict=True):
        sampler.penalise(row)
    greedy = [row for row, sampler in enumerate(samplers) if sampler.sampling.is_greedy]
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.sampling.is_greedy]
    tokens: dict[int, int | None] = {}
    if greedy:
        chosen = _most_likely([answers[row] for row in greedy], _rows(logits, greedy))
        tokens |= zip(greedy, chosen, strict=True)
    if drawn:
        part = _rows(logits, drawn)
        for row, each in zip(part, drawn, strict=True):
            if (matcher := answers[each].request.matcher) is not None:
                mask_logits(matcher, row)
        tokens |= zip(drawn, sample(part, [samplers[row] for row in drawn]), strict=True)
    if reporting:
        ids = [tokens[row] or 0 for row in reporting]
        counts = [samplers[row].sampling.logprobs or 0 for row in reporting]
        for row, logprobs in zip(reporting, token_logprobs(original, ids, counts), strict=True):
            samplers[row].logprobs.append(logprobs)
    return [tokens[row] for row in range(len(answers))]


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Index of the largest number of each row, the first of equal ones; (rows, vocabulary) -> (rows,).

    It is found per block of the vocabulary first: `torch.argmax` over the whole takes several times as long on a CPU.
    """
    import torch

    block = math.gcd(logits.shape[1], 256)
    blocks = logits.view(len(logits), -1, block)
    best = blocks.amax(-1).argmax(-1)
    in_block = blocks[torch.arange(len(logits), device=logits.device), best].argmax(-1)
    return best * block + in_block
