"""How texts become vectors: each text encoded once, with its prefix, checked, and normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from searchlora.errors import DataError
from searchlora.progress import Progress, silent
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.shared_model import Vectors

if TYPE_CHECKING:
    from searchlora.models.load import Precision


@dataclass(frozen=True)
class TextEncoding:
    """How an encoder encodes documents and queries."""

    batch_size: int = 32
    query_batch_size: int = 1
    normalise: bool = True
    query_prefix: str = ""
    document_prefix: str = ""
    precision: Precision = "fp32"

    def queries(self, encoder: TextEncoder, queries: Sequence[str]) -> Iterator[Vectors | None]:
        """The vector of each query, shape (dimensions,); None for a blank one. Encoded batch by batch, as needed."""
        step = self.query_batch_size * encoder.at_once
        for start in range(0, len(queries), step):
            batch = queries[start : start + step]
            texts = [query for query in batch if query.strip()]
            encoded = self._queries(encoder, [self.query_prefix + text for text in texts])
            vectors = iter(self.checked(encoded, (f"the query '{text}'" for text in texts)))
            for query in batch:
                yield next(vectors) if query.strip() else None

    def _queries(self, encoder: TextEncoder, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        if len(texts) == 1 and self.query_batch_size > 1:  # a search of its own, as in a server
            return encoder.encode_together(texts)
        return encoder.encode(texts, batch_size=self.query_batch_size)

    def documents(self, encoder: TextEncoder, texts: Mapping[str, str], progress: Progress = silent) -> Vectors:
        """The vectors of the texts of documents, in their order, shape (documents, dimensions).

        Equal texts are encoded once: in another batch, a vector differs in its last bits.

        `texts`: Id of a document -> its text, which is not blank; at least one.
        """
        first: dict[str, str] = {}
        for name, text in texts.items():
            first.setdefault(text, name)
        vectors = self.checked(self.forward(encoder, list(first), progress), (f"document {n}" for n in first.values()))
        rows = {text: row for row, text in enumerate(first)}
        of_documents: Vectors = vectors[[rows[text] for text in texts.values()]]
        return of_documents

    def forward(self, encoder: TextEncoder, texts: Sequence[str], progress: Progress = silent) -> Vectors:
        """What the encoder returns for texts of documents, neither checked nor normalised."""
        prefixed = [self.document_prefix + text for text in texts]
        return encoder.encode_documents(
            prefixed, batch_size=self.batch_size, precision=self.precision, progress=progress
        )

    def checked(self, vectors: Vectors, names: Iterable[str]) -> Vectors:
        """The vectors, normalised if they are to be. Raises `DataError` naming the first that is not finite."""
        check_finite(vectors, names)
        return normalised(vectors) if self.normalise else vectors


#: That of most encoders.
USUAL_ENCODING = TextEncoding()


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


def vectors_once(encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
    """Vectors of length 1 in the order of the texts, shape (texts, dimensions); equal texts are encoded once."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors: Vectors = normalised(encode(list(rows)))[[rows[text] for text in texts]]
    return vectors


def longest_of(vectors: Vectors) -> float:
    """The length of the longest vector."""
    return float(np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1).max()))
