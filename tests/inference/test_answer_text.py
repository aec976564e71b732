"""Streamed text is what decoding all tokens gives, up to the first stop string and never beyond it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.inference.answer_text import AnswerText
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import resolve


def of_bytes(ids):
    """A decoder whose tokens are single bytes; 256 is a special token."""
    return bytes(each for each in ids if each < 256).decode("utf-8", "replace")


def of_words(ids):
    """A decoder like SentencePiece's, which removes the space before the first word of a text."""
    return "".join(f" {'ab'[token % 2]}" for token in ids).removeprefix(" ")


def grown(text, tokens):
    """What is visible after each token, up to the end."""
    seen = []
    for token in tokens:
        ended = text.add(token)
        seen.append(text.visible)
        if ended:
            break
    return seen


STOPS = st.lists(st.text("ab🙂é", min_size=1, max_size=4), max_size=3)


@given(st.text("aaabb🙂é", max_size=12), STOPS)
def test_text_ends_before_the_first_stop_string(content, stops):
    text = AnswerText(of_bytes, stops)
    seen = grown(text, content.encode())
    ends = [place for stop in stops if (place := content.find(stop)) >= 0]
    completed = [content.find(stop) + len(stop) for stop in stops if stop in content]
    assert text.stopped == bool(ends)
    if ends:  # the stop string that is complete first ends the text; of several, the one that begins first
        first = min(completed)
        assert text.whole == content[: min(content.find(s) for s in stops if s in content[:first])]
    else:
        assert text.whole == content
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert all(text.whole.startswith(each) for each in seen)


@given(st.lists(st.integers(0, 256), max_size=12))
def test_text_of_any_bytes_is_that_of_all_tokens(tokens):
    text = AnswerText(of_bytes)
    seen = grown(text, tokens)
    assert text.whole == of_bytes(tokens)
    assert all(text.whole.startswith(each) for each in seen)


def test_decoders_that_treat_the_first_token_differently():
    text = AnswerText(of_words, ("b a",))
    assert grown(text, [0, 0, 1, 1, 0]) == ["a", "a a", "a a ", "a a b ", "a a b "]
    assert text.whole == "a a b "


@pytest.mark.parametrize(("stop", "written"), [("tent", 3), ("EN", 1), ("x", 0)])
def test_tokens_of_a_text_include_the_one_in_which_it_ends(stop, written):
    pieces = {0: "aEN", 1: "x", 2: "b t", 3: "en", 4: "ts"}
    text = AnswerText(lambda ids: "".join(pieces[each] for each in ids), (stop,))
    order = [1, 2] if stop == "x" else [0, 1] if stop == "EN" else [0, 2, 3, 4]
    grown(text, order)
    assert text.stopped
    assert text.tokens_of(text.whole) == (written if stop != "tent" else 2)


@pytest.fixture(scope="module")
def real_tokenizer():
    return load_tokenizer(resolve("smollm2-135m-instruct-q4_1"))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from(["special", "bytes", "any"]), min_size=1, max_size=12),
)
def test_with_a_real_tokenizer_streamed_text_is_that_of_all_tokens(real_tokenizer, seed, kinds):
    """Byte-level BPE: tokens may be parts of characters, and special tokens have no text."""
    ranges = {"special": (0, 17), "bytes": (17, 300), "any": (0, len(real_tokenizer))}
    rng = random.Random(seed)
    tokens = [rng.randrange(*ranges[kind]) for kind in kinds]
    text = AnswerText(lambda ids: real_tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True))
    seen = grown(text, tokens)
    whole = real_tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text.whole == whole
    assert all(whole.startswith(each) for each in seen)
