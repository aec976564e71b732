"""Dense retrieval: documents and queries as vectors, compared by inner product.

Source: Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering" (EMNLP 2020).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.progress import Progress, silent
from searchlora.records import Document, Hit
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import USUAL_ENCODING, TextEncoding, longest_of
from searchlora.retrieval.field_filter import FieldColumns, FieldFilter, rows_of
from searchlora.retrieval.nearest import Hnsw, Nearest, inner_products
from searchlora.retrieval.retriever import IndexedDocuments, check_k, tie_order
from searchlora.retrieval.shared_model import Vectors


class DenseIndex:
    """An index of document vectors: built in memory, or memory-mapped from a folder by `load`.

    A document is truncated to the first `encoder.max_tokens` tokens of title and text. Documents with equal texts have
    equal scores. A document without text is never a hit, and a query without text has no hits.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        encoder: TextEncoder,
        encoding: TextEncoding = USUAL_ENCODING,
        *,
        graph: Hnsw | None = None,
        effort: int = 64,
        progress: Progress = silent,
    ) -> None:
        self.encoder, self._encoding = encoder, encoding
        ids, texts = _texts(documents)
        self.vectors = encoding.documents(encoder, texts, progress)
        self._documents = IndexedDocuments(ids, tie_order(ids))
        self._rows: NDArray[np.int64] | None = (
            np.array([row for row, name in enumerate(ids) if name in texts]) if len(texts) < len(ids) else None
        )
        built = graph.build(self.vectors, progress) if graph is not None else None
        self._nearest = Nearest(self.vectors, longest_of(self.vectors), built, effort)

    @classmethod
    def load(
        cls,
        documents: IndexedDocuments,
        vectors: Vectors,
        rows: NDArray[np.int64],
        nearest: Nearest,
        encoder: TextEncoder,
        encoding: TextEncoding = USUAL_ENCODING,
    ) -> DenseIndex:
        """An index of vectors that were encoded before, in the same way; only queries are encoded.

        `vectors`: Of the documents with text, shape (documents with text, dimensions).
        """
        index = cls.__new__(cls)
        index.encoder, index._encoding = encoder, encoding
        index._documents, index.vectors, index._rows, index._nearest = documents, vectors, rows, nearest
        return index

    def searched_by(self, encoder: TextEncoder, encoding: TextEncoding | None = None) -> DenseIndex:
        """The same vectors, with queries by another encoder, which must encode documents as the first one does."""
        index = copy.copy(self)
        index.encoder, index._encoding = encoder, encoding or self._encoding
        return index

    def approximate(self, graph: Hnsw, effort: int, progress: Progress = silent) -> DenseIndex:
        """The same vectors, searched by a graph that is built now."""
        index = copy.copy(self)
        built = graph.build(self.vectors, progress)
        index._nearest = Nearest(self.vectors, longest_of(self.vectors), built, effort)
        return index

    def filterable(self, columns: FieldColumns) -> DenseIndex:
        """The same index, whose searches can be filtered by the fields of its documents, those without text too."""
        index = copy.copy(self)
        index._documents = dataclasses.replace(self._documents, columns=columns)
        return index

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: Sequence[str],
        k: int,
        progress: Progress = silent,
        *,
        filters: Sequence[FieldFilter] | None = None,
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first; a blank query has no hits.

        A filtered search is exact, also where the index has a graph for approximate search: that would miss
        documents behind those that the filter removes.
        """
        check_k(k)
        passing = rows_of(self._documents.columns, filters, len(queries))
        hits: list[list[Hit]] = []
        for vector, rows in zip(self._encoding.queries(self.encoder, queries), passing, strict=True):
            if vector is None:
                hits.append([])
            else:
                hits.append(self._nearest_documents(vector[None], k, rows))
            progress(len(hits), len(queries))
        return hits

    def _nearest_documents(self, vector: Vectors, k: int, rows: NDArray[np.bool_] | None) -> list[Hit]:
        """The k documents nearest to a vector of shape (1, dimensions), among those of some rows of the documents."""
        if vector.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"a query has {vector.shape[1]:,} dimensions, and a document {self.vectors.shape[1]:,}")
        if rows is None:
            nearest = self._nearest.candidates(vector, k)
        else:
            passing = rows if self._rows is None else rows[self._rows]
            nearest = self._nearest.among(np.flatnonzero(passing), vector, k)
        # The summation order of faiss depends on the position of a vector: recomputed, equal vectors score the same.
        vectors = self.vectors[nearest].astype(np.float64)
        scores = inner_products(vectors, vector[0])
        return self._documents.hits(nearest if self._rows is None else self._rows[nearest], scores, k)


def _texts(documents: Iterable[Document]) -> tuple[list[str], dict[str, str]]:
    """The ids of all documents, and id -> text of those with text."""
    texts: dict[str, str] = {}
    for document in documents:
        if document.id in texts:
            raise DataError(f"two documents have the id '{document.id}'")
        texts[document.id] = document.searchable
    with_text = {name: text for name, text in texts.items() if text.strip()}
    if not with_text:
        raise DataError("no document contains text to search")
    return list(texts), with_text
