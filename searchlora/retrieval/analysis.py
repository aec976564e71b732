"""Text analysis for lexical retrieval: tokenization, stop words and stemming, the same for documents and queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.text_identity import words

_LUCENE = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
#: Lucene's English stop words, the list that bm25s uses.
ENGLISH = frozenset(_LUCENE.split())
_STOPWORDS = {"english": ENGLISH}

#: Maximum number of stems that are kept, since the queries of a server bring new words for ever.
_MOST_STEMS = 1_000_000


@dataclass(frozen=True)
class Analyzer:
    """Lower-cases a text, splits it into terms, removes stop words, and optionally stems.

    Args:
        stopwords: `"english"` (Lucene's 33 words) or None.
        stemmer: A language of the Snowball stemmers, for example `"english"`, or None.
        shortest: Minimum length of a term in characters. The default, 2, is that of bm25s and scikit-learn; 1 keeps
            the 9 of "size 9".

    Raises:
        UsageError: for an unknown stop list or stemmer.

    Examples:
        >>> Analyzer(stemmer="english")("The waterproof boots of size 9")
        ['waterproof', 'boot', 'size']
    """

    stopwords: str | None = "english"
    stemmer: str | None = None
    shortest: int = 2
    _stems: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.shortest < 1:
            raise UsageError("the minimum length of a term must be at least 1")
        if self.stopwords is not None and self.stopwords not in _STOPWORDS:
            raise UsageError(f"there is no stop list '{self.stopwords}'", fix=f"Known: {', '.join(_STOPWORDS)}.")
        if self.stemmer is not None:
            import Stemmer

            if self.stemmer not in Stemmer.algorithms():
                known = ", ".join(Stemmer.algorithms())
                raise UsageError(f"there is no stemmer '{self.stemmer}'", fix=f"Known: {known}.")

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order, with repetitions."""
        dropped, shortest = self._dropped, self.shortest
        words_kept = [word for word in words(text) if len(word) >= shortest and word not in dropped]
        return [self._stem(word) for word in words_kept] if self.stemmer else words_kept

    @cached_property
    def _dropped(self) -> frozenset[str]:
        return _STOPWORDS[self.stopwords] if self.stopwords else frozenset()

    @cached_property
    def _snowball(self) -> Any:
        import Stemmer

        return Stemmer.Stemmer(self.stemmer)

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is None:
            if len(self._stems) >= _MOST_STEMS:
                self._stems.clear()
            stem = self._stems[word] = str(self._snowball.stemWord(word))
        return stem
