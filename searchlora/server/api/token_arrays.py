"""Texts of token arrays that clients send to be embedded.

OpenAI's API takes arrays of token ids in the vocabulary `cl100k_base`, and LangChain's `OpenAIEmbeddings` sends such
arrays by default. The vocabulary stands beside this file (see `cl100k_base.LICENSE.txt`): the length of each token in a
byte, then all tokens.
"""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from searchlora.errors import UsageError

#: Number of its tokens that are text.
_SIZE = 100_256


@cache
def cl100k_tokens() -> tuple[bytes, ...]:
    """The UTF-8 bytes of each token of `cl100k_base`, by id."""
    content = lzma.decompress(Path(__file__).with_name("cl100k_base.xz").read_bytes())
    ends = itertools.accumulate(content[:_SIZE], initial=_SIZE)
    return tuple(content[start:end] for start, end in itertools.pairwise(ends))


def text_of(item: str | Sequence[int]) -> str:
    """The text of an item to embed; half a character at an end becomes U+FFFD. Raises `UsageError` for unknown ids.

    Examples:
        >>> text_of([9906, 1917]), text_of("as it is")
        ('Hello world', 'as it is')
    """
    if isinstance(item, str):
        return item
    tokens = cl100k_tokens()
    if unknown := [each for each in item if each >= len(tokens)]:
        raise UsageError(f"the vocabulary cl100k_base has no text token {unknown[0]}", fix="Send texts.")
    return b"".join(tokens[each] for each in item).decode("utf-8", "replace")
