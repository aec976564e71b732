"""Typing errors as a QWERTY keyboard makes them: a neighbouring key, a dropped, doubled or swapped letter."""

from __future__ import annotations

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
