"""Made documents and queries: words by Zipf's law, the same for the same seed, generated as they are read.

The word of rank r has a probability proportional to 1 / (r + 2.7)^1.07 (Zipf-Mandelbrot; Mandelbrot, "An informational
theory of the statistical structure of language", 1953), as in English text. Lengths are log-normal.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from searchlora.records import Document

WORDS, EXPONENT, OFFSET = 500_000, 1.07, 2.7

#: Median and limits of a document's length in words, and the standard deviation of its logarithm.
MEDIAN, SHORTEST, LONGEST, SPREAD = 40, 5, 300, 0.6

#: Documents that are generated together; the first documents of a larger collection are those of a smaller one.
CHUNK = 10_000

#: Words of a query are no more frequent than this rank: people leave out the, of and and.
FREQUENT = 100

_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


def documents(count: int, seed: int = 0) -> Iterator[Document]:
    """Documents `d0`, `d1`, ..., one at a time.

    Examples:
        >>> first, *_ = documents(2)
        >>> first.id, first == next(documents(50_000))
        ('d0', True)
    """
    for first in range(0, count, CHUNK):
        for number, ranks in enumerate(_chunk(seed, first // CHUNK), first):
            if number == count:
                return
            yield Document(f"d{number}", " ".join(map(word, ranks.tolist())))


def queries(count: int, collection: int, seed: int = 0) -> list[str]:
    """Queries of two to five words that stand in one of the first documents, in an order of their own.

    Args:
        collection: Number of documents that have the words; the first 100,000 at most are drawn from.
    """
    rng = np.random.default_rng([seed, 2**31])
    drawn = rng.integers(0, min(collection, 100_000), 4 * count)
    chunks = {number: _chunk(seed, number) for number in sorted({int(position) // CHUNK for position in drawn})}
    texts: dict[str, None] = {}
    for document in drawn.tolist():
        ranks = np.unique(chunks[document // CHUNK][document % CHUNK])
        rare = ranks[ranks >= FREQUENT]
        if len(rare) >= 2 and len(texts) < count:
            chosen = rng.permutation(rare)[: rng.integers(2, 6)]
            texts[" ".join(map(word, chosen.tolist()))] = None
    if len(texts) < count:
        raise ValueError(f"{collection} documents have no {count} different queries")
    return list(texts)


def word(rank: int) -> str:
    """The word of a rank: two or more syllables, no stop word.

    Examples:
        >>> word(0), word(1), word(104), word(105)
        ('babe', 'babi', 'bebe', 'bebi')
    """
    syllables = ""
    number = rank + len(_CONSONANTS) * len(_VOWELS) + 1
    while number:
        number, least = divmod(number, len(_CONSONANTS) * len(_VOWELS))
        consonant, vowel = divmod(least, len(_VOWELS))
        syllables = _CONSONANTS[consonant] + _VOWELS[vowel] + syllables
    return syllables


def _chunk(seed: int, number: int) -> list[NDArray[np.int64]]:
    """The ranks of the words of each document of a chunk."""
    rng = np.random.default_rng([seed, number])
    lengths = np.exp(rng.normal(np.log(MEDIAN), SPREAD, CHUNK)).astype(np.int64).clip(SHORTEST, LONGEST)
    ranks = np.searchsorted(_distribution(), rng.random(int(lengths.sum())))
    return np.split(ranks, np.cumsum(lengths)[:-1])


@cache
def _distribution() -> NDArray[np.float64]:
    """The distribution function over the ranks."""
    weights = 1.0 / (np.arange(WORDS) + 1 + OFFSET) ** EXPONENT
    total: NDArray[np.float64] = np.cumsum(weights)
    return total / total[-1]
