"""Features of a query that are known before retrieval: its length, the rarity of its terms, and its vector.

Rarity is the inverse document frequency of BM25, ln(1 + (N - df + 0.5) / (df + 0.5)). Such features predict how well a
retriever answers a query: Hauff, Hiemstra and de Jong, "A Survey of Pre-retrieval Query Performance Predictors" (CIKM
2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from searchlora.retrieval.analysis import Analyzer

#: Features of the text of a query.
OF_TEXT = ("terms", "characters", "digits")

#: Features of its terms in the collection.
OF_TERMS = ("unknown", "idf mean", "idf deviation", "idf least", "idf most")


@runtime_checkable
class TermStatistics(Protocol):
    """Document frequencies of a collection; a BM25 index has them."""

    analyzer: Analyzer

    def document_frequencies(self, terms: Sequence[str]) -> list[int]:
        """The number of documents with each term."""

    def __len__(self) -> int:
        """The number of documents."""


@runtime_checkable
class QueryVectors(Protocol):
    """Vectors of queries; a dense index has them."""

    def query_vectors(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of queries with a text, shape (queries, dimensions)."""


def text_features(queries: Sequence[str], terms: TermStatistics | None) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Features of the texts of queries.

    Args:
        terms: The collection; None: without the features `OF_TERMS`.

    Returns:
        The names of the features, and their values, shape (queries, features): the logarithms of 1 + the numbers of
        terms and of characters; the share of words with a digit; the share of terms that no document has; and the mean,
        deviation, minimum and maximum of the inverse document frequencies of the others. 0 where there is no term.

    Examples:
        >>> names, values = text_features(["iphone 15 case"], None)
        >>> dict(zip(names, values[0].round(2).tolist(), strict=True))
        {'terms': 1.39, 'characters': 2.71, 'digits': 0.33}
    """
    analyzer = terms.analyzer if terms is not None else Analyzer()
    rows = []
    for query in queries:
        words, analysed = query.split(), analyzer(query)
        digits = sum(any(letter.isdigit() for letter in word) for word in words)
        row = [math.log1p(len(analysed)), math.log1p(len(query)), digits / len(words) if words else 0.0]
        rows.append([*row, *_of_terms(analysed, terms)] if terms is not None else row)
    names = (*OF_TEXT, *OF_TERMS) if terms is not None else OF_TEXT
    return names, np.array(rows, dtype=np.float64).reshape(len(queries), len(names))


def vector_features(queries: Sequence[str], vectors: QueryVectors) -> NDArray[np.float64]:
    """The vectors of queries, shape (queries, dimensions); of zeros for a query without text.

    Raises:
        DataError: if the encoder returns a vector that is not finite.
    """
    shown = [query for query in queries if query.strip()]
    if not shown:
        return np.zeros((len(queries), 0))
    # One at a time: a vector may depend on those that are encoded with it in its last bits.
    encoded = iter([vectors.query_vectors([query])[0] for query in shown])
    first = next(encoded)
    rows = np.zeros((len(queries), len(first)))
    places = [place for place, query in enumerate(queries) if query.strip()]
    for place, vector in zip(places, [first, *encoded], strict=True):
        rows[place] = vector
    return rows


def _of_terms(analysed: Sequence[str], terms: TermStatistics) -> list[float]:
    frequencies = terms.document_frequencies(analysed)
    known = [frequency for frequency in frequencies if frequency]
    unknown = (len(frequencies) - len(known)) / len(frequencies) if frequencies else 0.0
    if not known:
        return [unknown, 0.0, 0.0, 0.0, 0.0]
    count = len(terms)
    rarities = [math.log1p((count - frequency + 0.5) / (frequency + 0.5)) for frequency in known]
    return [unknown, float(np.mean(rarities)), float(np.std(rarities)), min(rarities), max(rarities)]
