"""Words of texts, and the form under which two texts count as the same."""

from __future__ import annotations

import pytest

from searchlora.eval.text_identity import normalised, words


@pytest.mark.parametrize(
    ("one", "other"),
    [("दिन", "दान"), ("กิน", "กัน"), ("হাত", "হাতি")],
)
def test_words_that_differ_in_a_mark_are_different(one, other):
    assert normalised(one) != normalised(other)
    assert normalised(f" {one}! ") == normalised(f"{one}?")


def test_different_symbols_are_different():
    assert normalised("\N{HEAVY BLACK HEART}\ufe0f") != normalised("\N{BLACK SUN WITH RAYS}\ufe0f")


def test_marks_belong_to_their_letter_and_punctuation_to_no_word():
    assert words("दिन-दान, A_b 9") == ["दिन", "दान", "a_b", "9"]
    assert normalised("Cre\u0300me_BRÛLÉE") == normalised("crème brûlée") == "crème brûlée"
