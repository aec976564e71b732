"""Texts of token arrays that clients send to be embedded.

OpenAI's API takes arrays of token ids, in the vocabulary of its embedding models, `cl100k_base`. LangChain's
`OpenAIEmbeddings` sends such arrays by default (`check_embedding_ctx_length`), whatever the model is called. So arrays
are read in it, unless the request says that they are the encoder's own. The vocabulary stands beside this file:
nothing is loaded from elsewhere. It is that of tiktoken (see `cl100k_base.LICENSE.txt`): the length of each token in a
byte, then all tokens.
"""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError

_FILE = Path(__file__).with_name("cl100k_base.xz")

#: Number of its tokens that are text.
_SIZE = 100_256


@cache
def cl100k_tokens() -> tuple[bytes, ...]:
    """The UTF-8 bytes of each token of `cl100k_base`, by id.

    Examples:
        >>> cl100k_tokens()[9906]
        b'Hello'
    """
    content = lzma.decompress(_FILE.read_bytes())
    ends = list(itertools.accumulate(content[:_SIZE], initial=_SIZE))
    return tuple(content[start:end] for start, end in itertools.pairwise(ends))


def text_of(item: str | Sequence[int], tokenizer: Any | None = None) -> str:
    """The text of an item to embed: a text, or an array of token ids.

    Args:
        item: The item.
        tokenizer: Whose ids they are; None: of `cl100k_base`.

    Raises:
        UsageError: for an id without text, and as `_own_text`.

    Examples:
        >>> text_of([9906, 1917]), text_of("as it is")
        ('Hello world', 'as it is')
    """
    if isinstance(item, str):
        return item
    return _cl100k_text(item) if tokenizer is None else _own_text(tokenizer, item)


def _cl100k_text(ids: Sequence[int]) -> str:
    """Half a character at an end, where a client has cut a long text, becomes U+FFFD."""
    tokens = cl100k_tokens()
    if unknown := [each for each in ids if each >= len(tokens)]:
        raise UsageError(
            f"the vocabulary cl100k_base has no text token {unknown[0]}",
            fix="Send texts, or the encoder's own token ids with 'token_ids': 'model'.",
        )
    return b"".join(tokens[each] for each in ids).decode("utf-8", "replace")


def _own_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Special tokens around the text are left out.

    Raises `UsageError` for an array that is not what the tokenizer writes for its text, or that holds the token of
    unknown characters: the encoder would read other tokens than those of the array.
    """
    if unknown := [each for each in ids if each >= len(tokenizer)]:
        raise UsageError(f"the encoder has no token {unknown[0]}", fix=f"Its token ids are below {len(tokenizer)}.")
    outer = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    inside = list(ids)
    while inside and inside[-1] in outer | {tokenizer.pad_token_id}:
        inside.pop()
    if inside and inside[0] in outer:
        inside = inside[1:]
    text: str = tokenizer.decode(inside, clean_up_tokenization_spaces=False)
    if tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] != inside:
        raise UsageError(
            "a token array is not what the encoder's tokenizer writes for its text",
            fix="Send the text, or ids of this encoder's tokenizer.",
        )
    return text
