"""Constrained decoding: one llguidance matcher per row (github.com/guidance-ai/llguidance) masks the tokens that its
grammar does not allow next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from searchlora.errors import RequestRefused
from searchlora.outputs import Grammar

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher

#: At most one space between the parts of a JSON value. llguidance's default allows any run of spaces and newlines, with
#: which a small model can use up all its tokens.
_JSON = {"whitespace_pattern": r"[ ]?"}

#: Maximum length of llguidance's messages in errors, in characters.
_MAX_REASON = 300

#: What compiling a grammar may cost: a tenth of a second and 30 MB, where llguidance's defaults allow 20 s and 2 GB.
_LIMITS = {"initial_lexer_fuel": 100_000, "max_lexer_states": 20_000}

#: What llguidance does before it looks at its limits: it follows chains of rules on the stack, which overflows, and
#: builds an automaton with a state for each remainder of a `multipleOf`.
_MAX_RULES, _MAX_MULTIPLES = 500, 10_000
_MULTIPLE = re.compile(r'"multipleOf"\s*:\s*([0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?)')

_KINDS = {"json_schema": "JSON Schema", "regex": "regular expression", "lark": "Lark grammar"}


class Constraints:
    """Compiles grammars to matchers over the tokenizer's vocabulary."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_id: int) -> None:
        from llguidance.hf import from_tokenizer

        self._vocabulary = from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=stop_id)

    def matchers(self, grammars: Sequence[Grammar | None]) -> list[LLMatcher | None]:
        """A new matcher for each grammar, None for None; equal grammars are compiled once."""
        compiled: dict[Grammar, LLMatcher] = {}
        matchers: list[LLMatcher | None] = []
        for row, grammar in enumerate(grammars):
            if grammar is not None and grammar not in compiled:
                compiled[grammar] = self._compile(grammar, row)
            matchers.append(None if grammar is None else compiled[grammar].deep_copy())
        return matchers

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; the name of a special one, and none for one beyond the tokenizer's vocabulary."""
        return bytes(self._vocabulary.decode_bytes([token]))

    def _compile(self, grammar: Grammar, row: int) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        if grammar.kind not in _KINDS:
            raise RequestRefused(
                f"there is no grammar of kind '{grammar.kind}'",
                where=f"request {row + 1}",
                fix=f"Use {', '.join(_KINDS)}.",
            )
        try:
            source = _source(grammar)
        except ValueError as error:
            raise _rejected(grammar, row, str(error)) from None
        matcher: LLMatcher = LLMatcher(self._vocabulary, source, log_level=0, limits=LLParserLimits(**_LIMITS))
        # Copies share the lexer and its limits, so that the second mask may be the one that exceeds them.
        for trial in (matcher.deep_copy(), matcher.deep_copy()):
            allows_any = not matcher.is_error() and any(trial.compute_bitmask()) and not trial.is_error()
            if not allows_any:
                raise _rejected(grammar, row, matcher.get_error() or trial.get_error() or "it admits no answer")
        return matcher


def _source(grammar: Grammar) -> str:
    """A grammar as llguidance reads it, not compiled yet. Raises `ValueError` for text that is not JSON or UTF-8, or
    too complex.
    """
    from llguidance import LLMatcher

    rules = grammar.text.count("$ref") + (grammar.text.count("\n") if grammar.kind == "lark" else 0)
    if rules > _MAX_RULES:
        raise ValueError(f"too complex: it has more than {_MAX_RULES} rules")
    if sum(map(float, _MULTIPLE.findall(grammar.text))) > _MAX_MULTIPLES:
        raise ValueError(f"too complex: the sum of 'multipleOf' is above {_MAX_MULTIPLES:,}")

    if grammar.kind == "json_schema":
        source = LLMatcher.grammar_from_json_schema(grammar.text, overrides=_JSON)
    elif grammar.kind == "regex":
        source = LLMatcher.grammar_from_regex(grammar.text)
    else:
        source = LLMatcher.grammar_from_lark(grammar.text)
    return str(source)


def mask_logits(matchers: Mapping[int, LLMatcher], logits: torch.Tensor) -> dict[int, RequestRefused]:
    """Set logits (rows, vocabulary) of the tokens that the matcher of a row does not allow next to -inf, in place.

    Returns row -> the error of a matcher that gave up, for example at a limit of its lexer. Its mask then allows the
    stop token alone, which would end the answer as if it were complete.
    """
    import numpy as np
    import torch

    if not matchers:
        return {}
    errors = dict[int, RequestRefused]()
    vocabulary = logits.shape[1]
    packed = np.empty((len(matchers), -(-vocabulary // 32)), np.int32)
    for place, (row, matcher) in enumerate(matchers.items()):
        packed[place] = np.frombuffer(matcher.compute_bitmask(), np.int32)[: packed.shape[1]]
        if matcher.is_error():
            errors[row] = grammar_error(matcher)
    bits = np.unpackbits(~packed.view(np.uint8), axis=1, bitorder="little")[:, :vocabulary]
    for row, not_allowed in zip(matchers, torch.from_numpy(bits.view(np.bool_)), strict=True):
        logits[row].masked_fill_(not_allowed, -torch.inf)
    return errors


def grammar_error(matcher: LLMatcher) -> RequestRefused:
    """The error of a matcher that cannot go on."""
    reason = _shorten(matcher.get_error()) or "it does not allow the answer to end here"
    return RequestRefused(
        f"the grammar cannot be followed further ({reason})",
        fix="Simplify the schema or the grammar.",
    )


def _shorten(reason: str) -> str:
    """The message without llguidance's parser state, which follows it."""
    whole = reason.partition("<state>")[0].strip()
    return whole if len(whole) <= _MAX_REASON else f"{whole[:_MAX_REASON]} ..."


def _rejected(grammar: Grammar, row: int, reason: str) -> RequestRefused:
    return RequestRefused(
        f"generation cannot be constrained to this {_KINDS[grammar.kind]} ({_shorten(reason)})",
        where=f"request {row + 1}",
        fix="Write it without what is refused, or generate without constraint and let the strict parse decide.",
    )
