"""Typing errors as a QWERTY keyboard makes them: a neighbouring key, a dropped, doubled or swapped letter."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from random import Random

#: Shorter words are left alone: one wrong letter makes another word of them.
SHORTEST = 4

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Each key's neighbours in its row and, shifted by about half a key, in the rows above and below."""
    found: dict[str, set[str]] = {key: set() for row in _ROWS for key in row}
    for row in _ROWS:
        for left, right in pairwise(row):
            found[left].add(right)
            found[right].add(left)
    for upper, lower in pairwise(_ROWS):
        for place, key in enumerate(lower):
            for other in upper[place : place + 2]:
                found[key].add(other)
                found[other].add(key)
    return {key: "".join(sorted(keys)) for key, keys in found.items()}


NEIGHBOURS = _neighbours()


def can_misspell(word: str) -> bool:
    """Whether the model makes errors in this word: only letters, and long enough."""
    return len(word) >= SHORTEST and word.isascii() and word.isalpha()


def misspell(word: str, rng: Random) -> str:
    """One typing error in `word`, never in its first letter; always another string.

    Args:
        word: At least `SHORTEST` ASCII letters in lower case (see `can_misspell`).
    """
    while True:
        place = rng.randrange(1, len(word))
        error = rng.choices(("drop", "swap", "double", "neighbour"), weights=(30, 30, 15, 25))[0]
        if error == "drop":
            wrong = word[:place] + word[place + 1 :]
        elif error == "double":
            wrong = word[:place] + word[place] + word[place:]
        elif error == "neighbour":
            wrong = word[:place] + rng.choice(NEIGHBOURS[word[place]]) + word[place + 1 :]
        else:
            wrong = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
        if wrong != word:
            return wrong


class Typist:
    """Makes typing errors that are no words, and outside training none that training has.

    Args:
        known: Words that an error must not happen to be.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._trained_errors: set[str] = set()

    def wrong(self, word: str, split: str, rng: Random) -> str | None:
        """A wrong form of a word that `can_misspell`, or None where this draw made one that may not be used."""
        wrong = misspell(word, rng)
        if wrong in self._known or (split != "train" and wrong in self._trained_errors):
            return None
        if split == "train":
            self._trained_errors.add(wrong)
        return wrong

    def text_with_error(self, text: str, split: str, rng: Random, *, spared: Collection[str] = ()) -> str | None:
        """The text with an error in one of its words, the spared ones aside; None where none can be made."""
        words = text.split()
        places = [place for place, word in enumerate(words) if can_misspell(word) and word not in spared]
        if not places:
            return None
        place = rng.choice(places)
        wrong = self.wrong(words[place], split, rng)
        return None if wrong is None else " ".join([*words[:place], wrong, *words[place + 1 :]])
