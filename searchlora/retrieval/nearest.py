"""Nearest vectors by inner product: exact search, and approximate search by HNSW or IVF.

Sources: Douze et al., "The Faiss library" (arXiv:2401.08281). HNSW: Malkov and Yashunin, "Efficient and robust
approximate nearest neighbor search using Hierarchical Navigable Small World graphs" (arXiv:1603.09320). IVF: Sivic and
Zisserman, "Video Google" (ICCV 2003); Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search"
(TPAMI 2011).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from searchlora.progress import Progress, silent
from searchlora.retrieval.encoder import Vectors

#: Number of candidates beyond k, so that ties at rank k rarely need a second search.
_MARGIN = 32

#: Vectors that are added at once.
_BLOCK = 8_192

#: Vectors per list that k-means of IVF is trained on: its memory, and most of its time.
_TRAINED_PER_LIST = 64


def inner_products(vectors: NDArray[Any], vector: Vectors) -> NDArray[np.float64]:
    """Inner products of rows with a vector, of which each depends on its row only: a library's depend on its place.

    Args:
        vectors: Shape (rows, dimensions).
        vector: Shape (dimensions,).
    """
    products: NDArray[np.float64] = (vectors * vector.astype(np.float64)).sum(axis=1)
    return products


class Nearest:
    """Searches vectors by comparing a query with all of them, as faiss' flat index does.

    Args:
        vectors: In memory or memory-mapped, shape (documents, dimensions).
        longest: Length of the longest vector.
    """

    def __init__(self, vectors: Vectors, longest: float) -> None:
        self._vectors = vectors
        self._longest = longest

    def candidates(self, vector: Vectors, k: int) -> NDArray[np.int64]:
        """Rows of all vectors that may be among the k nearest, given the rounding error of the scores.

        Args:
            vector: Shape (1, dimensions).
        """
        total = len(self._vectors)
        count = min(k + _MARGIN, total)
        error = self._error(vector)
        while True:
            scores, rows = self._search(vector, count)
            if count == total or rows[-1] < 0 or scores[-1] < scores[k - 1] - error:
                return rows[rows >= 0]
            count = min(2 * count, total)

    def among(self, rows: NDArray[np.int64], vector: Vectors, k: int) -> NDArray[np.int64]:
        """Those of some rows that may be among their k nearest; all of them are compared.

        Args:
            rows: Distinct.
            vector: Shape (1, dimensions).
        """
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

        scores, rows = faiss.knn(vector, self._vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        return scores[0], rows[0]


class Hnsw(BaseModel):
    """A graph of neighbours (HNSW).

    Attributes:
        m: Neighbours per vector and layer; the lowest layer has twice as many.
        ef_construction: Candidates considered for a vector while the graph is built.
    """

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
        return _filled(index, vectors, progress)

    def effort(self, index: Any, amount: int, count: int) -> Any:
        """Search parameters for `count` hits that consider `amount` candidates per query, and no fewer than hits."""
        import faiss

        del index
        # faiss itself finds at most as many as it considers, and the last of these are not the nearest.
        return faiss.SearchParametersHNSW(efSearch=max(amount, count))  # type: ignore[attr-defined]  # stubs


class Ivf(BaseModel):
    """Lists of vectors by their nearest centroid (IVF).

    Attributes:
        lists: Number of centroids; None: four times the square root of the number of vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ivf"] = "ivf"
    lists: int | None = Field(None, ge=1)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"ivf-{self.lists or 'sqrt'}.faiss"

    def build(self, vectors: Vectors, progress: Progress = silent) -> Any:
        """The faiss index of the vectors; k-means is trained on evenly spaced ones."""
        import faiss

        count = min(self.lists or max(1, round(4 * math.sqrt(len(vectors)))), len(vectors))
        quantizer = faiss.IndexFlatIP(vectors.shape[1])
        index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], count, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # a small collection is no reason for a warning on stderr
        step = max(1, len(vectors) // (count * _TRAINED_PER_LIST))
        index.train(np.ascontiguousarray(vectors[::step]))
        return _filled(index, vectors, progress)

    def effort(self, index: Any, amount: int, count: int) -> Any:
        """Search parameters that look into `amount` lists per query."""
        import faiss

        del count
        return faiss.SearchParametersIVF(nprobe=min(amount, index.nlist))  # type: ignore[call-arg]


#: A structure for approximate search.
Structure = Hnsw | Ivf


class ApproximatelyNearest(Nearest):
    """Searches by a structure; it may miss some of the nearest vectors.

    Args:
        vectors, longest: As of `Nearest`.
        index: What `Structure.build` or `read_structure` returned.
        effort: Candidates per query for HNSW, at least as many as hits; lists per query for IVF. More find more, and
            take longer.
    """

    def __init__(self, vectors: Vectors, longest: float, structure: Structure, index: Any, effort: int) -> None:
        super().__init__(vectors, longest)
        self._structure = structure
        self._index = index
        self._effort = effort

    def _search(self, vector: Vectors, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        parameters = self._structure.effort(self._index, self._effort, count)
        scores, rows = self._index.search(vector, count, params=parameters)
        return scores[0], rows[0]


def write_structure(index: Any, file: Path) -> None:
    """Write a faiss index by faiss' own writer, which pickles nothing. Raises `OSError` if it cannot be written."""
    import faiss

    try:
        faiss.write_index(index, str(file))
    except RuntimeError as error:
        raise OSError(str(error)) from None


def read_structure(structure: Structure, file: Path, vectors: int, dimensions: int) -> Any:
    """Open what `write_structure` wrote, memory-mapped; on Windows it is read.

    Args:
        vectors, dimensions: Number and dimensions of the vectors in it.

    Raises:
        ValueError: if the file is missing, damaged, or holds something else.
    """
    import faiss

    flag = faiss.IO_FLAG_MMAP if isinstance(structure, Ivf) else faiss.IO_FLAG_MMAP_IFC
    if sys.platform == "win32":  # faiss maps files on POSIX systems only
        flag = 0
    try:
        index = faiss.read_index(str(file), flag)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())[-200:]}") from None
    kind = faiss.IndexIVFFlat if isinstance(structure, Ivf) else faiss.IndexHNSWFlat
    opened = (type(index), index.ntotal, index.d, index.metric_type)
    if opened != (kind, vectors, dimensions, faiss.METRIC_INNER_PRODUCT):
        raise ValueError(f"{file}: it is a {type(index).__name__} of {index.ntotal} × {index.d} numbers")
    return index


def _filled(index: Any, vectors: Vectors, progress: Progress) -> Any:
    for start in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[start : start + _BLOCK])
        index.add(block)
        progress(start + len(block), len(vectors), "vectors indexed")
    return index
