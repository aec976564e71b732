"""Constrained generation: before each step the tokens that a request's grammar does not admit are ruled out.

The masks are llguidance's (github.com/guidance-ai/llguidance), one matcher per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from searchlora.errors import RequestRefused
from searchlora.outputs import Grammar

if TYPE_CHECKING:
    import torch

#: Between the parts of a JSON value at most one space. llguidance's own default admits any run of spaces and line
#: ends, in which a small model can go on until its tokens are used up.
_JSON = {"whitespace_pattern": r"[ ]?"}


#: Characters of llguidance's reasons that are told.
_LONGEST = 300


class Constraints:
    """The grammars of one engine, over its tokenizer's vocabulary.

    Args:
        tokenizer: A fast transformers tokenizer.
        vocabulary: How many logits the model gives; more than the tokenizer has tokens where the model is padded.
        stop_id: The token that ends an answer; a grammar admits it where the answer is complete.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop_id: int) -> None:
        from llguidance.hf import from_tokenizer

        self._vocabulary = from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=stop_id)

    def matchers(self, grammars: Sequence[Grammar | None]) -> list[Any | None]:
        """A fresh matcher for each grammar, None where there is none; equal grammars are compiled once.

        Raises:
            RequestRefused: naming the first request whose grammar llguidance refuses, or that admits no answer.
        """
        compiled: dict[Grammar, Any] = {}
        found = []
        for row, grammar in enumerate(grammars):
            if grammar is not None and grammar not in compiled:
                compiled[grammar] = self._compiled(grammar, row)
            found.append(None if grammar is None else compiled[grammar].deep_copy())
        return found

    def _compiled(self, grammar: Grammar, row: int) -> Any:
        from llguidance import LLMatcher

        read = {
            "json_schema": lambda text: LLMatcher.grammar_from_json_schema(text, overrides=_JSON),
            "regex": LLMatcher.grammar_from_regex,
            "lark": LLMatcher.grammar_from_lark,
        }
        if grammar.kind not in read:
            raise RequestRefused(
                f"there is no grammar of kind '{grammar.kind}'",
                where=f"request {row + 1}",
                fix=f"Use {', '.join(read)}.",
            )
        try:
            source = read[grammar.kind](grammar.text)
        except ValueError as error:
            raise _refused(grammar, row, str(error)) from None
        matcher = LLMatcher(self._vocabulary, source)
        trial = matcher.deep_copy()
        admits_any = not matcher.is_error() and any(trial.compute_bitmask()) and not trial.is_error()
        if not admits_any:
            raise _refused(grammar, row, matcher.get_error() or trial.get_error() or "it admits no answer")
        return matcher


class GrammarMask:
    """A transformers logits processor that keeps each row of a batch within its grammar.

    Args:
        matchers: Of each row; None for a row without a grammar.
        prompt: Columns of the batch that are prompt.
        stop_id: The token that ends an answer.

    Attributes:
        errors: Row -> why it could not be written further; it was ended there.
    """

    def __init__(self, matchers: Sequence[Any | None], prompt: int, stop_id: int) -> None:
        self.errors: dict[int, RequestRefused] = {}
        self._open = {row: matcher for row, matcher in enumerate(matchers) if matcher is not None}
        self._prompt = prompt
        self._stop_id = stop_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with minus infinity for tokens that are not admitted; ended rows as they were."""
        if input_ids.shape[1] > self._prompt:
            self._advance(input_ids[:, -1].tolist())
        for row, matcher in list(self._open.items()):
            scores[row] = admitted(matcher, scores[row])
            if matcher.is_error():
                self.errors[row] = cannot_go_on(matcher)
                scores[row] = -math.inf
                scores[row, self._stop_id] = 0
                del self._open[row]
        return scores

    def leave(self, row: int) -> None:
        """A row that is ended, whatever its grammar says; what is written there now is padding."""
        self._open.pop(row, None)

    def _advance(self, tokens: Sequence[int]) -> None:
        for row, matcher in list(self._open.items()):
            if tokens[row] == self._stop_id:
                del self._open[row]
            else:
                matcher.consume_token(tokens[row])


def admitted(matcher: Any, scores: torch.Tensor) -> torch.Tensor:
    """Scores (vocabulary,) with minus infinity for tokens that a matcher does not admit next."""
    import numpy as np
    import torch

    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    allowed = torch.from_numpy(bits[: len(scores)]).to(scores.device, torch.bool)
    return scores.masked_fill(~allowed, -torch.inf)


def cannot_go_on(matcher: Any) -> RequestRefused:
    """What is wrong with a matcher that is in error."""
    return RequestRefused(
        f"the grammar cannot be followed further ({_short(matcher.get_error())})",
        fix="Simplify the schema or the grammar.",
    )


def _short(reason: str) -> str:
    """llguidance puts the state of its parser behind what is wrong."""
    whole = reason.strip()
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]} ..."


def _refused(grammar: Grammar, row: int, reason: str) -> RequestRefused:
    kind = {"json_schema": "JSON Schema", "regex": "regular expression", "lark": "Lark grammar"}[grammar.kind]
    return RequestRefused(
        f"generation cannot be constrained to this {kind} ({_short(reason)})",
        where=f"request {row + 1}",
        fix="Write it without what is refused, or generate without constraint and let the strict parse decide.",
    )
