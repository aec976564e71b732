"""Dense retrieval: documents and queries as vectors, compared by exact inner product.

Source: Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering" (EMNLP 2020); the search itself
is faiss' `IndexFlatIP` (Douze et al., "The Faiss library", arXiv:2401.08281).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.progress import Progress, silent
from searchlora.records import Document, Hit
from searchlora.retrieval.encoder import Encoder, Vectors
from searchlora.retrieval.retriever import check_k, tie_order

#: Number of candidates beyond k, so that ties at rank k rarely need a second search.
_MARGIN = 32


class DenseIndex:
    """An in-memory index of document vectors.

    A document is truncated to the first `encoder.max_tokens` tokens of title and text. Documents with equal texts have
    equal scores. A document without text is never a hit, and a query without text has no hits.

    Args:
        documents: Read once; ids must be unique. Title and text are encoded together.
        encoder: Encodes documents and queries.
        batch_size: Documents per forward pass.
        query_batch_size: Queries per forward pass. With 1 the hits of a query do not depend on other queries; larger
            batches are faster, and round scores differently in their last bits.
        normalise: Normalise vectors to length 1, so that the score is the cosine similarity, from -1 to 1.
        query_prefix, document_prefix: Prefixes that the encoder was trained with, such as "query: ".
        progress: Called for each batch.

    Raises:
        DataError: if there are no documents, two have the same id, or the encoder returns a vector that is not finite.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        encoder: Encoder,
        *,
        batch_size: int = 32,
        query_batch_size: int = 1,
        normalise: bool = True,
        query_prefix: str = "",
        document_prefix: str = "",
        progress: Progress = silent,
    ) -> None:
        self.encoder = encoder
        self._normalise = normalise
        self._prefix = query_prefix
        self._query_batch_size = query_batch_size
        texts = _texts(documents)
        self._ids = list(texts)
        self._order = tie_order(self._ids)
        vectors = self._encoded(texts, document_prefix, batch_size, progress)
        self._longest = float(np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1).max()))
        self._index = _flat(vectors)

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, queries: Sequence[str], k: int, progress: Progress = silent) -> list[list[Hit]]:
        """At most `k` hits per query, best first; a blank query has no hits.

        Raises:
            UsageError: if k is less than 1.
            DataError: if the encoder returns a vector that is not finite.
        """
        check_k(k)
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), self._query_batch_size):
            batch = queries[start : start + self._query_batch_size]
            texts = [query for query in batch if query.strip()]
            vectors = iter(self._vectors(texts) if texts else ())
            hits += [self._nearest(next(vectors)[None], k) if query.strip() else [] for query in batch]
            progress(len(hits), len(queries))
        return hits

    def _vectors(self, queries: Sequence[str]) -> Vectors:
        encoded = self.encoder.encode([self._prefix + query for query in queries])
        return self._ready(encoded, [f"the query '{query}'" for query in queries])

    def _nearest(self, vector: Vectors, k: int) -> list[Hit]:
        """The k documents nearest to a vector of shape (1, dimensions)."""
        rows = self._candidates(vector, k)
        # The summation order of faiss depends on the position of a vector: recomputed, equal vectors score the same.
        vectors = self._index.reconstruct_batch(rows).astype(np.float64)
        scores = (vectors * vector[0].astype(np.float64)).sum(axis=1)
        best = np.lexsort((self._order[rows], -scores))[:k]
        return [Hit(self._ids[rows[index]], float(scores[index])) for index in best]

    def _candidates(self, vector: Vectors, k: int) -> NDArray[np.int64]:
        """Rows of all documents that may be among the k best, given the rounding error of the scores."""
        count = min(k + _MARGIN, len(self))
        error = 2 * vector.shape[1] * float(np.finfo(np.float32).eps) * float(np.linalg.norm(vector)) * self._longest
        while True:
            scores, rows = self._index.search(vector, count)
            if count == len(self) or scores[0, -1] < scores[0, k - 1] - error:
                found: NDArray[np.int64] = rows[0]
                return found
            count = min(2 * count, len(self))

    def _encoded(self, texts: dict[str, str], prefix: str, batch_size: int, progress: Progress) -> Vectors:
        # A text encoded in another batch differs in its last bits, so each text is encoded once.
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts.values()))}
        prefixed = [prefix + text for text in distinct]
        encoded = self.encoder.encode_documents(prefixed, batch_size=batch_size, progress=progress)
        return self._ready(encoded[[distinct[text] for text in texts.values()]], texts)

    def _ready(self, vectors: Vectors, names: Iterable[str]) -> Vectors:
        """The vectors, checked to be finite, and normalised if requested."""
        for name, vector in zip(names, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise DataError("the encoder returns a vector that is not finite", where=name)
        if not self._normalise:
            return vectors
        lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
        unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit


def _texts(documents: Iterable[Document]) -> dict[str, str]:
    """Id -> text of all documents with text."""
    texts: dict[str, str] = {}
    for document in documents:
        if document.id in texts:
            raise DataError(f"two documents have the id '{document.id}'")
        texts[document.id] = document.searchable
    found = {name: text for name, text in texts.items() if text.strip()}
    if not found:
        raise DataError("no document contains text to search")
    return found


def _flat(vectors: Vectors) -> Any:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index
