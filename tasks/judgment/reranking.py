"""Reranking: the passages of a search ordered by the expected grade, or by the log odds of a relevant one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchlora.outputs import Grade
from searchlora.records import Hit, Record, SearchContext

#: What passages are ordered by.
EXPECTED_GRADE, LOG_ODDS = "expected_grade", "log_odds"

#: Probabilities are kept so far from 0 and 1 that their log odds are finite.
_SMALLEST = 1e-9

#: The smallest score difference that trec_eval, which ranks by single-precision scores, distinguishes at any grade.
_STEP = 2e-6


def passage_records(context: SearchContext) -> list[Record]:
    """One record per passage of a search, with the id `query-id document-id`."""
    return [
        {
            "id": f"{context['id']} {passage['id']}",
            "group": str(context["id"]),
            "query": context["query"],
            "title": passage.get("title", ""),
            "passage": passage["text"],
        }
        for passage in context["passages"]
    ]


def reranked(
    context: SearchContext,
    outputs: Sequence[Grade],
    scale: Sequence[int],
    relevant: int,
    weight: float = 0.0,
    rank_by: str = EXPECTED_GRADE,
) -> Mapping[str, Any]:
    """The fields that reranking writes to a search context."""
    first_stage = _standardised(_first_stage(context)) if weight else [0.0] * len(outputs)
    own = [expected_grade(output, scale) for output in outputs]
    if rank_by == LOG_ODDS:
        own = _standardised([log_odds(output, scale, relevant) for output in outputs])
    combined = [mine + weight * score for mine, score in zip(own, first_stage, strict=True)]
    order = sorted(range(len(outputs)), key=combined.__getitem__, reverse=True)
    judged = [(context["passages"][place], outputs[place]) for place in order]
    scores = _strictly_decreasing([combined[place] for place in order])
    passages = [{**passage, "score": score} for (passage, _), score in zip(judged, scores, strict=True)]
    lowest = min([float(scale[0]), *scores])
    judged_ids = {passage["id"] for passage in passages}
    known = {hit.document: hit for hit in context.get("hits", [])}  # a search engine's hits hold their documents
    unjudged = [hit for hit in known.values() if hit.document not in judged_ids]
    return {
        "passages": passages,
        "hits": [
            *(replace(known.get(each["id"], Hit(each["id"], 0.0)), score=each["score"]) for each in passages),
            *(replace(hit, score=lowest - rank) for rank, hit in enumerate(unjudged, start=1)),
        ],
        "grades": [
            {
                "id": passage["id"],
                "grade": output.value,
                "expected": expected_grade(output, scale),
                "relevance": relevance(output, scale, relevant),
                "probabilities": output.probabilities,
                "reason": output.reason,
            }
            for passage, output in judged
        ],
    }


def _first_stage(context: SearchContext) -> list[float]:
    """The first stage's score of each passage."""
    by_hit = {hit.document: hit.score for hit in context.get("hits", [])}
    return [by_hit.get(passage["id"], passage.get("score", 0.0)) for passage in context["passages"]]


def _standardised(scores: Sequence[float]) -> list[float]:
    """The scores with mean 0 and deviation 1; 0 where all are equal."""
    if not scores:
        return []
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    return [(score - mean) / deviation if deviation else 0.0 for score in scores]


def expected_grade(output: Grade, scale: Sequence[int]) -> float:
    """The mean grade under an output's probabilities; its grade where it has none."""
    if output.probabilities is None:
        return float(output.value)
    return math.fsum(grade * share for grade, share in zip(scale, output.probabilities, strict=True))


def relevance(output: Grade, scale: Sequence[int], relevant: int) -> float:
    """The probability of the grades from `relevant` on; 0 or 1, by its grade, for an output without probabilities."""
    if output.probabilities is None:
        return float(output.value >= relevant)
    return math.fsum(share for grade, share in zip(scale, output.probabilities, strict=True) if grade >= relevant)


def log_odds(output: Grade, scale: Sequence[int], relevant: int) -> float:
    """The log odds of the grades from `relevant` on, in nats."""
    share = min(max(relevance(output, scale, relevant), _SMALLEST), 1 - _SMALLEST)
    return math.log(share / (1 - share))


def _strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """The scores lowered as little as possible so that all differ: run files break ties by id, not by order."""
    result: list[float] = []
    for score in scores:
        result.append(min(score, result[-1] - _STEP) if result else score)
    return result
