"""What a judge must beat: no model at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from searchlora.data.dataset import load_dataset
from searchlora.outputs import Grade
from searchlora.records import Document, Record
from searchlora.tasks.judgment.cuts import best_cuts, cut

#: Training rows that the baselines learn from, the first ones.
_ROWS = 5_000

COMMONEST, BM25 = "commonest grade", "BM25 score, cut"


def baseline_outputs(records: Sequence[Record], dataset: Path, scale: Sequence[int]) -> Mapping[str, Sequence[Grade]]:
    """Baseline grades by name, learnt from the first 5,000 training rows of a dataset; see `learnt`."""
    return learnt(records, list(islice(load_dataset(dataset).iter_records("train"), _ROWS)), scale)


def learnt(
    records: Sequence[Record],
    training: Sequence[Record],
    scale: Sequence[int],
    *,
    score: Callable[[Sequence[Record]], Sequence[float]] | None = None,
) -> Mapping[str, Sequence[Grade]]:
    """Baseline grades by name.

    * `commonest grade`: always the one that is commonest in training.
    * `BM25 score, cut`: the score of query and passage as a share of the best that the query has, since scores of
      different queries do not compare; at cut points that are best for kappa in training.

    Args:
        score: The BM25 score of each pair; None: with the passages of `training` and of `records` as the collection.
    """
    grades = [int(record["grade"]) for record in training]
    counted = Counter(grades)
    commonest = Grade(max(scale, key=lambda grade: counted[grade]))
    pairs = [*training, *records]
    scores = _shares(pairs, (score or bm25_scores)(pairs))
    known, asked = scores[: len(training)], scores[len(training) :]
    cuts = best_cuts(known, grades, [str(record["group"]) for record in training], scale)
    return {
        COMMONEST: [commonest] * len(records),
        BM25: [Grade(cut(score, cuts, scale)) for score in asked],
    }


def _shares(records: Sequence[Record], scores: Sequence[float]) -> list[float]:
    """Each score over the best of its query; 0 where that is 0."""
    best: dict[str, float] = {}
    for record, score in zip(records, scores, strict=True):
        best[str(record["query"])] = max(score, best.get(str(record["query"]), 0.0))
    return [score / (best[str(record["query"])] or 1.0) for record, score in zip(records, scores, strict=True)]


def bm25_scores(records: Sequence[Record]) -> list[float]:
    """The BM25 score of each pair, over the passages of all of them as the collection; 0 without a word in common."""
    from searchlora.retrieval.bm25 import BM25Index

    texts = [f"{record.get('title', '')} {record['passage']}" for record in records]
    place = {text: str(number) for number, text in enumerate(dict.fromkeys(texts))}
    index = BM25Index([Document(number, text) for text, number in place.items()])
    queries = list(dict.fromkeys(str(record["query"]) for record in records))
    found = {
        query: {hit.document: hit.score for hit in index.search([query], len(place))[0]} for query in queries
    }  # fmt: skip
    return [found[str(record["query"])].get(place[text], 0.0) for record, text in zip(records, texts, strict=True)]
