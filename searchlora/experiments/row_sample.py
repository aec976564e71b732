"""Which rows to label: at random, about different things, or those of which a model that has learned some is unsure.

On BANKING77, a classifier that learns from a diverse sample of 400 rows is as good as one that learns from a random
sample of 800. Where the second half of 800 rows or more are chosen by uncertainty, it is better still; of 200, worse
(`benchmarks/row_sample.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from searchlora.data.splits import SPLITS
from searchlora.errors import DataError, UsageError
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.outputs import Label
from searchlora.pipelines.stages.classical import learned_model, unchanged_dataset
from searchlora.pipelines.stages.deciding import has_probability
from searchlora.prompts import input_text
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import GenerationTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from searchlora.retrieval.shared_model import Vectors

#: For each row that is chosen by uncertainty, so many of the least sure ones are candidates: the least sure alone are
#: alike, and teach less (`benchmarks/row_sample.py`).
CANDIDATES = 4


@dataclass(frozen=True)
class RowSample:
    """A number of rows, and how they are chosen.

    Attributes:
        encoder: Whose vectors say what rows are about.
        seed: Another one gives another sample.
        labelled: Folder of a dataset of rows that are labelled already, for `uncertain`.

    Examples:
        >>> RowSample.parse("diverse=500")
        RowSample(kind='diverse', size=500, encoder='all-minilm-l6-v2', seed=0, labelled=None)
    """

    kind: Literal["random", "diverse", "uncertain"]
    size: int
    encoder: str = DEFAULT_ENCODER
    seed: int = 0
    labelled: str | Path | None = None

    @classmethod
    def parse(cls, text: str, labelled: str | Path | None = None) -> RowSample:
        """The sample that `random=500`, `diverse=500` or `uncertain=500` names.

        Raises:
            UsageError: for another text, and if `labelled` and `uncertain` are not given together.
        """
        if text.startswith("uncertain=") != (labelled is not None):
            raise UsageError("--sample uncertain=N and --labelled belong together", fix="Give both, or neither.")
        match = re.fullmatch(r"(random|diverse|uncertain)=([1-9][0-9]{0,8})", text)
        if match is None:
            fix = "Give random=N, diverse=N or uncertain=N."
            raise UsageError(f"'{text}' is no sample", where="--sample", fix=fix)
        return cls(cast(Literal["random", "diverse", "uncertain"], match[1]), int(match[2]), labelled=labelled)

    def choose(self, records: Sequence[Record], task: GenerationTask) -> list[int]:
        """The chosen rows in ascending order; all where there are no more than `size`.

        Args:
            records: With the fields that the task reads.

        Raises:
            BaseModelError: if the encoder does not exist.
            UsageError: for `uncertain`, if answers of the task have no probability, or the dataset is of another task.
            DataError: for `uncertain`, if all rows are labelled, or the dataset was changed after it was built.
        """
        rows = range(len(records))
        if self.kind == "uncertain":
            return self._uncertain(records, task)
        if len(rows) <= self.size:
            return list(rows)
        if self.kind == "random":
            return sorted(random.Random(self.seed).sample(rows, self.size))
        texts = [input_text(task, record) for record in records]
        return diverse_rows(FrozenEncoder(self.encoder).encode(texts), self.size, self.seed)

    def _uncertain(self, records: Sequence[Record], task: GenerationTask) -> list[int]:
        """Rows about different things among the least sure ones that are not labelled."""
        dataset, encoder = unchanged_dataset(self.labelled or ""), FrozenEncoder(self.encoder)
        if dataset.card.task != task.name:
            raise UsageError(f"is a dataset of the task '{dataset.card.task}'", where=str(self.labelled))
        task = task.bound(dataset.settings)
        if not has_probability(task):
            what = f"answers of the task '{task.name}' have no probability"
            fix = "Only one label of a closed set has one: give random=N or diverse=N."
            raise UsageError(what, where="--sample", fix=fix)
        known = {input_text(task, record) for split in SPLITS for record in dataset.iter_records(split)}
        texts = [input_text(task, record) for record in records]
        left = [row for row, text in enumerate(texts) if text not in known]
        if not left:
            raise DataError("all rows are labelled in it", where=str(self.labelled))
        if len(left) <= self.size:
            return left
        model = learned_model(task, dataset, encoder.encode)
        margins = margins_of(model.predict([records[row] for row in left], encoder.encode))

        def vectors(places: Sequence[int]) -> Vectors:
            return encoder.encode([texts[left[place]] for place in places])

        return [left[place] for place in unsure_rows(margins, vectors, self.size, self.seed)]


def margins_of(labels: Sequence[Label]) -> NDArray[np.float64]:
    """The difference of the two highest probabilities of each label, shape (labels,)."""
    ordered = np.sort(np.array([label.probabilities for label in labels]), axis=1)
    margins: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margins


def unsure_rows(
    margins: NDArray[np.float64], vectors: Callable[[Sequence[int]], Vectors], size: int, seed: int = 0
) -> list[int]:
    """Rows about different things among those with the smallest margins, in ascending order.

    Args:
        margins: Of all rows, shape (rows,).
        vectors: The vectors of some rows, shape (rows, dimensions).
    """
    unsure = sorted(np.argsort(margins, kind="stable")[: CANDIDATES * size].tolist())
    if len(unsure) <= size:
        return unsure
    return [unsure[place] for place in diverse_rows(vectors(unsure), size, seed)]


def diverse_rows(vectors: Vectors, size: int, seed: int = 0) -> list[int]:
    """Of each of `size` clusters (k-means), the row that is nearest to its centre, in ascending order.

    A row that is nearest to two centres counts once, so there may be fewer.

    Args:
        vectors: What rows are about, shape (rows, dimensions).
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin

    from searchlora.retrieval.encoding import normalised

    units = normalised(vectors)
    # Small clusters are not given up: they are what a random sample misses.
    how = {"batch_size": max(2048, 4 * size), "n_init": 1, "reassignment_ratio": 0.0}
    clusters = MiniBatchKMeans(size, random_state=seed, **how).fit(units)
    return sorted(set(pairwise_distances_argmin(clusters.cluster_centers_, units).tolist()))
