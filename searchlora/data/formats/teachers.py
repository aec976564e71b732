"""Scores of teachers: systems without weights here, of which run files hold what they gave each document of a query."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from searchlora.eval.trec import Run


def teacher_scores(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Topic -> document -> mean of the runs' standardised scores.

    Scores of different systems have different units. Those of a run are standardised within each topic (mean 0,
    deviation 1). A document that a run lacks has the lowest score that the run gives for the topic.

    Examples:
        >>> first, second = {"q": {"a": 9.0, "b": 5.0, "c": 1.0}}, {"q": {"b": 0.9, "a": 0.1}}
        >>> {document: round(score, 2) for document, score in teacher_scores([first, second])["q"].items()}
        {'a': 0.11, 'b': 0.5, 'c': -1.11}
    """
    standardised = [{topic: _standardised(scores) for topic, scores in run.items() if scores} for run in runs]
    found: dict[str, dict[str, float]] = {}
    for topic in dict.fromkeys(topic for run in standardised for topic in run):
        of_runs = [run[topic] for run in standardised if topic in run]
        lowest = [min(scores.values()) for scores in of_runs]
        documents = dict.fromkeys(document for scores in of_runs for document in scores)
        found[topic] = {
            document: statistics.fmean(
                scores.get(document, least) for scores, least in zip(of_runs, lowest, strict=True)
            )
            for document in documents
        }
    return found


def _standardised(scores: Mapping[str, float]) -> dict[str, float]:
    mean, deviation = statistics.fmean(scores.values()), statistics.pstdev(scores.values())
    return {document: (score - mean) / deviation if deviation else 0.0 for document, score in scores.items()}
