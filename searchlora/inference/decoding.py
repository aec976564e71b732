"""Next-token choice for each row of a batch: penalties, grammar mask, then argmax or sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from searchlora.errors import EngineError
from searchlora.inference.constrained import grammar_error, mask_logits
from searchlora.inference.engine import non_finite_error
from searchlora.inference.out_of_memory import is_out_of_memory
from searchlora.inference.sampling import TokenSampler, sample, token_logprobs
from searchlora.inference.scheduling.requests import GenerateRequest

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class AnswerState:
    """An answer that is being generated."""

    request: GenerateRequest
    ids: list[int] = field(default_factory=list)  # the tokens so far, the stop token included
    error: Exception | None = None
    stopped: bool = False

    @property
    def ended(self) -> bool:
        return self.stopped or self.error is not None or len(self.ids) >= self.request.max_new_tokens

    def add(self, token: int, stop_id: int) -> None:
        request = self.request
        self.ids.append(token)
        self.stopped = token == stop_id and not request.ignore_stop
        if request.matcher is not None:
            request.matcher.consume_token(token)
            # A grammar may name the stop token in the middle of an answer.
            if request.matcher.is_error() or (self.stopped and not request.matcher.is_accepting()):
                self.error = grammar_error(request.matcher)
        if self.stopped:
            return
        if request.sampler is not None:
            request.sampler.add(token)
        if request.text is not None:
            self.stopped = request.text.add(token)

    def settle(self) -> None:
        """Give the request its answer, or the error that ended it."""
        if self.error is not None:
            self.request.fail(self.error)
        elif self.request.is_over and not self.ended:
            self.request.fail_late()
        else:
            self.request.finish(self.ids)


def append_tokens(answers: Sequence[AnswerState], logits: torch.Tensor, stop_id: int) -> None:
    """Choose and append the next token of each answer, as `_append_tokens`."""
    try:
        _append_tokens(answers, logits, stop_id)
    except Exception as error:
        if is_out_of_memory(error):
            raise EngineError(f"memory ran out while tokens were chosen ({error})") from error
        raise


def _append_tokens(answers: Sequence[AnswerState], logits: torch.Tensor, stop_id: int) -> None:
    """Choose and append the next token of each answer.

    Answers whose logits are not finite, or whose grammar cannot be followed further, get an error. Greedy answers share
    one `argmax`, the others one `sample`; those with penalties are computed apart, in fp32.

    `logits` are the model's, on the CPU, shape (answers, vocabulary); they are changed in place.
    """
    samplers = [answer.request.sampler for answer in answers]
    reporting = [
        row for row, sampler in enumerate(samplers) if sampler is not None and sampler.sampling.logprobs is not None
    ]
    original = _before_masks(answers, logits, reporting) if reporting else None
    penalised = [row for row, sampler in enumerate(samplers) if sampler is not None and sampler.sampling.has_penalties]
    plain = [row for row in range(len(answers)) if row not in penalised] if penalised else range(len(answers))
    tokens: list[int | None] = [None] * len(answers)
    for row, token in zip(plain, _choose([answers[row] for row in plain], logits, plain), strict=True):
        tokens[row] = token
    if penalised:
        precise = _rows(logits, penalised).float()
        for logits_of_row, row in zip(precise, penalised, strict=True):
            if (sampler := samplers[row]) is not None:
                sampler.penalise(logits_of_row)
        chosen = _choose([answers[row] for row in penalised], precise, range(len(penalised)))
        for row, token in zip(penalised, chosen, strict=True):
            tokens[row] = token
    if original is not None:
        _note_logprobs([(samplers[row], tokens[row]) for row in reporting], original)
    for answer, token in zip(answers, tokens, strict=True):
        if token is None:
            answer.error = answer.error or non_finite_error(answer.request.adapter)
        else:
            answer.add(token, stop_id)


def _choose(answers: Sequence[AnswerState], logits: torch.Tensor, rows: Sequence[int]) -> list[int | None]:
    """The next token of each answer, which its grammar allows; None if its logits are not finite or it has an error.

    `logits` are of these answers (in `rows`) and perhaps others, shape (all rows, vocabulary); masked in place.
    """
    greedy: list[int] = []
    drawn: list[tuple[int, TokenSampler]] = []
    matchers = {row: answer.request.matcher for row, answer in zip(rows, answers, strict=True)}
    errors = mask_logits({row: matcher for row, matcher in matchers.items() if matcher is not None}, logits)
    for row, answer in zip(rows, answers, strict=True):
        if row in errors:
            answer.error = errors[row]
            continue
        sampler = answer.request.sampler
        if sampler is None or sampler.sampling.is_greedy:
            greedy.append(row)
        else:
            drawn.append((row, sampler))
    tokens: dict[int, int | None] = dict.fromkeys(rows)
    if greedy:
        part = logits if len(greedy) == len(logits) else _rows(logits, greedy)
        best = argmax(part)
        finite = part.gather(1, best[:, None])[:, 0].isfinite()  # NaN counts as the largest number
        chosen = best.masked_fill(~finite, -1).tolist()
        tokens |= {row: token if token >= 0 else None for row, token in zip(greedy, chosen, strict=True)}
    if drawn:
        places = [row for row, _ in drawn]
        tokens |= zip(places, sample(logits, [sampler for _, sampler in drawn], places), strict=True)
    return [tokens[row] for row in rows]


def _note_logprobs(chosen: Sequence[tuple[TokenSampler | None, int | None]], logits: torch.Tensor) -> None:
    tokens = [token or 0 for _, token in chosen]
    counts = [sampler.sampling.logprobs or 0 if sampler is not None else 0 for sampler, _ in chosen]
    for (sampler, _), found in zip(chosen, token_logprobs(logits, tokens, counts), strict=True):
        if sampler is not None:
            sampler.logprobs.append(found)


def _before_masks(answers: Sequence[AnswerState], logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The logits of some rows, kept from the masks of grammars, which are applied in place."""
    if len(rows) == len(logits) and all(answer.request.matcher is None for answer in answers):
        return logits
    return _rows(logits, rows)


def _rows(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """A copy of some rows; indexing with a list takes many times as long."""
    import torch

    return logits.index_select(0, torch.tensor(rows))


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Index of the largest number of each row, the first of equal ones; (rows, vocabulary) -> (rows,).

    It is found per block of the vocabulary first: `torch.argmax` over the whole takes several times as long.
    """
    import torch

    block = math.gcd(logits.shape[1], 256)
    blocks = logits.view(len(logits), -1, block)
    best = blocks.amax(-1).argmax(-1)
    in_block = blocks[torch.arange(len(logits)), best].argmax(-1)
    return best * block + in_block
