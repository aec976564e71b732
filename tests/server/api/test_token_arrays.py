"""Texts of token arrays in tiktoken's vocabulary and in an encoder's own."""

from __future__ import annotations

import base64
import hashlib

import pytest

from searchlora.errors import UsageError
from searchlora.models.load import load_encoder
from searchlora.models.resolve import resolve
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


@pytest.fixture(scope="module")
def tokenizer():
    try:
        return load_encoder(resolve("all-minilm-l6-v2")).tokenizer
    except Exception as error:
        pytest.skip(f"no real encoder: {error}")


@pytest.mark.parametrize("text", ["Red tents, don't leak!", "naïve größe 日本語", "unaffable tokenization", "x"])
def test_a_real_encoders_own_ids_give_its_text_back(tokenizer, text):
    for special in (True, False):
        ids = tokenizer(text, add_special_tokens=special)["input_ids"]
        again = text_of(ids, tokenizer)
        assert tokenizer(again)["input_ids"] == tokenizer(text)["input_ids"]
    assert text_of([*tokenizer(text)["input_ids"], 0, 0], tokenizer) == text_of(tokenizer(text)["input_ids"], tokenizer)


def test_arrays_that_would_be_read_as_other_tokens_are_refused(tokenizer):
    unknown = tokenizer("emoji 🏕")["input_ids"]
    assert tokenizer.unk_token_id in unknown
    pieces = tokenizer("unaffable", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    for ids in (unknown, pieces[::-1]):  # a continuation of a word before its beginning
        with pytest.raises(UsageError, match="not what the encoder's tokenizer writes"):
            text_of(ids, tokenizer)
    with pytest.raises(UsageError, match="the encoder has no token"):
        text_of([*pieces, 90_000], tokenizer)
