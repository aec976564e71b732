"""Baselines of the judgment task: the most frequent grade, and a thresholded BM25 score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from searchlora.data.dataset import load_dataset
from searchlora.outputs import Grade
from searchlora.records import Document, Record
from searchlora.tasks.judgment.tuning import best_thresholds, grade_of

#: Baselines are fitted on this many training rows, the first ones.
TRAINING_ROWS = 5_000

COMMONEST, BM25 = "commonest grade", "BM25 score, cut"


def baseline_outputs(records: Sequence[Record], dataset: Path, scale: Sequence[int]) -> Mapping[str, Sequence[Grade]]:
    """Baseline name -> one grade per record, fitted on the first 5,000 training rows; see `fitted_baselines`."""
    return fitted_baselines(records, list(islice(load_dataset(dataset).iter_records("train"), TRAINING_ROWS)), scale)


def fitted_baselines(
    records: Sequence[Record],
    training: Sequence[Record],
    scale: Sequence[int],
    *,
    score: Callable[[Sequence[Record]], Sequence[float]] | None = None,
) -> Mapping[str, Sequence[Grade]]:
    """Baseline name -> one grade per record; empty without a training row.

    * `commonest grade`: always the most frequent grade of the training rows.
    * `BM25 score, cut`: the BM25 score of query and passage divided by the query's highest score, since scores of
      different queries are not comparable; thresholded for the best kappa on the training rows.
    """
    training = [record for record in training if "grade" in record]  # others have a teacher's score
    if not training:
        return {}
    grades = [int(record["grade"]) for record in training]
    frequency = Counter(grades)
    commonest = Grade(max(scale, key=lambda grade: frequency[grade]))
    pairs = [*training, *records]
    scores = relative_scores(pairs, (score or bm25_scores)(pairs))
    training_scores, record_scores = scores[: len(training)], scores[len(training) :]
    thresholds = best_thresholds(training_scores, grades, [str(record["group"]) for record in training], scale)
    return {
        COMMONEST: [commonest] * len(records),
        BM25: [Grade(grade_of(score, thresholds, scale)) for score in record_scores],
    }


def relative_scores(records: Sequence[Record], scores: Sequence[float]) -> list[float]:
    """Each score divided by the highest score of its query; 0 where that is 0."""
    best: dict[str, float] = {}
    for record, score in zip(records, scores, strict=True):
        best[str(record["query"])] = max(score, best.get(str(record["query"]), 0.0))
    return [score / (best[str(record["query"])] or 1.0) for record, score in zip(records, scores, strict=True)]


def bm25_scores(records: Sequence[Record]) -> list[float]:
    """The BM25 score of each pair, with the passages of all pairs as the collection; 0 without a common term."""
    from searchlora.retrieval.bm25 import BM25Index

    texts = [f"{record.get('title', '')} {record['passage']}" for record in records]
    ids = {text: str(number) for number, text in enumerate(dict.fromkeys(texts))}
    index = BM25Index([Document(id_, text) for text, id_ in ids.items()])
    scores = {
        query: {hit.document: hit.score for hit in index.search([query], len(ids))[0]}
        for query in dict.fromkeys(str(record["query"]) for record in records)
    }
    return [scores[str(record["query"])].get(ids[text], 0.0) for record, text in zip(records, texts, strict=True)]
