"""Nearest vectors by inner product: exact search, and approximate search in a graph (HNSW).

Sources: Douze et al., "The Faiss library" (arXiv:2401.08281). Malkov and Yashunin, "Efficient and robust approximate
nearest neighbor search using Hierarchical Navigable Small World graphs" (arXiv:1603.09320).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from searchlora.progress import Progress, silent
from searchlora.retrieval.shared_model import Vectors

#: Number of candidates beyond k, so that ties at rank k rarely need a second search.
_MARGIN = 32

#: Vectors that are added at once.
_BLOCK = 8_192


def inner_products(vectors: NDArray[Any], vector: Vectors) -> NDArray[np.float64]:
    """Inner products of rows with a vector, of which each depends on its row only: a library's depend on its place."""
    products: NDArray[np.float64] = (vectors * vector.astype(np.float64)).sum(axis=1)
    return products


class Nearest:
    """Searches vectors: all of them, as faiss' flat index does, or by a graph, which may miss some of the nearest.

    `vectors`: In memory or memory-mapped, shape (documents, dimensions).
    """

    def __init__(self, vectors: Vectors, longest: float, graph: Any = None, effort: int = 64) -> None:
        self._vectors = vectors
        self._longest = longest
        self._graph = graph
        self._effort = effort

    def candidates(self, vector: Vectors, k: int) -> NDArray[np.int64]:
        """Rows of all vectors that may be among the k nearest, given the rounding error of the scores."""
        total = len(self._vectors)
        count = min(k + _MARGIN, total)
        error = self._error(vector)
        while True:
            scores, rows = self._search(vector, count)
            if count == total or rows[-1] < 0 or scores[-1] < scores[k - 1] - error:
                return rows[rows >= 0]
            count = min(2 * count, total)

    def among(self, rows: NDArray[np.int64], vector: Vectors, k: int) -> NDArray[np.int64]:
        """Those of some rows that may be among their k nearest; all of them are compared."""
        if len(rows) <= k:
            return rows
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            scores[start : start + len(block)] = self._vectors[block] @ vector[0]
        threshold = np.partition(scores, len(rows) - k)[len(rows) - k]
        nearest: NDArray[np.int64] = rows[scores >= threshold - self._error(vector)]
        return nearest

    def _error(self, vector: Vectors) -> float:
        """Bound of the difference of two scores by rounding."""
        eps = float(np.finfo(np.float32).eps)
        return 2 * int(vector.shape[1]) * eps * float(np.linalg.norm(vector)) * self._longest

    def _search(self, vector: Vectors, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows, best first, shape (count,); rows are -1 where no more are found."""
        import faiss

        if self._graph is None:
            scores, rows = faiss.knn(vector, self._vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            # faiss itself finds at most as many as it considers, and the last of these are not the nearest.
            considered = max(self._effort, count)
            parameters = faiss.SearchParametersHNSW(efSearch=considered)  # type: ignore[attr-defined]  # stubs
            scores, rows = self._graph.search(vector, count, params=parameters)
        return scores[0], rows[0]


class Hnsw(BaseModel):
    """A graph of neighbours (HNSW)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hnsw"] = "hnsw"
    m: int = Field(32, ge=2)
    ef_construction: int = Field(200, ge=1)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"hnsw-{self.m}-{self.ef_construction}.faiss"

    def build(self, vectors: Vectors, progress: Progress = silent) -> Any:
        """The faiss index of the vectors. With several threads, equal vectors may give another graph each time."""
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        for start in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK])
            index.add(block)
            progress(start + len(block), len(vectors), "vectors indexed")
        return index


def write_graph(index: Any, file: Path) -> None:
    """Write a faiss index by faiss' own writer, which pickles nothing. Raises `OSError` if it cannot be written."""
    import faiss

    try:
        faiss.write_index(index, str(file))
    except RuntimeError as error:
        raise OSError(str(error)) from None


def read_graph(file: Path) -> Any:
    """Open what `write_graph` wrote, memory-mapped; on Windows it is read."""
    import faiss

    flag = 0 if sys.platform == "win32" else faiss.IO_FLAG_MMAP_IFC  # faiss maps files on POSIX systems only
    try:
        return faiss.read_index(str(file), flag)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())[-200:]}") from None
