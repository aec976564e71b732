"""Which rows to label: a random sample, or one that covers what the rows are about.

On BANKING77, a classifier that learns from a diverse sample of 400 rows is as good as one that learns from a random
sample of 800 (`benchmarks/row_sample.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from searchlora.errors import UsageError
from searchlora.experiments.options import DEFAULT_ENCODER


@dataclass(frozen=True)
class RowSample:
    """A number of rows, and how they are chosen.

    Attributes:
        encoder: Whose vectors say what rows are about.
        seed: Another one gives another sample.

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

    def choose(self, texts: Sequence[str]) -> list[int]:
        """The chosen rows in ascending order; all where there are no more than `size`.

        `diverse`: as many clusters of the vectors as rows are wanted (k-means), and of each the row that is nearest to
        its centre. Rows that are nearest to two centres count once, so there may be fewer.

        Args:
            texts: What each row is about, such as its query.

        Raises:
            BaseModelError: if the encoder does not exist.
        """
        if len(texts) <= self.size:
            return list(range(len(texts)))
        if self.kind == "random":
            return sorted(random.Random(self.seed).sample(range(len(texts)), self.size))
        from sklearn.cluster import MiniBatchKMeans

        from searchlora.retrieval.encoder import Encoder
        from searchlora.retrieval.encoding import normalised

        vectors = normalised(Encoder.load(self.encoder).encode(texts))
        # Small clusters are not given up: they are what a random sample misses.
        how = {"batch_size": max(2048, 4 * self.size), "n_init": 1, "reassignment_ratio": 0.0}
        clusters = MiniBatchKMeans(self.size, random_state=self.seed, **how).fit(vectors)
        return sorted(set(clusters.transform(vectors).argmin(axis=0).tolist()))
