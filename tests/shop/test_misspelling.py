from __future__ import annotations

import string
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from searchlora.shop.queries import MIN_MISSPELLED_LENGTH, NEIGHBOURS, can_misspell, misspell

words = st.text(alphabet=string.ascii_lowercase, min_size=MIN_MISSPELLED_LENGTH, max_size=12)


def test_neighbouring_keys_follow_a_qwerty_keyboard():
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert set(NEIGHBOURS) == set(string.ascii_lowercase)
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


@given(words, st.integers())
def test_a_misspelling_has_one_error_and_keeps_the_first_letter(word: str, seed: int):
    wrong = misspell(word, Random(seed))
    assert wrong != word
    assert wrong[0] == word[0]
    assert abs(len(wrong) - len(word)) <= 1
    if len(wrong) == len(word):
        places = [place for place, (a, b) in enumerate(zip(word, wrong, strict=True)) if a != b]
        swapped = len(places) == 2 and sorted(word) == sorted(wrong) and places[1] == places[0] + 1
        assert swapped or (len(places) == 1 and wrong[places[0]] in NEIGHBOURS[word[places[0]]])
    else:
        short, long = sorted((word, wrong), key=len)
        assert any(long[:place] + long[place + 1 :] == short for place in range(len(long)))


def test_all_four_kinds_of_error_occur():
    rng = Random(1)
    lengths = Counter(len(misspell("carabiner", rng)) for _ in range(200))
    assert set(lengths) == {8, 9, 10}
    assert can_misspell("tent") and not can_misspell("mat") and not can_misspell("40l1") and not can_misspell("chef's")
