"""Retrieval: lexical (BM25), dense, and rank fusion."""

from __future__ import annotations

from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.fusion import Fused, Source, fuse
from searchlora.retrieval.retriever import Retriever

__all__ = ["Analyzer", "BM25Index", "DenseIndex", "Encoder", "Fused", "Retriever", "Source", "fuse"]
