"""Baselines of the judgment task over a frozen encoder: the cosine, and gradient boosting of classical features.

Both give a score, which thresholds turn into a grade. The thresholds are chosen like those of an adapter, on training
rows: for boosting on its scores of queries that it has not learned from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from searchlora.encoder_baseline import Encode, EncoderBaseline
from searchlora.outputs import Grade
from searchlora.records import Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.tasks.judgment.baselines import TRAINING_ROWS, bm25_scores, relative_scores
from searchlora.tasks.judgment.tuning import best_thresholds, grade_of, rater_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORDS = Analyzer(stopwords=None)

#: Parts of the training queries; boosting scores the rows of one part with what it learned from the others.
_FOLDS = 5

#: Few and small trees: they had the best rank correlation with the grades in cross-validation over queries of TREC DL
#: 2020, of 50 to 200 trees with 7 to 31 leaves.
_BOOSTING = {"max_iter": 50, "learning_rate": 0.05, "max_leaf_nodes": 7, "min_samples_leaf": 20, "random_state": 0}


class _CutBaseline(EncoderBaseline):
    """A score of each pair, cut into grades by thresholds."""

    serves = False  # a grade without probabilities orders too little, and features depend on the other pairs

    def __init__(self, scale: Sequence[int]) -> None:
        self._scale = scale

    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        del validation
        rows = list(islice((row for row in training if "grade" in row), TRAINING_ROWS))
        gold, groups = [int(row["grade"]) for row in rows], [str(row["group"]) for row in rows]
        self._thresholds = best_thresholds(self._learn(rows, encode), gold, groups, self._scale)

    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[Grade]:
        scores = self._scores(records, encode)
        return [Grade(grade_of(float(score), self._thresholds, self._scale)) for score in scores]

    @abstractmethod
    def _learn(self, rows: Sequence[Record], encode: Encode) -> Any:
        """Learn the score, and return those of the rows by which the thresholds are chosen."""

    @abstractmethod
    def _scores(self, records: Sequence[Record], encode: Encode) -> Any:
        """One score per record."""


class CosineBaseline(_CutBaseline):
    """The cosine of query and passage, cut into grades."""

    name = "cosine, cut"

    def _learn(self, rows: Sequence[Record], encode: Encode) -> Any:
        return cosines(rows, encode)

    def _scores(self, records: Sequence[Record], encode: Encode) -> Any:
        return cosines(records, encode)


class BoostingBaseline(_CutBaseline):
    """Gradient-boosted trees over classical features of a pair (`features`), cut into grades.

    `more`: Further features of records, shape (records, features); of training records as of unknown ones.
    """

    name = "+ boosting"

    def __init__(self, scale: Sequence[int], more: Callable[[Sequence[Record]], NDArray[np.float64]] | None = None):
        super().__init__(scale)
        self._more = more

    def _features(self, records: Sequence[Record], encode: Encode) -> NDArray[np.float64]:
        own = features(records, encode)
        return own if self._more is None else np.hstack([own, self._more(records)])

    def _learn(self, rows: Sequence[Record], encode: Encode) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.model_selection import GroupKFold, cross_val_predict

        inputs, shares = self._features(rows, encode), np.array([rater_shares(row, self._scale) for row in rows])
        expected = shares @ np.array(self._scale)
        groups = [str(row["group"]) for row in rows]
        model = HistGradientBoostingRegressor(**_BOOSTING)
        self._model: Any = model.fit(inputs, expected)
        folds = min(_FOLDS, len(set(groups)))
        if folds > 1:
            return cross_val_predict(model, inputs, expected, groups=groups, cv=GroupKFold(folds))
        return model.predict(inputs)  # deep pools of one query

    def _scores(self, records: Sequence[Record], encode: Encode) -> Any:
        return self._model.predict(self._features(records, encode))


def cosines(records: Sequence[Record], encode: Encode) -> NDArray[np.float64]:
    """The cosine of query and passage of each pair, shape (records,)."""
    queries = encode([str(record["query"]) for record in records])
    passages = encode([_text(record) for record in records])
    values: NDArray[np.float64] = (queries * passages).sum(axis=1, dtype=np.float64)
    return values


def features(records: Sequence[Record], encode: Encode) -> NDArray[np.float64]:
    """Features of each pair, shape (records, 7).

    BM25 over the passages of all pairs, and over their titles, divided by the query's highest score, since other pairs
    have other scores; the cosine, and its difference to the query's highest; words of query and passage; and the share
    of the query's words in title and passage.
    """
    queries = [str(record["query"]) for record in records]
    titles = [{"query": record["query"], "passage": str(record.get("title", ""))} for record in records]
    has_titles = any(title["passage"] for title in titles)
    bm25, of_titles = bm25_scores(records), bm25_scores(titles) if has_titles else [0.0] * len(records)
    cosine = cosines(records, encode)
    best: dict[str, float] = {}
    for query, value in zip(queries, cosine, strict=True):
        best[query] = max(value, best.get(query, -1.0))
    asked, words = [set(_WORDS(query)) for query in queries], [_WORDS(_text(record)) for record in records]
    columns = [
        relative_scores(records, bm25),
        relative_scores(records, of_titles),
        cosine,
        [value - best[query] for query, value in zip(queries, cosine, strict=True)],
        [len(query) for query in asked],
        [len(passage) for passage in words],
        [len(query.intersection(passage)) / max(1, len(query)) for query, passage in zip(asked, words, strict=True)],
    ]
    return np.array(columns, dtype=np.float64).T


def _text(record: Record) -> str:
    return f"{record.get('title', '')} {record['passage']}".strip()
