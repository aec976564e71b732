"""Which rows to label: at random, or about different things.

On BANKING77, a classifier that learns from a diverse sample of 400 rows is as good as one that learns from a random
sample of 800 (`benchmarks/row_sample.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from searchlora.errors import UsageError
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.prompts import input_text
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import GenerationTask

if TYPE_CHECKING:
    from searchlora.retrieval.shared_model import Vectors


@dataclass(frozen=True)
class RowSample:
    """A number of rows, and how they are chosen.

    Examples:
        >>> RowSample.parse("diverse=500")
        RowSample(kind='diverse', size=500, encoder='all-minilm-l6-v2', seed=0)
    """

    kind: Literal["random", "diverse"]
    size: int
    encoder: str = DEFAULT_ENCODER
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> RowSample:
        """The sample that `random=500` or `diverse=500` names. Raises `UsageError` for another text."""
        match = re.fullmatch(r"(random|diverse)=([1-9][0-9]{0,8})", text)
        if match is None:
            raise UsageError(f"'{text}' is no sample", where="--sample", fix="Give random=N or diverse=N.")
        return cls(cast(Literal["random", "diverse"], match[1]), int(match[2]))

    def choose(self, records: Sequence[Record], task: GenerationTask) -> list[int]:
        """The chosen rows in ascending order; all where there are no more than `size`."""
        rows = range(len(records))
        if len(rows) <= self.size:
            return list(rows)
        if self.kind == "random":
            return sorted(random.Random(self.seed).sample(rows, self.size))
        texts = [input_text(task, record) for record in records]
        return diverse_rows(FrozenEncoder(self.encoder).encode(texts), self.size, self.seed)


def diverse_rows(vectors: Vectors, size: int, seed: int = 0) -> list[int]:
    """Of each of `size` clusters (k-means), the row that is nearest to its centre, in ascending order.

    A row that is nearest to two centres counts once, so there may be fewer.

    `vectors`: What rows are about, shape (rows, dimensions).
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin

    from searchlora.retrieval.encoding import normalised

    units = normalised(vectors)
    # Small clusters are not given up: they are what a random sample misses.
    how = {"batch_size": max(2048, 4 * size), "n_init": 1, "reassignment_ratio": 0.0}
    clusters = MiniBatchKMeans(size, random_state=seed, **how).fit(units)
    return sorted(set(pairwise_distances_argmin(clusters.cluster_centers_, units).tolist()))
