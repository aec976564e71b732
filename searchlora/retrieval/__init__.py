"""Finding documents: BM25 now, dense retrieval and fusion later."""

from __future__ import annotations

from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.retriever import Retriever

__all__ = ["Analyzer", "BM25Index", "Retriever"]
