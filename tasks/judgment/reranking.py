"""The passages of a search in the order of their expected grades."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.outputs import Grade
from searchlora.records import Hit, Record, SearchContext

#: What trec_eval, which ranks by scores in single precision, holds apart at any grade.
_STEP = 2e-6


def records(context: SearchContext) -> list[Record]:
    """A record for each passage of a search, its id `query-id document-id`."""
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


def reranked(context: SearchContext, outputs: Sequence[Grade], scale: Sequence[int]) -> Mapping[str, Any]:
    """What a search becomes when its passages (best first) were given these grades, in the same order.

    Returns:
        `passages` by expected grade, which is their new `score`; `hits` likewise, those without a passage behind, in
        their old order, with scores below the scale; `grades`, of each passage its `id`, `grade`, `expected` grade,
        `probabilities` (one per grade of the scale, or None) and `reason` (or None). Equal ones keep their order.
    """
    judged = sorted(
        zip(context["passages"], outputs, strict=True), key=lambda pair: expected(pair[1], scale), reverse=True
    )
    scores = _falling([expected(output, scale) for _, output in judged])
    passages = [{**passage, "score": score} for (passage, _), score in zip(judged, scores, strict=True)]
    seen = {passage["id"] for passage in passages}
    behind = [hit for hit in context.get("hits", []) if hit.document not in seen]
    return {
        "passages": passages,
        "hits": [
            *(Hit(passage["id"], passage["score"]) for passage in passages),
            *(Hit(hit.document, float(scale[0] - place)) for place, hit in enumerate(behind, start=1)),
        ],
        "grades": [
            {
                "id": passage["id"],
                "grade": output.value,
                "expected": expected(output, scale),
                "probabilities": output.probabilities,
                "reason": output.reason,
            }
            for passage, output in judged
        ],
    }


def expected(output: Grade, scale: Sequence[int]) -> float:
    """The mean grade under an output's probabilities; its grade where it has none."""
    if output.probabilities is None:
        return float(output.value)
    return math.fsum(grade * share for grade, share in zip(scale, output.probabilities, strict=True))


def _falling(scores: Sequence[float]) -> list[float]:
    """Scores that never rise, as near as can be but all different: a run file ranks by score and then by id."""
    found: list[float] = []
    for score in scores:
        found.append(min(score, found[-1] - _STEP) if found else score)
    return found
