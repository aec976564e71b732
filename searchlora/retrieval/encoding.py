"""Vectors of documents and queries: each text encoded once, checked, and normalised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from searchlora.errors import DataError
from searchlora.progress import Progress, silent
from searchlora.retrieval.encoder import Encoder, Vectors

if TYPE_CHECKING:
    from searchlora.models.load import Precision


@dataclass(frozen=True)
class QueryEncoder:
    """How queries are encoded.

    Attributes:
        batch_size: Queries per forward pass. With 1 the vector of a query does not depend on other queries.
        normalise: Whether vectors have length 1.
        prefix: Text before each query.
    """

    encoder: Encoder
    batch_size: int = 1
    normalise: bool = True
    prefix: str = ""

    def vectors(self, queries: Sequence[str]) -> Iterator[Vectors | None]:
        """The vector of each query, shape (dimensions,); None for a blank one. Encoded batch by batch, as needed.

        Raises:
            DataError: if the encoder returns a vector that is not finite.
        """
        for start in range(0, len(queries), self.batch_size):
            batch = queries[start : start + self.batch_size]
            texts = [query for query in batch if query.strip()]
            encoded = iter(self._encode(texts) if texts else ())
            for query in batch:
                yield next(encoded) if query.strip() else None

    def _encode(self, texts: Sequence[str]) -> Vectors:
        encoded = self.encoder.encode([self.prefix + text for text in texts])
        check_finite(encoded, (f"the query '{text}'" for text in texts))
        return normalised(encoded) if self.normalise else encoded


def encode_texts(
    encoder: Encoder,
    texts: Mapping[str, str],
    *,
    batch_size: int = 32,
    normalise: bool = True,
    prefix: str = "",
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Vectors:
    """The vectors of the texts of documents, in their order, shape (documents, dimensions).

    Equal texts are encoded once: in another batch, a vector differs in its last bits.

    Args:
        texts: Id of a document -> its text, which is not blank; at least one.

    Raises:
        DataError: if the encoder returns a vector that is not finite; names the first document with the text.
    """
    first: dict[str, str] = {}
    for name, text in texts.items():
        first.setdefault(text, name)
    encoded = encoder.encode_documents(
        [prefix + text for text in first], batch_size=batch_size, precision=precision, progress=progress
    )
    check_finite(encoded, (f"document {name}" for name in first.values()))
    rows = {text: row for row, text in enumerate(first)}
    vectors: Vectors = encoded[[rows[text] for text in texts.values()]]
    return normalised(vectors) if normalise else vectors


def check_finite(vectors: Vectors, names: Iterable[str]) -> None:
    """Raise `DataError` naming the first vector that is not finite."""
    for name, vector in zip(names, vectors, strict=True):
        if not np.isfinite(vector).all():
            raise DataError("the encoder returns a vector that is not finite", where=name)


def normalised(vectors: Vectors) -> Vectors:
    """The vectors at length 1; a vector of zeros stays."""
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def longest_of(vectors: Vectors) -> float:
    """The length of the longest vector."""
    return float(np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1).max()))
