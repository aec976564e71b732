"""Texts of token arrays in tiktoken's vocabulary."""

from __future__ import annotations

import base64
import hashlib

import pytest

from searchlora.errors import UsageError
from searchlora.server.api.token_arrays import cl100k_tokens, text_of

#: sha256 of cl100k_base.tiktoken, which tiktoken checks after its download.
PUBLISHED = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"


def test_the_vocabulary_is_the_published_one():
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(cl100k_tokens()))
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == PUBLISHED


def test_characters_of_several_tokens_are_whole():
    # As tiktoken 0.14 writes it.
    assert text_of([6600, 80040, 220, 57668, 53901, 11410, 237, 243]) == "Größe 你好 🏕"
    assert text_of([57668, 53901, 11410, 237]) == "你好 \ufffd"  # cut by the client
    with pytest.raises(UsageError, match="no text token 100257"):
        text_of([9906, 100_257])
