"""Lexical retrieval by BM25.

The score of a document is a sum over the terms of the query, in the variant of Lucene. A term contributes

    ln(1 + (N - df + 0.5) / (df + 0.5)) · tf / (tf + k1 · (1 - b + b · length / mean length))

where N is the number of documents, df the number of those with the term, tf its count in the document, and length the
number of terms of the document. Ties are broken by descending document id, as in trec_eval.

Sources: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009). Variants: Kamphuis, de
Vries, Boytsov and Lin, "Which BM25 Do You Mean?" (ECIR 2020).
"""

from __future__ import annotations

import copy
import io
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, UsageError
from searchlora.progress import Progress, silent
from searchlora.records import Document, Hit
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.field_filter import FieldColumns, FieldFilter, rows_of
from searchlora.retrieval.retriever import IndexedDocuments, check_k, tie_order

#: Number of documents between two progress calls.
_STEP = 1_000


class BM25Index:
    """A BM25 index: built in memory, or memory-mapped from a folder by `load`.

    `fields`: Field -> boost, a whole number: the field counts as if it stood in the document so often (Robertson,
    Zaragoza and Taylor, "Simple BM25 Extension to Multiple Weighted Fields", CIKM 2004). None: title and text, once
    each.

    Examples:
        >>> index = BM25Index([Document("1", "rain jacket"), Document("2", "wool socks")])
        >>> [[hit.document for hit in hits] for hits in index.search(["jacket", "tent"], 10)]
        [['1'], []]
    """

    def __init__(
        self,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        analyzer: Analyzer | None = None,
        fields: Mapping[str, int] | None = None,
        spool: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        import bm25s

        if k1 < 0 or not 0 <= b <= 1:
            raise UsageError(f"k1={k1}, b={b} is out of range", fix="k1 is at least 0, b is between 0 and 1.")
        if fields is not None and (not fields or min(fields.values()) < 1):
            raise UsageError(
                f"the boosts {dict(fields)} are out of range", fix="Give a field with a boost of 1 or more."
            )
        self._fields = fields
        self.analyzer = analyzer or Analyzer()
        vocabulary: dict[str, int] = {}
        with io.BytesIO() if spool is None else tempfile.TemporaryFile(dir=spool) as file:
            ids, corpus = self._read(documents, vocabulary, file, progress)
            self._scorer = bm25s.BM25(method="lucene", k1=k1, b=b)
            built = self._scorer.build_index_from_ids(range(len(vocabulary)), corpus, show_progress=False)
        self._scorer.scores = built
        self._scorer.nonoccurrence_array = None  # of other methods; bm25s reads it without having set it
        self._vocabulary = self._scorer.vocab_dict = vocabulary
        self._documents = IndexedDocuments(ids, tie_order(ids))

    @classmethod
    def load(cls, folder: Path, documents: IndexedDocuments, analyzer: Analyzer) -> BM25Index:
        """The index that `save` wrote, memory-mapped; its hits are those of the saved index."""
        import bm25s

        index = cls.__new__(cls)
        index._documents = documents
        index._fields = None  # of documents, which are indexed already
        index.analyzer = analyzer
        index._scorer = bm25s.BM25.load(folder, mmap=True)
        index._vocabulary = index._scorer.vocab_dict
        # Plain views: the subclass `numpy.memmap` makes each access several times slower.
        for name in ("data", "indices", "indptr"):
            index._scorer.scores[name] = index._scorer.scores[name].view(np.ndarray)
        return index

    def save(self, folder: Path) -> int:
        """Write the matrix and the vocabulary into a folder, as bm25s saves them."""
        self._scorer.save(folder, show_progress=False)
        return len(self._vocabulary)

    def __len__(self) -> int:
        return len(self._documents.ids)

    @property
    def terms(self) -> int:
        """Number of distinct terms."""
        return len(self._vocabulary)

    def filterable(self, columns: FieldColumns) -> BM25Index:
        """The same index, whose searches can be filtered by the fields of its documents."""
        index = copy.copy(self)
        index._documents = replace(self._documents, columns=columns)
        return index

    def search(
        self,
        queries: Sequence[str],
        k: int,
        progress: Progress = silent,
        *,
        filters: Sequence[FieldFilter] | None = None,
    ) -> list[list[Hit]]:
        """At most `k` hits per query, best first; a document without a query term is never a hit."""
        check_k(k)
        hits = []
        for query, rows in zip(queries, rows_of(self._documents.columns, filters, len(queries)), strict=True):
            hits.append(self._search(query, k, rows))
            progress(len(hits), len(queries))
        return hits

    def contributions(self, query: str, document: str) -> dict[str, float]:
        """What each word of a query adds to the score of a document, in order; 0 for a word that it does not have.

        A word that the query repeats counts each time, so the sum is the score. Stop words are left out.

        Examples:
            >>> index = BM25Index([Document("1", "rain jacket"), Document("2", "wool socks")])
            >>> shares = index.contributions("a blue rain jacket", "1")
            >>> [word for word, share in shares.items() if share == 0], len(shares)
            (['blue'], 3)
        """
        words = replace(self.analyzer, stemmer=None)(query)
        shares = dict.fromkeys(words, 0.0)
        row = self._documents.ids.index(document)
        for word in words:
            shares[word] += sum(float(self._scores([term])[row]) for term in self._term_ids(word))
        return shares

    def _scores(self, term_ids: list[int]) -> NDArray[np.float32]:
        """The scores of all documents, shape (documents,)."""
        scores: NDArray[np.float32] = self._scorer.get_scores_from_ids(term_ids)
        return scores

    def _term_ids(self, text: str) -> list[int]:
        numbers = (self._vocabulary.get(term) for term in self.analyzer(text))
        return [number for number in numbers if number is not None]

    def _search(self, query: str, k: int, rows: NDArray[np.bool_] | None) -> list[Hit]:
        term_ids = self._term_ids(query)
        if not term_ids:
            return []
        scores = self._scores(term_ids)
        matching = np.flatnonzero(scores > 0 if rows is None else (scores > 0) & rows)
        if len(matching) > k:
            # Ties with the k-th best are kept, so that they are broken by id.
            threshold = np.partition(scores[matching], len(matching) - k)[len(matching) - k]
            matching = matching[scores[matching] >= threshold]
        return self._documents.hits(matching, scores[matching], k)

    def _terms(self, document: Document) -> list[str]:
        if self._fields is None:
            return self.analyzer(document.searchable)
        return [term for name, boost in self._fields.items() for term in self.analyzer(document.field(name)) * boost]

    def _read(
        self, documents: Iterable[Document], vocabulary: dict[str, int], file: IO[bytes], progress: Progress
    ) -> tuple[list[str], _TermLists]:
        ids: dict[str, None] = {}
        corpus = _TermLists(file)
        missing = set(self._fields or ()) - {"title", "text"}
        for document in documents:
            if document.id in ids:
                raise DataError(f"two documents have the id '{document.id}'")
            ids[document.id] = None
            if missing:
                missing -= document.metadata.keys()
            corpus.append(array("i", [vocabulary.setdefault(term, len(vocabulary)) for term in self._terms(document)]))
            if len(ids) % _STEP == 0:
                progress(len(ids), None, "documents indexed")
        if ids and missing:
            raise DataError(
                f"no document has the field '{min(missing)}'",
                fix=f"Fields of the last document: {', '.join(['title', 'text', *document.metadata])}.",
            )
        if not vocabulary:
            raise DataError("no document contains a term to search")
        progress(len(ids), len(ids), "documents indexed")
        return list(ids), corpus


class _TermLists:
    """The term ids of all documents, in a file; what bm25s needs of a list of lists."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lengths = array("q")

    def append(self, terms: array[int]) -> None:
        self._lengths.append(len(terms))
        self._file.write(terms.tobytes())

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[array[int]]:
        self._file.seek(0)
        for length in self._lengths:
            terms = array("i")
            terms.frombytes(self._file.read(length * terms.itemsize))
            yield terms
